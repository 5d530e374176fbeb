"""The rows of `protocol: full`: what each of them ranks, and the target's rank among equal scores.

What a row ranks is every item of the catalogue outside the user's whole history, and the target: RecBole's full sort
hides the history from general models and not from sequential ones, which lets the two kinds rank different lists.
Equal scores are ordered by a fixed shuffle of the catalogue that starts elsewhere in each row, so a model that scores
all alike gets uniform ranks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbole_llm.data.candidate_draw import row_key
from recbole_llm.data.candidate_sets import CandidateSets, candidate_sets


@dataclass(frozen=True)
class FullRows:
    """The rows of one phase with what each of them ranks."""

    sets: CandidateSets
    phase: str
    seed: int

    def __len__(self) -> int:
        return len(self.users)

    @property
    def users(self) -> np.ndarray:
        return getattr(self.sets, self.phase).user_ids

    @property
    def items(self) -> np.ndarray:
        return getattr(self.sets, self.phase).item_ids

    @cached_property
    def target(self) -> np.ndarray:
        """Catalogue index of each row's target. int64 [n]"""
        return np.searchsorted(self.sets.catalogue, self.items)

    @cached_property
    def tie_order(self) -> np.ndarray:
        """A fixed shuffle of 0..M-1. int64 [M]"""
        return np.random.default_rng([self.seed, 3]).permutation(len(self.sets.catalogue))

    @cached_property
    def tie_shift(self) -> np.ndarray:
        """Where the shuffle starts in each row. int64 [n]"""
        return np.random.default_rng([self.seed, 4]).integers(len(self.sets.catalogue), size=len(self))

    @cached_property
    def sha256(self) -> str:
        """Digest of the catalogue and of every row's user and target in order."""
        digest = hashlib.sha256(f"recbole_llm.full.1 {self.phase} {self.seed}\0".encode())
        for column in (self.sets.catalogue, self.users, self.items):
            digest.update("\0".join(column.tolist()).encode("utf-8", "surrogatepass") + b"\1")
        return digest.hexdigest()

    def allowed(self, row: np.ndarray) -> np.ndarray:
        """Which items rows rank: everything but the rest of the user's history. bool [B, M]"""
        mask = np.ones((len(row), len(self.sets.catalogue)), dtype=bool)
        for i, number in enumerate(row.tolist()):
            mask[i, self.sets.histories[self.users[number]]] = False
            mask[i, self.target[number]] = True
        return mask

    def tie_keys(self, row: np.ndarray) -> np.ndarray:
        """Order of equal scores, lower first. int64 [B, M]"""
        return (self.tie_order[None] + self.tie_shift[row][:, None]) % len(self.sets.catalogue)


def full_rows(config, phase: str = "test") -> FullRows:
    """The rows of a phase; they depend on the dataset, its split and `candidate_seed`, not on the model."""
    return FullRows(candidate_sets(config), phase, int(config["candidate_seed"]))


def catalogue_ranks(scores: np.ndarray, rows: FullRows, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank the targets.

    Args:
        scores: ``[B, M]`` by catalogue index, higher is better.
        rows: the rows of the phase.
        row: ``[B]`` row numbers.

    Returns:
        ``(strict [B], average [B], length [B])``: rank from 1 with ties by `tie_keys`, rank with ties sharing their mean,
        number of items ranked.

    Raises:
        ValueError: a score that counts is not finite; names the rows.
    """
    allowed = rows.allowed(row)
    bad = np.flatnonzero((~np.isfinite(scores) & allowed).any(1))
    if len(bad):
        pairs = [(rows.users[row[i]], rows.items[row[i]]) for i in bad[:5]]
        raise ValueError(
            f"scores are not finite in {len(bad)} {rows.phase} rows, first (user, item) {pairs}; check the training"
        )
    here = np.arange(len(row))
    target = scores[here, rows.target[row]][:, None]
    above = ((scores > target) & allowed).sum(1)
    equal = (scores == target) & allowed
    ties = equal.sum(1)
    before = np.zeros(len(row), dtype=np.int64)
    if (tied := np.flatnonzero(ties > 1)).size:
        keys = rows.tie_keys(row[tied])
        own = keys[np.arange(len(tied)), rows.target[row[tied]]][:, None]
        before[tied] = (equal[tied] & (keys < own)).sum(1)
    return 1 + above + before, 1 + above + (ties - 1) / 2, allowed.sum(1)


def shuffled(rows: FullRows, number: int, items: np.ndarray) -> np.ndarray:
    """Retrieved items in an order that depends on (seed, phase, user, target) alone: their place tells nothing."""
    return items[shown_order(rows.seed, rows.phase, rows.users[number], rows.items[number], len(items))]


def shown_order(seed: int, phase: str, user: str, item: str, n: int) -> np.ndarray:
    """A shuffle of 0..n-1 that is a function of its arguments. int64 [n]"""
    key = row_key(seed, phase, user, item)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "little")).permutation(n)

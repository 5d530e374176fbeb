"""`protocol: full`: rank the target in the whole catalogue, on the same rows for every model.

What a row ranks is every item of the catalogue outside the user's whole history, and the target: RecBole's full sort
hides the history from general models and not from sequential ones, which lets the two kinds rank different lists.
Equal scores are ordered by a fixed shuffle of the catalogue that starts elsewhere in each row, so a model that scores
all alike gets uniform ranks.

LLM recommenders cannot score a catalogue title by title: their CRM retrieves `rerank_n` items, the LLM ranks those
(shown in a shuffled order), the rest follow in the CRM's order. A target that was not retrieved keeps the CRM's rank.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import get_model

from recbole_llm.data.candidate_draw import row_key
from recbole_llm.data.candidate_sets import CandidateSets, candidate_sets
from recbole_llm.data.rows import PHASE_FIELD, PHASES, ROW_FIELD
from recbole_llm.evaluation.candidate_collector import CandidateCollector, target_ranks
from recbole_llm.evaluation.candidate_loaders import _CandidateRows

BLOCK = 2**22  # scores ranked at once
PAIRWISE_BLOCK = 2**18  # (row, item) pairs at once, for models that score pair by pair


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
        row: ``[B]`` row numbers.

    Returns:
        ``(strict [B], average [B], length [B])``: rank from 1 with ties by `tie_keys`, rank with ties sharing their
        mean,
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


class FullRowsDataLoader(_CandidateRows, FullSortEvalDataLoader):
    """One line per row for RecBole's full sort, sequential or not, in the order of the row set."""

    def __init__(self, config, dataset, sampler=None, shuffle=False, phase=None):
        self._find_rows(config, dataset, sampler, phase)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def _init_batch_size_and_step(self):
        model = get_model(self.config["model"])
        at_once = getattr(model, "full_sort_predict", None) is not AbstractRecommender.full_sort_predict
        fits = (BLOCK if at_once else PAIRWISE_BLOCK) // self._dataset.item_num
        self.step = max(1, min(self.config["eval_batch_size"], fits))
        self.set_batch_size(self.step)

    @cached_property
    def uid2history_item(self) -> np.ndarray:
        """By internal user id the items that RecBole's `case_study` hides from general models: the history less the target."""
        hidden = np.array([torch.tensor([], dtype=torch.long)] * self._dataset.user_num + [None], dtype=object)[:-1]
        sets = candidate_sets(self.config)
        internal, known = torch.from_numpy(sets.internal_items(self._dataset)), self._dataset.field2token_id[self.uid_field]
        for user, target in zip(self.candidate_set.user_ids.tolist(), self.items[range(len(self.items)), self.position], strict=True):
            seen = internal[sets.histories[user]]
            hidden[known[user]] = seen[seen != target]
        return hidden

    def collate_fn(self, index):
        index = torch.as_tensor(np.asarray(index))  # [B]
        lines = self._lines(index)
        phase = torch.full((len(index),), PHASES.index(self.phase))
        lines.update(Interaction({ROW_FIELD: index, PHASE_FIELD: phase}))
        return lines, None, torch.arange(len(index)), self.items[index, self.position[index]]


class FullCollector(CandidateCollector):
    """Ranks in the whole catalogue: of a baseline's scores [B, item_num], or of an LLM's re-ranked candidates.

    `retrieved` holds, by phase, what the retriever found (`recbole_llm.evaluation.rerank`); it is empty for baselines.
    """

    def __init__(self, config, dataset):
        super().__init__(config)
        self.retrieved: dict = {}
        self._dataset = dataset

    @cached_property
    def _full_rows(self) -> dict[str, FullRows]:
        return {phase: full_rows(self.config, phase) for phase in PHASES}

    @cached_property
    def _internal(self) -> np.ndarray:
        return candidate_sets(self.config).internal_items(self._dataset)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect RecBole's full-sort scores [B, item_num]."""
        phase = PHASES[int(interaction[PHASE_FIELD][0])]
        self._collect_catalogue(scores_tensor, interaction[ROW_FIELD].cpu().numpy(), phase)

    def _collect_catalogue(self, scores, row: np.ndarray, phase: str) -> None:
        """Rank in scores [B, item_num] of rows [B]."""
        scores = scores.detach().float().cpu().numpy()[:, self._internal]  # [B, M]
        rows = self._full_rows[phase]
        strict, average, length = catalogue_ranks(scores, rows, row)
        top = torch.empty(len(row), 0, dtype=torch.long)
        if self.register.need("rec.items"):
            hidden = torch.from_numpy(np.where(rows.allowed(row), scores, -np.inf))
            top = torch.from_numpy(self._internal)[hidden.topk(max(self.topk), dim=1).indices]
        self._keep(phase, row, strict, np.full(len(row), -1), average, length, top)

    def collect_candidate_scores(self, scores, row_index, phase="test", items=None) -> None:
        """Collect an LLM's scores: [B, N] of the retrieved candidates `items` [B, N] (internal ids), or [B, item_num] of all items."""
        scores, row = scores.detach().float().cpu(), np.asarray(torch.as_tensor(row_index).cpu())
        if phase not in self.retrieved:
            return self._collect_catalogue(scores, row, phase)
        found, items = self.retrieved[phase], items.cpu()
        bad = np.flatnonzero(~torch.isfinite(scores).all(1).numpy())
        if len(bad):
            raise ValueError(
                f"candidate scores are not finite in rows {row[bad][:5].tolist()} of {phase}; try llm_dtype: float32"
            )
        target = torch.from_numpy(self._internal[self._full_rows[phase].target[row]])
        here = items == target[:, None]
        position = torch.where(here.any(1), here.int().argmax(1), -1)
        strict, average = target_ranks(scores, position.clamp_min(0))
        crm = torch.from_numpy(found.rank[row])
        strict, average = torch.where(position >= 0, strict, crm), torch.where(position >= 0, average, crm.double())
        top = torch.empty(len(row), 0, dtype=torch.long)
        if self.register.need("rec.items"):
            order = scores.argsort(dim=1, descending=True, stable=True)
            rest = torch.from_numpy(self._internal[found.rest[row]])
            top = torch.cat((items.gather(1, order), rest), dim=1)[:, : max(self.topk)]
        self._keep(phase, row, strict.numpy(), position.numpy(), average.numpy(), found.length[row], top)

    def _keep(self, phase, row, strict, position, average, length, items) -> None:
        if phase != self._phase:
            self.reset()
            self._phase = phase
        columns = (row, strict, position, np.asarray(average, dtype=np.float32))
        row, strict, position, average = (torch.as_tensor(np.ascontiguousarray(column)) for column in columns)
        self._lengths = getattr(self, "_lengths", {})
        self._lengths.update(zip(row.tolist(), length.tolist(), strict=True))
        self._batches.append((row.long(), strict.long(), position.long(), average, items))

    def _fill(self, rank: torch.Tensor, average: torch.Tensor, items: torch.Tensor) -> None:
        super()._fill(rank, average, items)
        one = torch.ones(len(rank), 1)
        lengths = torch.tensor([self._lengths[row] for row in self._finished.row.tolist()], dtype=torch.float)
        self.data_struct.set("rec.meanrank", torch.cat((average[:, None], lengths[:, None], one), dim=1))


def shuffled(rows: FullRows, number: int, items: np.ndarray) -> np.ndarray:
    """Retrieved items in an order that depends on (seed, phase, user, target) alone: their place tells nothing."""
    return items[shown_order(rows.seed, rows.phase, rows.users[number], rows.items[number], len(items))]


def shown_order(seed: int, phase: str, user: str, item: str, n: int) -> np.ndarray:
    """A shuffle of 0..n-1 that is a function of its arguments. int64 [n]"""
    key = row_key(seed, phase, user, item)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "little")).permutation(n)

"""Which training rows an LLM is fine-tuned on: a seeded sample (`train_sample_size`, `train_sample_by`).

Evaluation under `candidates` and `full` has one row per user. Rows drawn one as likely as another are mostly those of the
busiest users, whose targets are rarer items than most users' next ones; so there the sample goes round the users.
"""

from __future__ import annotations

import numpy as np


def sample_users(config, split) -> np.ndarray | None:
    """Each training row's user where the sample goes round users (`train_sample_by`), else None. [rows]"""
    by = config["train_sample_by"]
    if by == "rows" or (by == "auto" and config["protocol"] == "ctr"):
        return None
    return split.inter_feat[split.uid_field].numpy()


def sample_size(n: int, size) -> int:
    """Rows that `train_sample_size` asks for of n: a count, a share, or all where it is None."""
    if size is None:
        return n
    return round(size * n) if isinstance(size, float) and size <= 1 else int(size)


def sample_rows(
    n: int, size, seed: int, users: np.ndarray | None = None, labels: np.ndarray | None = None
) -> np.ndarray:
    """Sorted row numbers of a seeded sample of n rows; a smaller sample is part of a larger one.

    size : a count, a share, or None for all rows.
    users : with them, users take turns: each gives one row before any gives its second, as long as it has one. [n]
    labels : with them, each label keeps its share of the rows (to the nearest row). [n]

    Raises
    ------
    ValueError
        If `size` is more than the rows there are, or leaves none.
    """
    if size is None:
        return np.arange(n)
    count = sample_size(n, size)
    if not 1 <= count <= n:
        raise ValueError(
            f"train_sample_size={size} asks for {count} of {n} training rows; use 1 to {n}, a share, or null"
        )
    order = np.random.default_rng([seed, 1]).permutation(n)
    if users is not None:
        order = order[np.argsort(_turn(users[order]), kind="stable")]
    if labels is None:
        return np.sort(order[:count])
    liked = labels[order] > 0.5
    n_liked = round(count * liked.mean())
    return np.sort(np.concatenate([order[liked][:n_liked], order[~liked][: count - n_liked]]))


def _turn(users: np.ndarray) -> np.ndarray:
    """How many rows before it are of the same user. [n]"""
    grouped = np.argsort(users, kind="stable")
    _, first, counts = np.unique(users[grouped], return_index=True, return_counts=True)
    turn = np.empty(len(users), dtype=np.int64)
    turn[grouped] = np.arange(len(users)) - np.repeat(first, counts)
    return turn

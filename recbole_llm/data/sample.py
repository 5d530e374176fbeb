"""Which rows a model learns from and is measured on: seeded samples (`train_sample_size`, `valid_sample_size`, `test_sample_size`)."""

import hashlib
import logging

import numpy as np


def sample_rows(n: int, size, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Sorted row numbers of a seeded sample of n rows; a smaller sample is part of a larger one.

    Args:
        n: number of rows.
        size: a count, a share, or None for all rows. A count above n, which a default may be for a small dataset, is all
            of them, with a warning.
        seed: of the draw.
        labels: with them, each label keeps its share of the rows, to the nearest row. [n]

    Raises:
        ValueError: `size` leaves no row.
    """
    if size is None:
        return np.arange(n)
    count = round(size * n) if isinstance(size, float) and size <= 1 else int(size)
    if count < 1:
        raise ValueError(f"train_sample_size={size} leaves no training row of {n}; use an int >= 1, a larger share, or null")
    if count > n:
        logging.getLogger().warning(f"train_sample_size={size}, but there are {n} training rows: all of them are used")
    count = min(count, n)
    order = np.random.default_rng([seed, 1]).permutation(n)
    if labels is None:
        return np.sort(order[:count])
    liked = labels[order] > 0.5
    n_liked = round(count * liked.mean())
    return np.sort(np.concatenate([order[liked][:n_liked], order[~liked][: count - n_liked]]))


def sample_evaluation_rows(n: int, size: int | None, seed: int, phase: str) -> np.ndarray:
    """Sorted row numbers of a seeded sample of n validation or test rows; a smaller sample is part of a larger one.

    Args:
        n: number of rows.
        size: a count; None, or one above n, is all rows.
        seed: of the draw.
        phase: "valid" or "test", which are sampled independently.
    """
    if size is None:
        return np.arange(n)
    generator = np.random.default_rng(seed if phase == "valid" else [seed, 5])
    return np.sort(generator.permutation(n)[:size])


def train_sample(train) -> dict | None:
    """Which training rows the LLM saw: their numbers in the training split, in order, and their digest."""
    sample = getattr(getattr(train, "batches", None), "sample", None)
    if sample is None:
        return None
    text = " ".join(map(str, sample.tolist()))
    return {"count": len(sample), "sha256": hashlib.sha256(text.encode()).hexdigest(), "rows": text}

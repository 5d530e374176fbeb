"""Made-up worlds of items and users: vectors from random low-rank factor models with clusters, popularity and drift.

A world stands for what a recommender knows of a dataset: item vectors whose inner products with a user's vector are
scores. Vectors are centred and scaled to unit mean square, as :class:`~recbole_llm.builtin.slots.Projector` expects.
"""

from __future__ import annotations

import numpy as np

DIMENSIONS = (32, 64, 128)


class World:
    """``n_items`` vectors ``[n_items, d]``, and users who choose among them.

    Args:
        rng: every draw comes from it.
        d: width of the vectors.
        n_items: items in the world.
        popular: range of how strongly a direction of the vectors says how often an item is chosen. A recommender's
            item vectors have such a direction, and histories, full of what is popular, have it in common.
    """

    def __init__(self, rng: np.random.Generator, d: int, n_items: int = 400, popular: tuple[float, float] = (0.0, 0.0)):
        self.rng = rng
        rank = int(rng.integers(6, min(d, 40) + 1))
        spectrum = np.arange(1, rank + 1) ** -rng.uniform(0.0, 0.6)
        centres = rng.normal(size=(int(rng.integers(8, 60)), rank))
        mixing = rng.uniform(0.2, 0.8)
        cluster = rng.integers(len(centres), size=n_items)
        factors = mixing * centres[cluster] + (1 - mixing) * rng.normal(size=(n_items, rank))
        factors *= spectrum * np.exp(rng.uniform(0, 0.25) * rng.normal(size=(n_items, 1)))
        vectors = factors @ rng.normal(size=(rank, d)) + rng.uniform(0, 0.2) * rng.normal(size=(n_items, d))
        self.vectors = _standard(vectors)
        self.popularity = rng.uniform(0, 0.5) * rng.normal(size=n_items)
        self.d, self.n_items = d, n_items
        if popular[1] > 0:
            self._popular(rng.uniform(*popular))
        if rng.random() < 0.7:  # lengths vary little, as those of trained embeddings do
            lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
            spread = np.exp(rng.uniform(0.1, 0.25) * rng.normal(size=(n_items, 1)))
            self.vectors = _standard(self.vectors / lengths * spread)

    def _popular(self, strength: float) -> None:
        rng = self.rng
        often, direction = rng.normal(size=self.n_items), rng.normal(size=self.d)
        direction *= strength * np.sqrt(self.d) / np.linalg.norm(direction)
        self.vectors = _standard(self.vectors + np.outer(often, direction))
        self.popularity = self.popularity + rng.uniform(1.0, 4.0) * often

    def histories(self, users: int, length: int, sharpness: float) -> np.ndarray:
        """Items of ``users`` users, oldest first ``[users, length]``: taste drifts while items are drawn."""
        rng, scale = self.rng, sharpness / self.d
        taste = self.vectors[rng.integers(self.n_items, size=users)]
        later = self.vectors[rng.integers(self.n_items, size=users)]
        drift, steps = rng.uniform(0, 0.5), np.linspace(0, 1, length)[None, :, None]
        tastes = taste[:, None] * (1 - drift * steps) + later[:, None] * drift * steps
        scores = tastes @ self.vectors.T * scale + self.popularity
        scores += rng.gumbel(size=(users, 1, self.n_items))  # one draw per user: later items differ by drift alone
        chosen = np.empty((users, length), dtype=np.int64)
        rows = np.arange(users)
        for step in range(length):
            chosen[:, step] = scores[:, step].argmax(1)
            scores[rows, :, chosen[:, step]] = -np.inf
        order = rng.permuted(np.tile(np.arange(length), (users, 1)), axis=1) if drift < 0.1 else None
        return chosen if order is None else np.take_along_axis(chosen, order, 1)

    def summary(self, items: np.ndarray, decay: float = 0.75) -> np.ndarray:
        """What a history says: the mean of its vectors, recent ones weighing more; ``[users, d]``."""
        weights = decay ** np.arange(items.shape[1])[::-1]
        return np.einsum("l,uld->ud", weights / weights.sum(), self.vectors[items]).astype(np.float32)

    def candidates(
        self, query: np.ndarray, excluded: list[int], count: int, margin: float, soft: float = 0.0
    ) -> tuple[np.ndarray, int]:
        """A list of candidates and its answer: the best one (:meth:`choices`), or in a share ``soft`` of long lists any,
        the likelier the better, among items drawn at random. What users choose is never surely the best.
        """
        if count < 12 or self.rng.random() >= soft:
            return self.choices(query, excluded, count, margin)
        scores = self.vectors @ query
        items = self.rng.choice(np.flatnonzero(self._allowed(excluded)), size=count, replace=False)
        odds = np.exp(self.rng.uniform(2.0, 4.0) * (scores[items] - scores[items].max()) / scores.std())
        return items, int(self.rng.choice(count, p=odds / odds.sum()))

    def _allowed(self, excluded: list[int]) -> np.ndarray:
        allowed = np.ones(self.n_items, dtype=bool)
        allowed[[item for item in excluded if item < self.n_items]] = False  # rows beyond are users' vectors
        return allowed

    def choices(self, query: np.ndarray, excluded: list[int], count: int, margin: float) -> tuple[np.ndarray, int]:
        """Candidates for one query vector ``[d]``: the best of the world's nearest few, and worse ones.

        Returns:
            ``(items [count], position)``: the item at ``position`` has the largest inner product with ``query``, ahead
            by at least ``margin`` standard deviations of the scores where the world has such items.
        """
        rng, scores, allowed = self.rng, self.vectors @ query, self._allowed(excluded)
        ranked = np.flatnonzero(allowed)[np.argsort(-scores[allowed])]
        target = ranked[int(rng.integers(max(1, len(ranked) // 12)))]
        below = np.flatnonzero(allowed & (scores < scores[target] - margin * scores.std()))
        if len(below) < count - 1:
            below = ranked[-(count - 1) * 2 :]
            below = below[below != target]
        items = rng.choice(below, size=count - 1, replace=False)
        position = int(rng.integers(count))
        return np.insert(items, position, target), position


def _standard(vectors: np.ndarray) -> np.ndarray:
    """Centred, of unit mean square."""
    vectors = vectors - vectors.mean(0)
    return (vectors / np.sqrt((vectors**2).mean())).astype(np.float32)

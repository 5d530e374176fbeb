"""Made-up rows of `protocol: full`."""

from types import SimpleNamespace

import numpy as np

from recbole_llm.data.candidates import CandidateSet
from recbole_llm.data.rows import Histories
from recbole_llm.evaluation.full_rows import FullRows


def full_rows_of(n: int = 2000, m: int = 50, history: int = 5, seed: int = 0) -> FullRows:
    """Rows of n users who each know `history` items of m."""
    rng = np.random.default_rng(seed)
    catalogue = np.array(sorted(f"i{j:03d}" for j in range(m)))
    users = np.array([f"u{i:05d}" for i in range(n)])
    known = np.sort(np.stack([rng.permutation(m)[:history] for _ in range(n)]), axis=1).astype(np.int32)
    target = known[np.arange(n), rng.integers(history, size=n)]
    candidates = np.stack([target, (target + 1) % m], axis=1).astype(np.int32)
    test = CandidateSet("test", 0, users, catalogue[target], catalogue, candidates, np.zeros(n, dtype=np.int16))
    histories = Histories(users, np.arange(0, history * n + 1, history), known.ravel())
    return FullRows(SimpleNamespace(catalogue=catalogue, histories=histories, test=test), "test", 0)

"""Intervals and paired tests on stored rows, from scipy and statsmodels; imports nothing else of the package.

The unit is a user. With several seeds a user's value is the mean over seeds, so that intervals speak of users and the
spread over seeds stays a column of its own. All rows of a table are resampled with the *same* users, which makes every
difference a paired one. Metrics are ratios of sums over users (a user with two test rows weighs twice). scipy's bootstrap
draws indices for one statistic at a time: [resamples, users] numbers for each row, where one product with counts gives all rows.

- intervals: Wilson for Hit@k of one seed, for AUC see labelled.py, else the bootstrap percentile interval over users;
- pairs: exact McNemar for Hit@k of one seed; paired bootstrap for everything else; for AUC see labelled.py;
- Holm over all pairs of a table; a row's rank is 1 + the number of rows that are significantly better.
"""

from __future__ import annotations

import math
import re

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 10_000
_BLOCK = 2**21  # resampled counts held at once (float64: 16 MiB)
_RESOLVED = 20  # a bootstrap tail with fewer resamples than this is taken from the normal distribution


def ranking_values(rank: np.ndarray, metric: str) -> np.ndarray:
    """Per-row values of ``hit@k``, ``ndcg@k`` or ``mrr@k`` from ranks that count from 1. float64 [n].

    Raises:
        ValueError: the metric is not one of these.
    """
    match = re.fullmatch(r"(hit|ndcg|mrr)@(\d+)", metric)
    if not match:
        raise ValueError(f"metric {metric!r} does not follow from ranks; use hit@k, ndcg@k or mrr@k")
    name, cutoff = match.group(1), int(match.group(2))
    rank = np.asarray(rank, dtype=np.float64)
    value = {"hit": np.ones_like(rank), "ndcg": 1 / np.log2(rank + 1), "mrr": 1 / rank}[name]
    return np.where(rank <= cutoff, value, 0.0)


def resampled_means(sums: np.ndarray, weights: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of M columns under resampling of users with replacement, the same users in every column.

    Args:
        sums: ``[U, M]`` a user's summed values.
        weights: ``[U, M]`` or ``[U, 1]`` the rows behind them.

    Returns:
        ``[resamples, M]``
    """
    n = len(sums)
    rng = np.random.default_rng(seed)
    both = np.hstack([sums, weights]).astype(np.float64)  # [U, M + W]
    columns = sums.shape[1]
    out = np.empty((resamples, columns))
    step = max(1, _BLOCK // max(n, 1))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, n, (size, n), dtype=np.int32) + (np.arange(size, dtype=np.int32) * n)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        totals = counts.astype(np.float64) @ both
        out[start : start + size] = totals[:, :columns] / totals[:, columns:]
    return out


def percentile_interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The central ``confidence`` of bootstrap samples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def wilson_interval(hits: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    low, high = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def bootstrap_p(samples: np.ndarray, observed: float, units: float = math.inf) -> float:
    """Two-sided p-value of a paired difference.

    The share of resampled differences as far from ``observed`` as zero is. Where too few are for the share to mean
    anything, the normal tail at the bootstrap's standard error: Holm over many rows needs small p-values. Where all of
    ``units`` users differ alike, resampling says nothing, and the exact sign test's p is the least there can be.
    """
    spread = samples - observed
    extreme = int(np.count_nonzero(np.abs(spread) >= abs(observed) - 1e-12))
    if extreme >= _RESOLVED:
        return (extreme + 1) / (len(samples) + 1)
    error = float(np.std(samples, ddof=1))
    if error < 1e-12:
        return 1.0 if abs(observed) < 1e-12 else min(1.0, max(1 / (len(samples) + 1), 2 * 0.5**units))
    return float(2 * stats.norm.sf(abs(observed) / error))


def mcnemar_p(a: np.ndarray, b: np.ndarray) -> float:
    """Exact McNemar test of two columns of decisions, 0 or 1 each. [n]"""
    a, b = np.asarray(a) > 0.5, np.asarray(b) > 0.5
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return float(mcnemar(table, exact=True).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values, in the order given."""
    return multipletests(p, method="holm")[1] if len(p) else np.empty(0)


def shared_ranks(differences: np.ndarray, adjusted: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Rank = 1 + the number of rows significantly better.

    Args:
        differences: ``[R, R]`` row less column; higher is better.
        adjusted: ``[R, R]`` symmetric adjusted p-values.
    """
    return 1 + ((differences < 0) & (adjusted < alpha)).sum(1)


def detectable_difference(deviation: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a paired test of n users finds with ``power``.

    Args:
        deviation: standard deviation of the paired differences.
        n: users.
        alpha: level of the test.
        power: the probability of finding it.
    """
    if n < 3 or deviation <= 0:
        return math.nan
    return float(TTestPower().solve_power(nobs=n, alpha=alpha, power=power) * deviation)


def flatness_p(hits: np.ndarray, totals: np.ndarray) -> float:
    """Chi-square test that hits per group share one rate; nan where there are no hits, no misses or a single group."""
    hits, totals = np.asarray(hits, dtype=float), np.asarray(totals, dtype=float)
    kept = totals > 0
    table = np.stack([hits[kept], (totals - hits)[kept]])
    if table.shape[1] < 2 or (table.sum(1) == 0).any():
        return math.nan
    return float(stats.chi2_contingency(table, correction=False).pvalue)

"""Intervals and paired tests on stored rows, from scipy and statsmodels; imports nothing else of the package.

The unit is a user. With several seeds a user's value is the mean over seeds, so that intervals speak of users and the
spread over seeds stays a column of its own. All rows of a table are resampled with the *same* users, which makes every
difference a paired one. Metrics are ratios of sums over users (a user with two test rows weighs twice).

- intervals: Wilson for Hit@k of one seed, else the bootstrap percentile interval over users;
- pairs: exact McNemar for Hit@k of one seed; paired bootstrap for everything else; for AUC the DeLong variance of the
  paired difference with users as clusters (Obuchowski, Biometrics 1997);
- Holm over all pairs of a table; a row's rank is 1 + the number of rows that are significantly better.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

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


def wilcoxon_p(a: np.ndarray, b: np.ndarray) -> float:
    """Wilcoxon's signed-rank test of paired values; 1 where no pair differs."""
    difference = np.asarray(a) - np.asarray(b)
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


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

    deviation: standard deviation of the paired differences.
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


@dataclass(frozen=True)
class AUC:
    """An AUC with what its variance is made of: ``influence`` [U] sums to zero, its squares to the variance."""

    value: float
    influence: np.ndarray

    @property
    def error(self) -> float:
        return clustered_error(self.influence)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        reach = stats.norm.ppf((1 + confidence) / 2) * self.error
        return max(0.0, self.value - reach), min(1.0, self.value + reach)


def auc(label: np.ndarray, score: np.ndarray, cluster: np.ndarray) -> AUC:
    """DeLong's AUC with rows of one cluster (user) dependent.

    Args:
        label: ``[n]`` 0 or 1; score: ``[n]``; cluster: ``[n]`` user numbers 0..U-1.

    Raises:
        ValueError: one class only.
    """
    label, score = np.asarray(label) > 0.5, np.asarray(score, dtype=np.float64)
    m, k = int(label.sum()), int((~label).sum())
    if not m or not k:
        raise ValueError("AUC is undefined: all rows have one label")
    ranks = stats.rankdata(score)
    placement = np.empty(len(score))  # share of the other class that a row is ordered rightly against, ties half
    placement[label] = (ranks[label] - stats.rankdata(score[label])) / k
    placement[~label] = 1 - (ranks[~label] - stats.rankdata(score[~label])) / m
    value = float(placement[label].mean())
    part = np.where(label, (placement - value) / m, (placement - value) / k)
    return AUC(value, np.bincount(cluster, weights=part, minlength=int(cluster.max()) + 1))


def labelled_sums(
    name: str, label: np.ndarray, score: np.ndarray, unit: np.ndarray, n_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """A user's summed values of ``logloss``, ``acc`` or ``gauc`` and their weights, [U] each; the metric is sum over sum.

    As RecBole weighs GAUC, a user's AUC counts by their liked rows, and users with one class weigh nothing.

    Args:
        label, score: [n]; unit: [n] user numbers.
    """
    if name != "gauc":
        p = np.clip(score, 1e-15, 1 - 1e-15)
        loss = -(label * np.log(p) + (1 - label) * np.log(1 - p))
        value = loss if name == "logloss" else ((score >= 0.5) == (label > 0.5)).astype(float)
        return np.bincount(unit, value, n_users), np.bincount(unit, minlength=n_users).astype(float)
    sums, weights = np.zeros(n_users), np.zeros(n_users)
    order = np.argsort(unit, kind="stable")
    bounds = np.searchsorted(unit[order], np.arange(n_users + 1))
    for user in range(n_users):
        own = order[bounds[user] : bounds[user + 1]]
        if 0 < label[own].sum() < len(own):
            weights[user] = label[own].sum()
            sums[user] = weights[user] * auc(label[own], score[own], np.zeros(len(own), dtype=int)).value
    return sums, weights


def labelled_value(name: str, label: np.ndarray, score: np.ndarray, user: np.ndarray) -> float:
    """``auc``, ``logloss``, ``acc`` or ``gauc`` of labelled rows."""
    _, unit = np.unique(user, return_inverse=True)
    if name == "auc":
        return auc(label, score, unit).value
    sums, weights = labelled_sums(name, label, score, unit, int(unit.max()) + 1)
    return float(sums.sum() / weights.sum())


def clustered_error(influence: np.ndarray) -> float:
    """Standard error from per-user influences; infinite with one user, who says nothing of others."""
    n = len(influence)
    return float(math.sqrt(np.square(influence).sum() * n / (n - 1))) if n > 1 else math.inf


def normal_p(difference: float, error: float) -> float:
    """Two-sided p-value of a difference with a standard error."""
    if error < 1e-15:
        return 1.0 if abs(difference) < 1e-15 else 0.0
    return float(2 * stats.norm.sf(abs(difference) / error))

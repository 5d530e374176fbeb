"""Metrics of labelled rows (protocol ``ctr``), with rows of one user dependent.

The variance of an AUC, and of the paired difference of two, is DeLong's with users as clusters (Obuchowski, Biometrics 1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


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
        label: ``[n]`` 0 or 1.
        score: ``[n]``.
        cluster: ``[n]`` user numbers 0..U-1.

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
        name: the metric.
        label: ``[n]`` 0 or 1.
        score: ``[n]`` probabilities.
        unit: ``[n]`` user numbers.
        n_users: of them.
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

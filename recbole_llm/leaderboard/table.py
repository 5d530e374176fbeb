"""From stored rows to the numbers of a table: means with intervals, all paired tests, shared ranks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.files import Stored

CONFIDENCE, ALPHA = 0.95, 0.05
DEFAULT_METRICS = {
    "candidates": ("hit@1", "hit@5", "ndcg@5", "ndcg@10", "mrr@10"),
    "full": ("hit@10", "ndcg@10", "mrr@10", "hit@1"),
    "ctr": ("auc", "gauc", "logloss", "acc"),
}
MAIN = {"candidates": "hit@1", "full": "ndcg@10", "ctr": "auc"}
LOWER_IS_BETTER = {"logloss"}


@dataclass
class Column:
    """One metric over all rows of a table.

    Attributes:
        sums, weights: ``[U, R]`` per user, averaged over seeds; None for AUC.
        samples: ``[resamples, R]`` bootstrap means; None for AUC.
        auc: per row, its AUC with influences (averaged over seeds); None for other metrics.
        values: ``[R]`` means over seeds, nan where a row does not have the metric.
        decisions: ``[n, R]`` 0/1 per test row where McNemar and Wilson apply, else None.
    """

    name: str
    values: np.ndarray
    per_seed: list[list[float]]
    sums: np.ndarray | None = None
    weights: np.ndarray | None = None
    samples: np.ndarray | None = None
    auc: list | None = None
    decisions: np.ndarray | None = None

    @property
    def sign(self) -> int:
        return -1 if self.name in LOWER_IS_BETTER else 1

    def interval(self, row: int) -> tuple[float, float, str]:
        """(low, high, how) of one row's mean."""
        if np.isnan(self.values[row]):
            return np.nan, np.nan, "none"
        if self.auc is not None:
            return *self.auc[row].interval(CONFIDENCE), "delong"
        low, high = st.percentile_interval(self.samples[:, row], CONFIDENCE)
        single = self.decisions is not None
        if single or (high - low < 1e-12 and self.name.startswith("hit@")):
            n = len(self.sums)
            return *st.wilson_interval(float(self.values[row]) * n, n, CONFIDENCE), "wilson"
        return low, high, "bootstrap"

    def compare(self, a: int, b: int) -> dict:
        """Row ``a`` against row ``b``: difference (a - b), its interval, p-value and the test's name."""
        difference = float(self.values[a] - self.values[b])
        if np.isnan(difference):
            return {"difference": None, "low": None, "high": None, "p": None, "test": None}
        if self.auc is not None:
            error = st.clustered_error(self.auc[a].influence - self.auc[b].influence)
            reach = 1.959963984540054 * error
            low, high = max(-1.0, difference - reach), min(1.0, difference + reach)
            p, test = st.normal_p(difference, error), "delong"
        else:
            samples = self.samples[:, a] - self.samples[:, b]
            low, high = st.percentile_interval(samples, CONFIDENCE)
            if self.decisions is not None:
                p, test = st.mcnemar_p(self.decisions[:, a], self.decisions[:, b]), "mcnemar"
            else:
                p, test = st.bootstrap_p(samples, difference, len(self.sums)), "bootstrap"
        return {"difference": difference, "low": low, "high": high, "p": p, "test": test}

    def deviation(self, a: int, b: int) -> float:
        """Standard deviation of the paired per-user differences, in units of the metric."""
        if self.auc is not None:
            return st.clustered_error(self.auc[a].influence - self.auc[b].influence) * len(self.auc[a].influence) ** 0.5
        return float(np.std((self.sums[:, a] - self.sums[:, b]) / self.weights[:, 0].mean(), ddof=1))


def build_column(name: str, protocol: str, groups: list[list[Stored]], resamples: int, seed: int) -> Column:
    """One metric's column for rows given as their seeds' stored results."""
    rows = groups[0][0].rows
    _, unit = np.unique(rows["user_id"].to_numpy(dtype=str), return_inverse=True)  # [n] user numbers
    present = [all(name in entry.record["metrics"] or protocol != "ctr" for entry in group) for group in groups]
    if name == "auc":
        return _auc_column(name, groups, unit, present)
    n_users = int(unit.max()) + 1 if len(unit) else 0
    sums, weights, per_seed = [], [], []
    for group, there in zip(groups, present, strict=True):
        seeds = [_unit_sums(name, protocol, entry, unit, n_users) for entry in group] if there else []
        per_seed.append([float(s.sum() / w.sum()) for s, w in seeds])
        sums.append(np.mean([s for s, _ in seeds], axis=0) if there else np.full(n_users, np.nan))
        weights.append(seeds[0][1] if there else np.ones(n_users))
    sums, weights = np.stack(sums, axis=1), np.stack(weights, axis=1)  # [U, R]
    shared = weights[:, :1] if (weights == weights[:, :1]).all() else weights
    samples = st.resampled_means(np.nan_to_num(sums), shared, resamples, seed)
    values = np.array([np.mean(found) if found else np.nan for found in per_seed])
    single = name.startswith("hit@") and n_users == len(unit) and all(len(group) == 1 for group in groups)
    decisions = None
    if single:
        decisions = np.stack([st.ranking_values(group[0].rows["rank"], name) for group in groups], axis=1)
    return Column(name, values, per_seed, sums, weights, samples, None, decisions)


def _unit_sums(
    name: str, protocol: str, entry: Stored, unit: np.ndarray, n_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """A user's summed values and the rows behind them, [U] each."""
    rows = entry.rows
    if protocol != "ctr":
        value = st.ranking_values(rows["rank"].to_numpy(), name)
        return np.bincount(unit, value, n_users), np.bincount(unit, minlength=n_users).astype(float)
    return st.labelled_sums(name, rows["label"].to_numpy(float), rows["score"].to_numpy(float), unit, n_users)


def _auc_column(name, groups, unit, present) -> Column:
    values, per_seed, found = [], [], []
    for group, there in zip(groups, present, strict=True):
        if not there:
            values.append(np.nan)
            per_seed.append([])
            found.append(st.AUC(np.nan, np.zeros(int(unit.max()) + 1)))
            continue
        seeds = [st.auc(e.rows["label"].to_numpy(), e.rows["score"].to_numpy(float), unit) for e in group]
        per_seed.append([one.value for one in seeds])
        values.append(np.mean(per_seed[-1]))
        found.append(st.AUC(values[-1], np.mean([one.influence for one in seeds], axis=0)))
    return Column(name, np.array(values), per_seed, auc=found)


@dataclass
class Pairs:
    """All paired tests of one metric: ``tests[a, b]`` for a < b, and Holm's p-values ``[R, R]`` over the table."""

    tests: dict[tuple[int, int], dict]
    adjusted: np.ndarray

    def against(self, a: int, b: int) -> dict:
        """Row ``a`` against row ``b``, with ``p_holm``."""
        if a < b:
            return self.tests[a, b] | {"p_holm": float(self.adjusted[a, b])}
        test = dict(self.tests[b, a])
        if test["difference"] is not None:
            test |= {"difference": -test["difference"], "low": -test["high"], "high": -test["low"]}
        return test | {"p_holm": float(self.adjusted[a, b])}


def all_pairs(column: Column) -> Pairs:
    """Every pair of rows, Holm over all of them (rows without the metric take no part)."""
    count = len(column.values)
    pairs = list(combinations(range(count), 2))
    tests = {(a, b): column.compare(a, b) for a, b in pairs}
    tested = [pair for pair in pairs if tests[pair]["p"] is not None]
    adjusted = np.ones((count, count))
    corrected = st.holm(np.array([tests[pair]["p"] for pair in tested]))
    for (a, b), p in zip(tested, corrected, strict=True):
        adjusted[a, b] = adjusted[b, a] = p
    return Pairs(tests, adjusted)

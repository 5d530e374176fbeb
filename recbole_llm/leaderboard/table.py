"""From stored rows to the numbers of a table: means with intervals, all paired tests, shared ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from recbole_llm import registry
from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.files import Stored
from recbole_llm.leaderboard.labelled import AUC, auc, clustered_error, labelled_sums, normal_p

CONFIDENCE, ALPHA = 0.95, 0.05


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
        seeds: per row, its seeds.
        narrower: by seeds, the column of the rows that have all of these, on these alone, and each row's place in it.
    """

    name: str
    values: np.ndarray
    per_seed: list[list[float]]
    sums: np.ndarray | None = None
    weights: np.ndarray | None = None
    samples: np.ndarray | None = None
    auc: list | None = None
    decisions: np.ndarray | None = None
    seeds: list[frozenset[int]] = field(default_factory=list)
    narrower: dict[frozenset[int], tuple[Column, dict[int, int]]] = field(default_factory=dict)

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

    def paired(self, a: int, b: int) -> tuple[Column, int, int]:
        """The column, and the rows' places in it, where both are means over the same seeds, if they share any.

        A seed is a CRM, too: one seed of an LLM recommender against three of the CRM that it reads would
        compare CRMs.
        """
        column, places = self.narrower.get(self.seeds[a] & self.seeds[b], (self, {a: a, b: b}))
        return column, places[a], places[b]

    def compare(self, a: int, b: int) -> dict:
        """Row ``a`` against row ``b`` on the seeds that both have: difference (a - b), its interval, p-value and the test's name."""
        column, a, b = self.paired(a, b)
        return column._compare(a, b)

    def _compare(self, a: int, b: int) -> dict:
        difference = float(self.values[a] - self.values[b])
        if np.isnan(difference):
            return {"difference": None, "low": None, "high": None, "p": None, "test": None}
        if self.auc is not None:
            error = clustered_error(self.auc[a].influence - self.auc[b].influence)
            reach = 1.959963984540054 * error
            low, high = max(-1.0, difference - reach), min(1.0, difference + reach)
            p, test = normal_p(difference, error), "delong"
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
        column, a, b = self.paired(a, b)
        if column.auc is not None:
            influences = column.auc[a].influence - column.auc[b].influence
            return clustered_error(influences) * len(influences) ** 0.5
        return float(np.std((column.sums[:, a] - column.sums[:, b]) / column.weights[:, 0].mean(), ddof=1))

    def users(self, a: int, b: int) -> dict[str, int] | None:
        """On how many users row ``a`` does better than (wins), as well as and worse than row ``b``; None for AUC."""
        column, a, b = self.paired(a, b)
        if column.sums is None:
            return None
        difference = column.sign * (column.sums[:, a] - column.sums[:, b])
        better, worse = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
        return {"wins": better, "ties": len(difference) - better - worse, "losses": worse}


def build_column(name: str, protocol: str, groups: list[list[Stored]], resamples: int, seed: int) -> Column:
    """One metric's column for rows given as their seeds' stored results."""
    column = _column(name, protocol, groups, resamples, seed)
    column.seeds = [frozenset(entry.record["seed"] for entry in group) for group in groups]
    for shared in {a & b for a, b in combinations(column.seeds, 2) if a != b} - {frozenset()}:
        having = [row for row, seeds in enumerate(column.seeds) if shared <= seeds]
        kept = [[entry for entry in groups[row] if entry.record["seed"] in shared] for row in having]
        narrow = _column(name, protocol, kept, resamples, seed)
        column.narrower[shared] = narrow, {row: place for place, row in enumerate(having)}
    return column


def _column(name: str, protocol: str, groups: list[list[Stored]], resamples: int, seed: int) -> Column:
    rows = groups[0][0].rows
    _, unit = np.unique(rows["user_id"].to_numpy(dtype=str), return_inverse=True)  # [n] user numbers
    labelled = registry.protocol(protocol).labelled
    present = [all(name in entry.record["metrics"] or not labelled for entry in group) for group in groups]
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
    if not registry.protocol(protocol).labelled:
        value = st.ranking_values(rows["rank"].to_numpy(), name)
        return np.bincount(unit, value, n_users), np.bincount(unit, minlength=n_users).astype(float)
    return labelled_sums(name, rows["label"].to_numpy(float), rows["score"].to_numpy(float), unit, n_users)


def _auc_column(name, groups, unit, present) -> Column:
    values, per_seed, found = [], [], []
    for group, there in zip(groups, present, strict=True):
        if not there:
            values.append(np.nan)
            per_seed.append([])
            found.append(AUC(np.nan, np.zeros(int(unit.max()) + 1)))
            continue
        seeds = [auc(e.rows["label"].to_numpy(), e.rows["score"].to_numpy(float), unit) for e in group]
        per_seed.append([one.value for one in seeds])
        values.append(np.mean(per_seed[-1]))
        found.append(AUC(values[-1], np.mean([one.influence for one in seeds], axis=0)))
    return Column(name, np.array(values), per_seed, auc=found)


@dataclass
class Pairs:
    """All paired tests of one metric: ``tests[a, b]`` for a < b, and Holm's p-values ``[R, R]`` over the table.

    ``differences [R, R]`` are those that the tests are of, row less column (0 where there is none).
    """

    tests: dict[tuple[int, int], dict]
    adjusted: np.ndarray
    differences: np.ndarray

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
    adjusted, differences = np.ones((count, count)), np.zeros((count, count))
    corrected = st.holm(np.array([tests[pair]["p"] for pair in tested]))
    for (a, b), p in zip(tested, corrected, strict=True):
        adjusted[a, b] = adjusted[b, a] = p
        differences[a, b] = tests[a, b]["difference"]
        differences[b, a] = -differences[a, b]
    return Pairs(tests, adjusted, differences)

"""Two runs on the rows they share: what RecBole's significance_test.py is for, with the same tests as the tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from recbole_llm import registry
from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.files import Stored, read_stored
from recbole_llm.leaderboard.table import build_column


def compare_files(a: str | Path, b: str | Path, resamples: int | None = None) -> str:
    """The paired comparison of two result files as text.

    Raises:
        ValueError: different datasets, protocols or candidates, or no common test row.
    """
    one, other = read_stored(a), read_stored(b)
    for key in ("dataset", "protocol"):
        if one.record[key] != other.record[key]:
            raise ValueError(f"{a} and {b} have different {key}s, {one.record[key]!r} and {other.record[key]!r}")
    one, other, common = _common(one, other)
    if one.sha256 != other.sha256:
        raise ValueError(
            f"{a}{one.other_rules} and {b}{other.other_rules} ranked different candidates (sha256 "
            f"{str(one.sha256)[:12]} and {str(other.sha256)[:12]}): "
            "no difference between them means anything; run one of them again"
        )
    head = f"{one.name} (seed {one.record['seed']}) against {other.name} (seed {other.record['seed']}), {common} common test rows"
    table = _tests(one, other, resamples or st.RESAMPLES)
    for row, p in zip(table, st.holm(np.array([row[5] for row in table])), strict=True):
        row.insert(6, p)
    heads = ["metric", one.name, other.name, "difference", "95% interval", "p", "p (Holm)", "test", "users W/T/L"]
    return f"{head}\n" + tabulate(table, headers=heads, floatfmt=("", ".4f", ".4f", "+.4f", "", ".4g", ".4g"))


def _tests(one: Stored, other: Stored, resamples: int) -> list[list]:
    """A row for every metric that both have."""
    protocol, table = registry.protocol(one.record["protocol"]), []
    for metric in protocol.metrics:
        if protocol.labelled and not all(metric in run.record["metrics"] for run in (one, other)):
            continue
        column = build_column(metric, protocol.name, [[one], [other]], resamples, 0)
        test = column.compare(0, 1)
        interval = f"[{test['low']:+.4f}, {test['high']:+.4f}]"
        counts = "/".join(map(str, (column.users(0, 1) or {}).values()))
        table.append([metric, *column.values, test["difference"], interval, test["p"], test["test"], counts])
    return table


def _common(one: Stored, other: Stored) -> tuple[Stored, Stored, int]:
    """Both cut to the test rows they share, in the same order."""
    keys = []
    for rows in (one.rows, other.rows):
        again = rows.groupby(["user_id", "item_id"]).cumcount()  # a pair may be tested more than once
        keys.append(list(zip(rows["user_id"], rows["item_id"], again, strict=True)))
    shared = set(keys[0]) & set(keys[1])
    if not shared:
        raise ValueError(
            f"{one.path} and {other.path} have no common test row; compare runs on the same dataset and split"
        )
    order = sorted(shared)
    place = [{key: i for i, key in enumerate(found)} for found in keys]
    cut = [
        replace(run, rows=run.rows.iloc[[where[key] for key in order]].reset_index(drop=True))
        for run, where in zip((one, other), place, strict=True)
    ]
    return cut[0], cut[1], len(order)

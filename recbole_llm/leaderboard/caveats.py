"""What a reader must know before reading differences into a table: few rows, unlike seeds, CRMs or devices."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from recbole_llm import registry
from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.files import Stored
from recbole_llm.leaderboard.table import ALPHA, Column
from recbole_llm.results import provenance

FEW_ROWS = 1000


def caveats(column: Column, order: list[int], n_rows: int, groups) -> list[str]:
    """What a reader must know before reading differences into the table."""
    found = [_too_few(column, order, n_rows)] if n_rows < FEW_ROWS and len(order) > 1 else []
    seeds = {tuple(entry.record["seed"] for entry in group) for group in groups}
    if len(seeds) > 1:
        listed = "; ".join(sorted(str(list(s)) for s in seeds))
        found.append(f"rows have different seeds: {listed}. Two rows are compared on the seeds that both have, if any")
    if unlike := _unlike_seeds(groups):
        found.append(unlike)
    if mixed := _mixed_crms(groups):
        found.append(mixed)
    if lengths := _history_lengths(groups):
        found.append(lengths)
    devices = {entry.record.get("device") for group in groups for entry in group}
    if len(devices) > 1:
        found.append("rows ran on different devices, so their seconds do not compare: " + "; ".join(sorted(map(str, devices))))
    return found


def _too_few(column: Column, order: list[int], n_rows: int) -> str:
    neighbours = [pair for pair in pairwise(order) if not np.isnan(column.values[list(pair)]).any()]
    deviations = [column.deviation(a, b) for a, b in neighbours]
    units = len(column.sums) if column.sums is not None else len(column.auc[0].influence)
    smallest = st.detectable_difference(float(np.median(deviations)), units, ALPHA) if deviations else math.nan
    if math.isnan(smallest):
        return f"only {n_rows} test rows"
    return (
        f"only {n_rows} test rows: a true difference in {column.name} below about {smallest:.3f} between two neighbouring rows "
        f"would be missed more often than in one of five tables (paired test, p < {ALPHA}, power 0.8, before Holm)"
    )


def _unlike_seeds(groups: list[list[Stored]]) -> str | None:
    """Which rows' seeds were made by different code, LLM weights or packages; what a file does not tell does not count."""
    texts = []
    for group in groups:
        told = [_made_by(entry.record) for entry in group]
        unlike = [what for what in told[0] if len({one[what] for one in told} - {None}) > 1]
        if unlike:
            texts.append(f"{group[0].name} ({', '.join(unlike)})")
    return "seeds of one row differ by more than their seed, run them again alike: " + "; ".join(texts) if texts else None


def _made_by(record: dict) -> dict[str, str | None]:
    versions = record.get("versions") or {}
    packages = provenance.LLM_PACKAGES if record.get("llm") else provenance.PACKAGES
    weights = (record.get("llm") or {}).get("sha256")
    return {"code": record.get("code"), "LLM weights": weights, **{name: versions.get(name) for name in packages}}


def _history_lengths(groups: list[list[Stored]]) -> str | None:
    """Which rows, of those that rank what comes next, read longer histories than others."""
    names: dict[int, list[str]] = {}
    for group in groups:
        first = group[0].record
        length = (first.get("config") or {}).get("MAX_ITEM_LIST_LENGTH")
        if length is not None and not registry.protocol(first["protocol"]).labelled:
            names.setdefault(length, []).append(group[0].name)
    if len(names) < 2:
        return None
    texts = [f"{length} by {', '.join(those)}" for length, those in sorted(names.items())]
    return f"rows may read histories of different lengths ({'; '.join(texts)}); MAX_ITEM_LIST_LENGTH and history_max_len set one for all"


def _mixed_crms(groups: list[list[Stored]]) -> str | None:
    """Which LLM rows read different weights of one CRM at one seed: their difference is not their methods' alone."""
    weights: dict[tuple, dict[str, list[str]]] = {}
    for group in groups:
        for entry in group:
            if read := entry.record.get("crm"):
                of_seed = weights.setdefault((read["model"], entry.record["seed"]), {})
                of_seed.setdefault(str(read["sha256"])[:12], []).append(entry.name)
    texts = [
        f"{model} of seed {seed}: " + "; ".join(f"{sha} read by {', '.join(names)}" for sha, names in sorted(of_seed.items()))
        for (model, seed), of_seed in sorted(weights.items())
        if len(of_seed) > 1
    ]
    if not texts:
        return None
    return "LLM rows read different weights of the same recommender, so they differ by more than their method. " + "; ".join(texts)

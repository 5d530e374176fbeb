"""All that a board says of one row: metrics, tests against other rows, cost, bias checks, retriever, generation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.files import Stored
from recbole_llm.leaderboard.table import ALPHA, Column, Pairs


@dataclass(frozen=True)
class Table:
    """The rows of a board, by number.

    Attributes:
        names: the rows' names.
        groups: the stored results of each row, one a seed.
        columns, pairs: by metric.
        main: the metric that ranks the rows.
        reference: number of the row that all others are compared with.
    """

    names: list[str]
    groups: list[list[Stored]]
    columns: dict[str, Column]
    pairs: dict[str, Pairs]
    main: str
    reference: int

    @property
    def main_column(self) -> Column:
        return self.columns[self.main]


def summary(table: Table, i: int, below: int | None) -> dict:
    """All that a board says of row ``i``; ``below``: the row under it, None for the last."""
    group = table.groups[i]
    first = group[0].record
    others = [j for j in range(len(table.names)) if j != i]
    beaten = [table.pairs[table.main].against(i, j) for j in others]
    sign = table.main_column.sign
    wins = sum(t["p"] is not None and t["p_holm"] < ALPHA and sign * t["difference"] > 0 for t in beaten)
    losses = sum(t["p"] is not None and t["p_holm"] < ALPHA and sign * t["difference"] < 0 for t in beaten)
    return {
        "name": table.names[i],
        "model": first["model"],
        "variant": first.get("variant"),
        "seeds": [entry.record["seed"] for entry in group],
        "files": [entry.path.name for entry in group],
        "metrics": {name: _cell(column, i) for name, column in table.columns.items()},
        "vs_reference": None if i == table.reference else {name: table.pairs[name].against(i, table.reference) for name in table.columns},
        "vs_next": None if below is None else {"name": table.names[below]} | {n: table.pairs[n].against(i, below) for n in table.columns},
        "wins": int(wins),
        "ties": len(others) - int(wins) - int(losses),
        "losses": int(losses),
        "users_against_reference": None if i == table.reference else table.main_column.users(i, table.reference),
        "cost": cost(group),
        "valid": valid(group),
        "checks": checks(group),
        "tuning": first.get("tuning"),
        "llm": first.get("llm"),
        "crm": first.get("crm"),
        "retriever": retriever(group),
        "generation": generation(group),
        "candidates_sha256": group[0].sha256,
        "config_sha256": group[0].config_sha256,
        "calibrated": first.get("calibrated"),
        "commit": first.get("commit"),
        "versions": first.get("versions"),
        "device": first.get("device"),
        "config": group[0].settings,
    }


def _cell(column: Column, i: int) -> dict:
    low, high, how = column.interval(i)
    seeds = column.per_seed[i]
    return {
        "mean": column.values[i],
        "sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
        "low": low,
        "high": high,
        "interval": how,
        "per_seed": seeds,
    }


def cost(group: list[Stored]) -> dict:
    """Means over seeds; the CRM's seconds are those of the run that trained it."""
    records = [entry.record for entry in group]
    seconds = [record.get("seconds") or {} for record in records]
    costs = [record.get("cost") or {} for record in records]
    latency = [cost.get("latency_ms") or {} for cost in costs]
    return {
        "parameters": costs[0].get("parameters"),
        "trainable_parameters": costs[0].get("trainable_parameters"),
        "seconds_crm": max((s.get("crm") or 0.0 for s in seconds), default=0.0),
        "seconds_train": _mean(s.get("train") for s in seconds),
        "seconds_evaluate": _mean(s.get("evaluate") for s in seconds),
        "rows_per_second": _mean(cost.get("rows_per_second") for cost in costs),
        "latency_p50_ms": _mean(found.get("p50") for found in latency),
        "latency_p95_ms": _mean(found.get("p95") for found in latency),
        "peak_memory_mb": max((record.get("peak_memory_mb") or 0.0 for record in records), default=None),
    }


def valid(group: list[Stored]) -> dict:
    """Metrics of the best validation, means over seeds; LLM rows read ``valid_sample_size`` of the rows."""
    found = [entry.record.get("valid") or {} for entry in group]
    return {name: _mean(one.get(name) for one in found) for name in dict.fromkeys(name for one in found for name in one)}


def checks(group: list[Stored]) -> dict | None:
    """Bias checks over seeds: counts are added up, p-values are the smallest one times the number of seeds."""
    found = [entry.record["checks"] for entry in group if entry.record.get("checks")]
    if not found:
        return None
    out: dict = {}
    for kind in ("position", "popularity", "history"):
        parts = [checks[kind] for checks in found if checks.get(kind)]
        if not parts:
            out[kind] = None
            continue
        hits, rows = (np.sum([part[name] for part in parts], axis=0) for name in ("hits", "rows"))
        tests = [st.flatness_p(part["hits"], part["rows"]) for part in parts]
        tests = [p for p in tests if not math.isnan(p)]
        rate = np.divide(hits, rows, out=np.full(len(hits), np.nan), where=rows > 0)
        bounds = [
            st.wilson_interval(h / len(parts), n / len(parts)) if n else (np.nan, np.nan)
            for h, n in zip(hits, rows, strict=True)
        ]
        out[kind] = {
            "groups": parts[0]["groups"],
            "hit@1": rate.tolist(),
            "low": [b[0] for b in bounds],
            "high": [b[1] for b in bounds],
            "rows": (rows // len(parts)).tolist(),
            "p_flat": min(1.0, min(tests) * len(tests)) if tests else None,
        }
    leaks = [checks["leaks"] for checks in found if checks.get("leaks")]
    out["leaks"] = (
        {name: sum(leak[name] for leak in leaks) for name in ("rows", "id_outside", "title_outside")} if leaks else None
    )
    spreads = [checks["permutations"] for checks in found if checks.get("permutations")]
    out["permutations"] = _spread(spreads) if spreads else None
    return out


def _spread(spreads: list[dict]) -> dict:
    every = [value for spread in spreads for value in spread["hit@1"]]
    return {
        "k": spreads[0]["k"],
        "mean": float(np.mean(every)),
        "sd": _mean(spread["sd"] for spread in spreads),
        "low": min(every),
        "high": max(every),
        "same_top": _mean(spread["same_top"] for spread in spreads),
    }


def retriever(group: list[Stored]) -> dict | None:
    """Model and size of the retriever with its mean recall over seeds."""
    found = [entry.record["retriever"] for entry in group if entry.record.get("retriever")]
    return found[0] | {"recall": _mean(one["recall"] for one in found)} if found else None


def _mean(values) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None


def generation(group: list[Stored]) -> dict | None:
    """Mean report of greedy decoding over seeds."""
    kept = [entry.record["generation"] for entry in group if entry.record.get("generation")]
    return {name: _mean(one.get(name) for one in kept) for name in kept[0]} if kept else None

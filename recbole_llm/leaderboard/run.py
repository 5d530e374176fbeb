"""Leaderboards from one call: settings merged and checked, rows tuned and run, boards written.

The CRM is trained once per seed and shared through ``<checkpoint_dir>/crm``; runner.py trains and tests the rows.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm import registry
from recbole_llm.config.values import ConfigError, read_yaml
from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.board import Options
from recbole_llm.leaderboard.contents import load_board
from recbole_llm.leaderboard.entries import pick_models
from recbole_llm.leaderboard.plan import Run, make_plan, read_spec
from recbole_llm.leaderboard.report import data_frame, write_pages, write_report, written_files
from recbole_llm.leaderboard.runner import expectations, run_all


def run_leaderboard(
    models=None, datasets=None, protocols=None, seeds=None,
    config_file_list=None, settings: dict | None = None, spec: str | Path | dict | None = None, rerun: bool = False,
    reference: str | None = None, metric: str | None = None, resamples: int | None = None, tune: str | Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Train, test and compare.

    Args:
        models: names and variants, a list or ``"Random,SASRec,iLoRA@K=8"``; mappings as in the YAML. With a ``spec``
            that lists models: which of its rows, by their names or their models'.
        datasets: a list or comma-separated names.
        protocols: the same.
        seeds: a number or a list.
        config_file_list: YAML files with settings for every row.
        settings: over them.
        spec: a leaderboard's YAML (``properties/leaderboard/*.yaml``) or its content; arguments here go
            over it, but not over a row's own settings.
        rerun: do not reuse result files.
        reference: the row that all others are compared with.
        metric: what ranks the rows.
        resamples: of the bootstrap.
        tune: a search space (``properties/hyper/*.yaml``): every row is tuned on validation first, at equal budget.

    Returns:
        One line per row and board; ``attrs["boards"]`` holds the boards, ``attrs["failed"]`` the failed runs,
        ``attrs["files"]`` what was written, ``attrs["seconds"]`` the time of the runs and of everything around them.

    Raises:
        ConfigError: anything wrong in names, variants or settings; nothing has been trained.
    """
    began = time.perf_counter()
    settings = _given(config_file_list, settings)
    named = {"models": settings.pop("model", None), "datasets": settings.pop("dataset", None), "protocols": settings.pop("protocol", None)}
    given = {"models": models, "datasets": datasets, "protocols": protocols}
    given = {key: named[key] if value is None else value for key, value in given.items()} | {"seeds": seeds}
    chosen = _merge(spec, **given, reference=reference, metric=metric, resamples=resamples, tune=tune)
    arguments = (chosen.get("models"), chosen.get("datasets"), chosen.get("protocols"), 1 if chosen.get("seeds") is None else chosen["seeds"])
    plan = partial(make_plan, *arguments, *_settings(chosen, settings))
    runs = plan()
    _check_reference(chosen, runs, needed=reference is not None or models is None)
    _check_metric(chosen.get("metric"), {run.protocol for run in runs})
    wanted, found, start = expectations(runs), None, time.perf_counter()
    _check_rows(runs, wanted)
    if chosen.get("tune"):
        from recbole_llm.leaderboard.tune import tune_rows

        found = tune_rows(runs, chosen["tune"], rerun)
        runs = plan(extra=found.settings)
        wanted = expectations(runs)
    tuned_seconds = time.perf_counter() - start
    failed, model_seconds = run_all(runs, wanted, rerun, found)
    boards = _write(runs, wanted, chosen)
    frame = data_frame(boards)
    files = [str(path) for path in written_files(runs[0].config["result_dir"], boards)]
    seconds = _seconds(time.perf_counter() - began, model_seconds + tuned_seconds)
    frame.attrs = {"boards": boards, "failed": failed, "files": files, "seconds": seconds}
    return frame


def _seconds(total: float, models: float) -> dict:
    """What the models took and what the runner added, which is also logged."""
    added = total - models
    share = f" ({added / models:.1%} of it)" if models else ""
    getLogger().info(f"leaderboard: models {models:.1f} s, runner and statistics {added:.1f} s{share}")
    return {"total": total, "runs": models, "around": added}


def _merge(spec, **over) -> dict:
    chosen = dict(spec) if isinstance(spec, dict) else read_spec(spec) if spec else {}
    given = {key: value for key, value in over.items() if value is not None}
    if "models" in given and chosen.get("models"):
        given["models"] = pick_models(chosen["models"], given["models"])
    return chosen | given


def _given(config_file_list, settings: dict | None) -> dict:
    """What files and arguments set, for every row."""
    found: dict = {}
    for file in config_file_list or []:
        found |= read_yaml(file)
    return found | (settings or {})


def _settings(chosen: dict, given: dict) -> list[dict]:
    """Settings for every row, for LLM rows and for baselines: what is ``given`` goes over all of the YAML's.

    A row's own settings stay above it: they are what the row is named for.
    """
    yaml = [dict(chosen.get(group) or {}) for group in ("settings", "llm", "baselines")]
    return [yaml[0] | given, *({k: v for k, v in group.items() if k not in given} for group in yaml[1:])]


def _check_reference(chosen: dict, runs: list[Run], needed: bool) -> None:
    """A reference must be a row; only where rows of a YAML were picked may it be one of an earlier call (:func:`_reference`)."""
    names = list(dict.fromkeys(run.entry.name for run in runs))
    if needed and chosen.get("reference") and chosen["reference"] not in names:
        raise ConfigError([f"reference: {chosen['reference']!r} is not among the rows {', '.join(names)}"])


def _check_rows(runs: list[Run], wanted: dict) -> None:
    """Rows of one table are tested on the same rows and candidates, which is known before anything trains."""
    problems = []
    for dataset, protocol in dict.fromkeys((run.dataset, run.protocol) for run in runs):
        found: dict = {}
        for run in runs:
            if (run.dataset, run.protocol) == (dataset, protocol):
                found.setdefault(wanted[run.path]["candidates"], {})[run.entry.name] = None
        if len(found) > 1:
            groups = "; ".join(f"{str(sha256)[:12]}: {', '.join(names)}" for sha256, names in found.items())
            problems.append(f"{dataset}, {protocol}: rows would be tested on different rows or candidates ({groups}); give what makes them, "
                            "such as n_candidates, test_sample_size or threshold, for all rows, or make a table of each")  # fmt: skip
    if problems:
        raise ConfigError(problems)


def _check_metric(metric: str | None, protocols: set[str]) -> None:
    """The metric that orders a table must be one that its rows give."""
    if metric is None:
        return
    for protocol in map(registry.protocol, sorted(protocols)):
        if protocol.labelled:
            if metric not in protocol.metrics:
                raise ConfigError([f"metric: {metric!r} is none of {', '.join(protocol.metrics)}, which protocol {protocol.name!r} has"])
            continue
        try:
            st.ranking_values(np.array([1]), metric)
        except ValueError as error:
            raise ConfigError([str(error)]) from error


def _write(runs: list[Run], wanted: dict, chosen: dict) -> list[dict]:
    folder = Path(runs[0].config["result_dir"])
    boards = []
    for dataset, protocol in dict.fromkeys((run.dataset, run.protocol) for run in runs):
        mine = [run for run in runs if (run.dataset, run.protocol) == (dataset, protocol)]
        options = Options(
            metric=chosen.get("metric"),
            resamples=chosen.get("resamples") or Options.resamples,
            candidates=wanted[mine[0].path]["candidates"],
            prefer=[run.path.name for run in mine],
        )
        options = replace(options, reference=_reference(folder, mine, chosen.get("reference"), options))
        (board,) = write_report(folder, [(dataset, protocol)], options)
        boards.append(board)
    if len(boards) > 1:
        write_pages(folder, boards)
    return boards


def _reference(folder: Path, mine: list[Run], wanted: str | None, options: Options) -> str | None:
    """The YAML's reference, if it is a row of this call or one that an earlier call left in the folder."""
    if wanted is None or wanted in {run.entry.name for run in mine}:
        return wanted
    earlier = load_board(folder, mine[0].dataset, mine[0].protocol, options.candidates, options.prefer).kept
    return wanted if wanted in earlier else None

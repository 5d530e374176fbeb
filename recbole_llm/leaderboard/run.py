"""The runner: trains and tests every row on the same rows and candidates, or reuses what is already on disk.

Each finished run is a result file, so a leaderboard that is killed goes on where it stopped. A row that fails leaves a
``.failed.json`` with its reason; the others go on, and the exit code says so. The CRM is trained once per seed and
shared through ``<checkpoint_dir>/crm``.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from dataclasses import replace
from functools import partial
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from recbole_llm import registry
from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard import reuse
from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.board import Options
from recbole_llm.leaderboard.contents import load_board
from recbole_llm.leaderboard.plan import Run, make_plan, pick_models, read_spec
from recbole_llm.leaderboard.progress import Progress
from recbole_llm.leaderboard.report import data_frame, write_pages, write_report, written_files
from recbole_llm.quick_start import run_recbole_llm
from recbole_llm.results import result_file
from recbole_llm.runtime.files import write_text


def run_leaderboard(
    models=None,
    datasets=None,
    protocols=None,
    seeds=None,
    config_file_list=None,
    settings: dict | None = None,
    spec: str | Path | dict | None = None,
    rerun: bool = False,
    reference: str | None = None,
    metric: str | None = None,
    resamples: int | None = None,
    tune: str | Path | None = None,
) -> pd.DataFrame:
    """Train, test and compare.

    Args:
        models: names and variants, a list or ``"Random,SASRec,iLoRA@K=8"``; mappings as in the YAML. With a ``spec``
            that lists models: which of its rows, by their names or their models'.
        datasets, protocols: lists or comma-separated names. seeds: a number or a list.
        config_file_list: YAML files with settings for every row; ``settings``: over them.
        spec: a leaderboard's YAML (``properties/leaderboard/*.yaml``) or its content; arguments here go
            over it, but not over a row's own settings.
        rerun: do not reuse result files. reference, metric, resamples: of the table.
        tune: a search space (``properties/hyper/*.yaml``): every row is tuned on validation first, at equal budget.

    Returns:
        One line per row and board; ``attrs["boards"]`` holds the boards, ``attrs["failed"]`` the failed runs,
        ``attrs["files"]`` what was written, ``attrs["seconds"]`` the time of the runs and of everything around them.

    Raises:
        ConfigError: anything wrong in names, variants or settings; nothing has been trained.
    """
    began = time.perf_counter()
    chosen = _merge(
        spec,
        models=models,
        datasets=datasets,
        protocols=protocols,
        seeds=seeds,
        reference=reference,
        metric=metric,
        resamples=resamples,
        tune=tune,
    )
    shared = _settings(chosen, config_file_list, settings)
    arguments = (chosen.get("models"), chosen.get("datasets"), chosen.get("protocols"), chosen.get("seeds") or 1)
    plan = partial(make_plan, *arguments, *shared)
    runs = plan()
    _check_reference(chosen, runs, needed=reference is not None or models is None)
    _check_metric(chosen.get("metric"), {run.protocol for run in runs})
    wanted, found, tuned_seconds = _expectations(runs), None, 0.0
    if chosen.get("tune"):
        from recbole_llm.leaderboard.tune import tune_rows

        start = time.perf_counter()
        found = tune_rows(runs, chosen["tune"])
        runs = plan(extra=found.settings)
        wanted, tuned_seconds = _expectations(runs), time.perf_counter() - start
    failed, model_seconds = _run_all(runs, wanted, rerun, found)
    boards = _write(runs, wanted, chosen)
    frame = data_frame(boards)
    frame.attrs = {
        "boards": boards,
        "failed": failed,
        "files": [str(path) for path in written_files(runs[0].config["result_dir"], boards)],
        "seconds": _seconds(time.perf_counter() - began, model_seconds + tuned_seconds),
    }
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


def _settings(chosen: dict, config_file_list, settings: dict | None) -> list[dict]:
    """Settings for every row, for LLM rows and for baselines: what is given here goes over all of the YAML's.

    A row's own settings stay above it: they are what the row is named for.
    """
    from recbole_llm.config.values import read_yaml

    given: dict = {}
    for file in config_file_list or []:
        given |= read_yaml(file)
    given |= settings or {}
    yaml = [dict(chosen.get(group) or {}) for group in ("settings", "llm", "baselines")]
    return [yaml[0] | given, *({k: v for k, v in group.items() if k not in given} for group in yaml[1:])]


def _check_reference(chosen: dict, runs: list[Run], needed: bool) -> None:
    """A reference must be a row; only where rows of a YAML were picked may it be one of an earlier call (:func:`_reference`)."""
    names = list(dict.fromkeys(run.entry.name for run in runs))
    if needed and chosen.get("reference") and chosen["reference"] not in names:
        raise ConfigError([f"reference: {chosen['reference']!r} is not among the rows {', '.join(names)}"])


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


def _expectations(runs: list[Run]) -> dict[Path, dict]:
    """What each run's file would hold; one computation per row, since seeds differ in nothing but the seed."""
    found, first = {}, {}
    for run in runs:
        key = (run.entry.name, run.dataset, run.protocol)
        if key not in first:
            first[key] = reuse.expected(run.config)
        base = first[key]
        found[run.path] = base | {"config": base["config"] | {"seed": run.seed}}
    return found


def _run_all(runs: list[Run], wanted: dict, rerun: bool, tuned) -> tuple[list[dict], float]:
    """Run or reuse everything; (failed runs, seconds spent in models). ``tuned``: what `tune_rows` found, or None."""
    logger = getLogger()
    records, hopeless = (tuned.records, tuned.failed) if tuned else ({}, {})
    progress = Progress(runs)
    failed, spent = [], 0.0
    for run in runs:
        stored, why = _stored(run, wanted[run.path], rerun)
        if stored is not None:
            progress.done(run, reused=sum((stored.get("seconds") or {}).values()))
            continue
        if why:
            logger.info(f"{run.label} is run again: {'; '.join(why[:5])}")
        progress.started(run)
        start = time.perf_counter()
        try:
            if run.entry.name in hopeless:
                raise hopeless[run.entry.name]
            _run_one(run, records.get((run.entry.name, run.dataset, run.protocol)))
            progress.done(run, time.perf_counter() - start)
        except Exception as error:  # one row's failure must not cost the others: it is written down and shown
            logger.error(f"{run.label} failed\n{traceback.format_exc()}")
            failed.append(_write_failure(run, error))
            progress.done(run, time.perf_counter() - start, failed=True)
        spent += time.perf_counter() - start
        _release()
    return failed, spent


def _stored(run: Run, wanted: dict, rerun: bool) -> tuple[dict | None, list[str]]:
    """(the stored record if it can be reused, else None; why a stored one cannot)."""
    if rerun or not run.path.is_file() or result_file.failure_path(run.path).is_file():
        return None, []
    try:
        record = result_file.read_result(run.path)
    except ValueError as error:
        return None, [str(error)]
    if not run.path.with_name(str(record.get("rows"))).is_file():
        return None, ["its rows are missing"]
    why = reuse.differences(record, wanted)
    return (None, why) if why else (record, [])


def _run_one(run: Run, tuning: dict | None) -> None:
    outcome = run_recbole_llm(run.entry.model, run.dataset, command_line=run.settings)
    if tuning:
        path = Path(outcome["result_file"])
        record = json.loads(path.read_text(encoding="utf-8")) | {"tuning": tuning}
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "set result_dir elsewhere")


def _write_failure(run: Run, error: Exception) -> dict:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    entry = {
        "schema": result_file.SCHEMA,
        "name": run.entry.name,
        "model": run.entry.model,
        "dataset": run.dataset,
        "protocol": run.protocol,
        "seed": run.seed,
        "reason": reason,
    }
    path = result_file.failure_path(run.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(entry, indent=1, ensure_ascii=False) + "\n", "set result_dir elsewhere")
    return entry


def _release() -> None:
    """Give a finished run's memory back before the next begins."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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

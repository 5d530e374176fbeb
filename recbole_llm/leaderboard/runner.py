"""Runs every row of a plan, or reuses what is already on disk.

Each finished run is a result file, so a leaderboard that is killed goes on where it stopped. A row that fails leaves a
``.failed.json`` with its reason; the others go on.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from logging import getLogger
from pathlib import Path

import torch

from recbole_llm.leaderboard import reuse
from recbole_llm.leaderboard.plan import Run
from recbole_llm.leaderboard.progress import Progress
from recbole_llm.quick_start import run_recbole_llm
from recbole_llm.results import result_file
from recbole_llm.runtime.files import write_text

ELSEWHERE = "set result_dir elsewhere"


def expectations(runs: list[Run]) -> dict[Path, dict]:
    """What each run's file would hold; one computation per row, since seeds differ in nothing but the seed."""
    found, first = {}, {}
    for run in runs:
        key = (run.entry.name, run.dataset, run.protocol)
        if key not in first:
            first[key] = reuse.expected(run.config)
        base = first[key]
        found[run.path] = base | {"config": base["config"] | {"seed": run.seed}}
    return found


def run_all(runs: list[Run], wanted: dict, rerun: bool, tuned) -> tuple[list[dict], float]:
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
        result_file.check_rows(run.path, record)
    except ValueError as error:
        return None, [str(error)]
    why = reuse.differences(record, wanted)
    return (None, why) if why else (record, [])


def _run_one(run: Run, tuning: dict | None) -> None:
    outcome = run_recbole_llm(run.entry.model, run.dataset, command_line=run.settings)
    if tuning:
        path = Path(outcome["result_file"])
        record = json.loads(path.read_text(encoding="utf-8")) | {"tuning": tuning}
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", ELSEWHERE)


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
    write_text(path, json.dumps(entry, indent=1, ensure_ascii=False) + "\n", ELSEWHERE)
    return entry


def _release() -> None:
    """Give a finished run's memory back before the next begins."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

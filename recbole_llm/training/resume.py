"""Finds the run that ``resume`` names, or the newest of the same settings, data and code, and begins a new one where there is none."""

import json
import logging
from pathlib import Path

from recbole_llm.runtime import distributed
from recbole_llm.training.checkpoint import check_identity
from recbole_llm.training.checkpoint_files import STATE, DamagedCheckpoint, read_state
from recbole_llm.training.run_folder import RUN, Run, best_of, hashed_settings, input_hashes, settings_hash


def open_run(config, folder, model=None):
    """Begin a run in ``folder``, or go on with the one that ``resume`` names; every process must call it.

    Returns:
        (the locked :class:`Run` in the main process, None elsewhere; its folder; the step folder to go on from or None;
        whether that step's best weights are there).

    Raises:
        ValueError, OSError: as :func:`find_run` does, in every process.
    """
    opened = []

    def begin():
        run, step = find_run(config, config["resume"], model) if config["resume"] else (None, None)
        named = step is not None
        if config["resume"] and run is None:
            logging.getLogger().info("--resume=auto finds no run with these settings: a new one begins")
        opened.append(run := run or Run.create(folder, config))
        run.set_code_version(input_hashes(config)["code"])
        if step is not None:
            read_state(step)
        elif found := run.readable():
            step = found[0]
        best_there = run.restore_best(step) if step is not None else True
        if step is not None and not named:
            run.prune(config["save_total_limit"], best_of(step))  # a kill may have come before that
        return run.folder, step, best_there

    try:
        where, step, best_there = distributed.on_main(begin)
    except BaseException:
        for run in opened:
            run.close()
        raise
    return (opened[0] if opened else None), where, step, best_there


def find_run(config, resume, model=None):
    """The run to go on with.

    Args:
        config: the settings that the run must have.
        resume: "auto", the newest run under ``checkpoint_dir`` with these settings that no process is writing to and whose
            weights are those of ``model``'s LLM and CRM; or the path of a run or of one of its step folders.
        model: the model to go on with; None compares no weights.

    Returns:
        (run, locked and swept; step folder or None); (None, None) where ``auto`` finds nothing to go on with.

    Raises:
        FileNotFoundError: a path that is no run and no step folder.
        ValueError: its settings differ; each key is named with both values.
        DamagedCheckpoint: its ``run.json`` and all checkpoints are damaged.
        BlockingIOError: the run named is being written to.
    """
    if resume == "auto":
        return _newest(config, model), None
    run, step = named_run(config, resume)
    record, made = run.record(), input_hashes(config)
    if record.get("data", made["data"]) != made["data"]:
        raise ValueError(f"resume={resume!r}: the dataset's files changed since this run began; start a new run")
    if record.get("code", made["code"]) != made["code"]:
        logging.getLogger().warning(f"resume={resume!r}: this run began with other code of recbole_llm")
    run.lock()
    run.sweep()
    return run, step


def named_run(config, resume):
    """The run, and the step folder or None, that a path names, without a look at its weights.

    Raises:
        FileNotFoundError, ValueError, DamagedCheckpoint: as :func:`find_run`.
    """
    path = Path(resume)
    step = path if path.name.startswith("step-") else None
    run = Run(path.parent if step else path)
    if not (run.folder / RUN).is_file() or (step and not (step / STATE).is_file()):
        raise FileNotFoundError(f"resume={resume!r}: no run of recbole_llm and no step folder of one; give auto, or "
                                f"a folder of {config['checkpoint_dir']} that holds {RUN}")  # fmt: skip
    record = run.record()
    if not record:
        raise DamagedCheckpoint(f"resume={resume!r}: {run.folder / RUN} is damaged and no checkpoint beside it can be read; "
                                "start again without --resume")  # fmt: skip
    there, here = record["settings"], json.loads(json.dumps(hashed_settings(config)))
    differ = [f"{key}: run {there.get(key)!r}, here {here.get(key)!r}" for key in sorted(there.keys() | here.keys())
              if there.get(key) != here.get(key)]  # fmt: skip
    if differ:
        raise ValueError(f"resume={resume!r}: a run goes on with the settings it began with, which differ "
                         f"({'; '.join(differ)}); set them alike, or start a new run")  # fmt: skip
    return run, step


def _stale(run, record, made, model):
    """Why ``auto`` passes over a run: it is of other data or weights, or what other code has finished. None: it may go on."""
    if record.get("data", made["data"]) != made["data"]:
        return "the dataset's files changed since it began"
    if record.get("code", made["code"]) != made["code"]:
        if run.finished():
            return "it was finished with other code of recbole_llm"
        logging.getLogger().warning(f"{run.folder} began with other code of recbole_llm; it goes on with this one")
    try:
        if model is not None and (found := run.readable()):
            check_identity(model, found[1], found[0])  # of this LLM and CRM: a cached CRM may have been trained again
    except DamagedCheckpoint:
        return None  # said where the run is opened
    except ValueError as error:
        return str(error)
    return None


def _newest(config, model):
    digest, made = settings_hash(config), input_hashes(config)
    runs = [Run(file.parent) for file in Path(config["checkpoint_dir"]).glob(f"*/{RUN}")]
    found = [(record, run) for run in runs if (record := run.record()).get("hash") == digest]
    for record, run in sorted(found, key=lambda pair: pair[0]["started"], reverse=True):
        try:
            run.lock()
        except BlockingIOError as error:
            logging.getLogger().warning(f"--resume=auto passes over a run: {error}")
            continue
        if reason := _stale(run, record, made, model):
            logging.getLogger().warning(f"--resume=auto passes over {run.folder}: {reason}")
            run.close()
            continue
        run.sweep()
        return run
    return None

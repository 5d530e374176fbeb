"""The recipe, top to bottom: config, data, CRM, model, fine-tuning, test, result file, table."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from logging import getLogger
from pathlib import Path

import numpy as np
from recbole.utils import get_environment, init_logger, set_color
from tabulate import tabulate

from recbole_llm import cost, distributed, measured, provenance, recommender, registry, result
from recbole_llm.command_line import parse_command_line
from recbole_llm.config import ConfigError, LLMConfig, plain_values
from recbole_llm.crm import check_crm
from recbole_llm.data.interactions import expected_phases
from recbole_llm.data.labelled import calibrate
from recbole_llm.data.rows import candidate_sets
from recbole_llm.llm import count_parameters


def run_recbole_llm(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: dict | None = None,
    command_line: dict | None = None,
    saved: bool = True,
) -> dict:
    """Train and test one model, RecBole's or the plugin's, on the frozen candidate sets.

    Args:
        model: a model's name, e.g. ``"iLoRA"`` or ``"SASRec"``.
        dataset: a dataset's name, e.g. ``"ml-100k"``.
        config_file_list: YAML files; later ones win.
        config_dict: settings over the files.
        command_line: settings over everything else.
        saved: keep the best weights under ``checkpoint_dir`` and test with them.

    Returns:
        RecBole's result dictionary (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``,
        ``test_result``) and ``result_file``, the path of the JSON just written.

    Raises:
        ConfigError: unknown keys or bad values, all at once.
        ValueError: unknown model; data that cannot give candidate sets; and so on, each with its remedy.
    """
    config = LLMConfig(model, dataset, config_file_list, config_dict, command_line)
    _check_tested(config)
    if registry.is_plugin_model(config["model"]):
        check_crm(config)
    distributed.start(config["device"])
    init_logger(config) if distributed.is_main() else distributed.quiet_others()
    getLogger().info(config)
    if config.llm_config_dict:
        settings = ", ".join(f"{key}={value}" for key, value in config.llm_config_dict.items())
        getLogger().info(set_color("LLM", "pink") + f": {config['llm_path']} sets {settings}")
    if not registry.is_plugin_model(config["model"]):  # RecBole's own train in seconds: one process is enough
        return distributed.on_main(lambda: _report(config, *_train_and_test(config, saved)))
    if config["protocol"] == "candidates":
        with distributed.main_first():
            candidate_sets(config)
    trained = _train_and_test(config, saved)
    return distributed.on_main(_report, config, *trained)


def _check_tested(config) -> None:
    """A result file tells test rows under a protocol; RecBole's own `run_recbole` knows neither."""
    problems = []
    if config["protocol"] is None:
        problems.append("protocol: null leaves the evaluation to RecBole, which names no rows; choose candidates, full or "
                        "ctr, or call RecBole's run_recbole")  # fmt: skip
    if "test" not in expected_phases(config):
        problems.append(f"eval_args: split {config['eval_args']['split']} has no test rows to report; give it some")
    if problems:
        raise ConfigError(problems)


def _train_and_test(config, saved) -> tuple:
    """(what `recommender.fit` gives, test result, seconds); several processes do it together."""
    result.reset_peak_memory()
    fitted = recommender.fit(config, saved=saved)
    _, _, _, test = fitted.data
    trainer = fitted.trainer
    if config["protocol"] == "ctr":
        calibrate(trainer, fitted.data[2], config, saved)
    start = time.perf_counter()
    test_result = trainer.evaluate(test, load_best_model=saved, show_progress=config["show_progress"])
    seconds = {"train": fitted.seconds, "evaluate": time.perf_counter() - start}
    return fitted, test_result, seconds


def _report(config, fitted, test_result, seconds) -> dict:
    """Write the result file, print the table; what `run_recbole_llm` returns."""
    logger = getLogger()
    logger.info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    record, columns, rows = _record(config, fitted.trainer, fitted.data[1], test_result, seconds)
    record["valid"] = {name.lower(): float(value) for name, value in (fitted.best_valid_result or {}).items()}
    record["validations"] = getattr(getattr(fitted.trainer, "position", None), "history", None)  # of LLM recommenders
    record |= _beside_quality(config, fitted.trainer, fitted.data[3], record, rows)
    path = result.write_result(result.result_path(config), record, rows, columns)
    logger.info(set_color("best valid ", "yellow") + f": {fitted.best_valid_result}")
    logger.info(set_color("test result", "yellow") + f": {test_result}")
    print(_table(record, len(rows), path))
    return {
        "best_valid_score": fitted.best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": fitted.best_valid_result,
        "test_result": test_result,
        "result_file": str(path),
    }


def _record(config, trainer, train, test_result, seconds) -> tuple[dict, tuple[str, ...], list[tuple]]:
    """The fields of schema 1, the columns of the rows file, and one tuple per test row."""
    model = trainer.model
    plugin = registry.is_plugin_model(config["model"])
    crm_seconds = model.crm.seconds if plugin else 0.0
    record = {
        "model": config["model"],
        "variant": config["variant"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "seed": config["seed"],
        "metrics": {name.lower(): float(value) for name, value in test_result.items()},
        "generation": getattr(trainer, "generation", None),
        "calibrated": getattr(getattr(trainer.eval_collector, "calibration", None), "name", None),
        "train_sample": measured.train_sample(train) if plugin else None,
        "candidates": measured.measured_on(config),
        "n_test_rows": measured.n_test_rows(config),
        "retriever": measured.retriever(config, trainer),
        "llm": _llm_record(config, model) if plugin else None,
        "crm": {"model": model.crm.name, "sha256": model.crm.sha256} if plugin else None,
        "seconds": {"crm": round(crm_seconds, 2), **{name: round(value, 2) for name, value in seconds.items()}},
        "peak_memory_mb": result.peak_memory_mb(),
        "device": result.device_name(config["device"]),
        "versions": result.versions(),
        "commit": result.commit(),
        "code": provenance.code_hash(plugin),
        "data": provenance.data_hash(config),
        "checkpoint": _checkpoint(config, trainer),
        "config": plain_values(config),
    }
    return record, *measured.tested_rows(config, trainer.eval_collector)


def _checkpoint(config, trainer) -> str | None:
    """Where the tested weights lie, from the result file's folder; None where they were not kept."""
    path, folder = Path(trainer.saved_model_file), result.result_path(config).parent
    return Path(os.path.relpath(path, folder)).as_posix() if path.exists() else None


def _llm_record(config, model) -> dict:
    return {
        "name": config["llm_path"],
        "parameters": count_parameters(model.llm) - count_parameters(model.llm, trainable=True),
        "trainable_parameters": count_parameters(model, trainable=True),
        "sha256": provenance.weights_hash(config["llm_path"]),
    }


def _beside_quality(config, trainer, test, record, rows) -> dict:
    """What a leaderboard shows beside the metrics: cost, and checks that the score is not an artefact."""
    costs = cost.describe(trainer, test, record["seconds"]["evaluate"], len(rows), config["latency_rows"] or 0)
    if config["protocol"] == "ctr":
        return {"cost": costs, "checks": None}
    from recbole_llm.leaderboard import bias

    rank, position = (np.array([row[column] for row in rows]) for column in (2, 3))
    ranked = config["protocol"] == "candidates"
    checks = bias.row_checks(candidate_sets(config), rank, position if ranked else None)
    plugin = record["llm"] is not None and isinstance(test.batch_sampler, list)
    checks["leaks"] = bias.leak_check(test, trainer.model.tokens) if plugin else None
    k = config["permutations"] or 0
    seed = config["candidate_seed"]
    checks["permutations"] = bias.permutation_spread(trainer, test, k, seed) if plugin and ranked and k else None
    return {"cost": costs, "checks": checks}


def _table(record: dict, n_rows: int, path) -> str:
    """What the user reads last."""
    metrics = record["metrics"]
    asked = {"ctr": "labelled rows", "full": "the whole catalogue"}
    what = asked.get(record["protocol"], f"{record['candidates']['count']} candidates")
    head = f"{record['model']} on {record['dataset']}, {what}, {result.count_of_rows(n_rows, record['n_test_rows'])}"
    if record["calibrated"]:
        head += f"; probabilities calibrated on validation ({record['calibrated']})"
    table = [[name, f"{value:.4f}"] for name, value in metrics.items()]
    for name, value in (record["generation"] or {}).items():
        table.append([f"generate {name}", f"{value:.4f}" if isinstance(value, float) else value])
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in record["seconds"].items())
    return f"\n{head}\n{tabulate(table, headers=['metric', 'test'])}\n{seconds}\nresult file: {path}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code. A bad setting or bad data is a message, not a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse_command_line(arguments)
        if options.nproc > 1 or options.world_size > 1:
            if "RANK" not in os.environ:  # neither torchrun nor accelerate started this process
                return _launch(options, arguments)
        from recbole_llm.leaderboard.command import is_leaderboard, run_command_line

        if is_leaderboard(options):
            if distributed.world_size() > 1:
                raise ValueError("several models are compared in one process: train each by several processes first, "
                                 "then compare, which reads their result files")  # fmt: skip
            return run_command_line(options)
        run_recbole_llm(options.model, options.dataset, options.config_files, None, options.options)
        distributed.stop()  # gloo's threads must have ended when the interpreter does, or it may abort
    except (ConfigError, ValueError, FileNotFoundError, FloatingPointError, ImportError, OSError) as error:
        getLogger().debug("", exc_info=True)
        if distributed.world_size() > 1:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        logging.shutdown()
    return 0


def _launch(options, arguments, method: str = "spawn") -> int:
    """``--nproc`` processes of this machine, each of them the command itself; the exit code of the first that fails."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    places = (options.ip, options.port, options.world_size, options.group_offset, method)
    try:
        distributed.launch(_process, (arguments,), options.nproc, *places)
    except (ProcessExitedException, ProcessRaisedException) as error:
        print(f"error: {error}\nthe other processes were ended; go on with --resume=auto", file=sys.stderr)
        return getattr(error, "exit_code", None) or 1
    return 0


def _process(arguments) -> None:
    """One process of `_launch`."""
    if code := main(arguments):
        sys.exit(code)

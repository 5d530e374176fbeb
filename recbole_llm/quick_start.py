"""The recipe, top to bottom: config, data, CRM, model, fine-tuning, test, result file, table."""

from __future__ import annotations

import os
import time
from logging import INFO, getLogger
from pathlib import Path

from recbole.utils import get_environment, init_logger, set_color
from tabulate import tabulate

from recbole_llm import fit, registry
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError, plain_values
from recbole_llm.crm.settings import check_crm
from recbole_llm.data.rows import expected_phases
from recbole_llm.data.sample import train_sample
from recbole_llm.evaluation import bias_checks, rerank
from recbole_llm.llm.loading import count_parameters
from recbole_llm.results import cost, provenance, result_file
from recbole_llm.results.place import place_problems, replaced
from recbole_llm.runtime import distributed
from recbole_llm.training.resume import named_run


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
    if registry.is_plugin_model(config["model"]) and getattr(config.model_class, "needs_crm", lambda _: True)(config):
        check_crm(config)
    if registry.is_plugin_model(config["model"]) and config["resume"] not in (None, "auto"):
        named_run(config, config["resume"])  # told before a recommender is trained
    distributed.start(config["device"])
    init_logger(config) if distributed.is_main() else distributed.quiet_others()
    getLogger().info(config)
    if not registry.is_plugin_model(config["model"]):  # RecBole's own train in seconds: one process is enough
        return distributed.on_main(lambda: _report(config, *_train_and_test(config, saved)))
    with distributed.main_first():
        registry.protocol(config["protocol"]).before_run(config)
    trained = _train_and_test(config, saved)
    return distributed.on_main(_report, config, *trained)


def _check_tested(config) -> None:
    """A result file has a place, and tells test rows under a protocol; RecBole's own `run_recbole` knows neither."""
    problems = place_problems(config)
    if config["protocol"] is None:
        problems.append("protocol: null leaves the evaluation to RecBole, which names no rows; choose candidates, full or "
                        "ctr, or call RecBole's run_recbole")  # fmt: skip
    if "test" not in expected_phases(config):
        problems.append(f"eval_args: split {config['eval_args']['split']} has no test rows to report; give it some")
    if problems:
        raise ConfigError(problems)


def _train_and_test(config, saved) -> tuple:
    """(what `fit.fit` gives, test result, seconds); several processes do it together."""
    result_file.reset_peak_memory()
    fitted = fit.fit(config, saved=saved)
    _, _, _, test = fitted.data
    trainer = fitted.trainer
    registry.protocol(config["protocol"]).before_test(trainer, fitted.data[2], config, saved)
    start = time.perf_counter()
    test_result = trainer.evaluate(test, load_best_model=saved, show_progress=config["show_progress"])
    seconds = {"train": fitted.seconds, "evaluate": time.perf_counter() - start}
    return fitted, test_result, seconds


def _report(config, fitted, test_result, seconds) -> dict:
    """Write the result file, print the table; what `run_recbole_llm` returns."""
    logger = getLogger()
    if logger.isEnabledFor(INFO):  # RecBole's table takes a second: it watches the CPU
        logger.info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    record, columns, rows = _record(config, fitted.trainer, fitted.data[1], test_result, seconds)
    record["valid"] = {name.lower(): float(value) for name, value in (fitted.best_valid_result or {}).items()}
    record["validations"] = getattr(getattr(fitted.trainer, "position", None), "history", None)  # of LLM recommenders
    record |= _cost_and_checks(config, fitted.trainer, fitted.data[3], record, rows)
    path = result_file.result_path(config)
    if warning := replaced(path, record):
        logger.warning(warning)
    result_file.write_result(path, record, rows, columns)
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
    protocol, plugin = registry.protocol(config["protocol"]), registry.is_plugin_model(config["model"])
    crm_seconds = model.crm.seconds if plugin and model.crm else 0.0
    record = {
        "model": config["model"],
        "variant": config["variant"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "seed": config["seed"],
        "metrics": {name.lower(): float(value) for name, value in test_result.items()},
        "generation": getattr(trainer, "generation", None),
        "calibrated": getattr(getattr(trainer.eval_collector, "calibration", None), "name", None),
        "train_sample": train_sample(train) if plugin else None,
        "candidates": protocol.measured_on(config),
        "n_test_rows": protocol.n_test_rows(config),
        "retriever": rerank.retriever(config, trainer),
        "llm": _llm_record(config, model) if plugin else None,
        "crm": {"model": model.crm.name, "sha256": model.crm.sha256} if plugin and model.crm else None,
        "seconds": {"crm": round(crm_seconds, 2), **{name: round(value, 2) for name, value in seconds.items()}},
        "peak_memory_mb": result_file.peak_memory_mb(),
        "device": result_file.device_name(config["device"]),
        "versions": result_file.versions(),
        "commit": result_file.commit(),
        "code": provenance.code_hash(plugin),
        "data": provenance.data_hash(config),
        "checkpoint": _checkpoint(config, trainer),
        "config": plain_values(config),
    }
    return record, protocol.columns, protocol.tested_rows(config, trainer.eval_collector)


def _checkpoint(config, trainer) -> str | None:
    """Where the tested weights lie, from the result file's folder; None where they were not kept."""
    path, folder = Path(trainer.saved_model_file), result_file.result_path(config).parent
    return Path(os.path.relpath(path, folder)).as_posix() if path.exists() else None


def _llm_record(config, model) -> dict:
    return {
        "name": config["llm_path"],
        "parameters": count_parameters(model.llm) - count_parameters(model.llm, trainable=True),
        "trainable_parameters": count_parameters(model, trainable=True),
        "sha256": provenance.weights_hash(config["llm_path"]),
    }


def _cost_and_checks(config, trainer, test, record, rows) -> dict:
    """What a leaderboard shows beside the metrics: cost, and checks that the score is not an artefact."""
    costs = cost.describe(trainer, test, record["seconds"]["evaluate"], len(rows), config["latency_rows"] or 0)
    protocol = registry.protocol(config["protocol"])
    checks = protocol.checks(config, rows)
    if checks is not None:
        prompts = record["llm"] is not None and isinstance(test.batch_sampler, list)
        checks["leaks"] = bias_checks.leak_check(test, trainer.model.tokens) if prompts else None
        k, seed = config["permutations"] or 0, config["candidate_seed"]
        spread = prompts and protocol.among_candidates and k
        checks["permutations"] = bias_checks.permutation_spread(trainer, test, k, seed) if spread else None
    return {"cost": costs, "checks": checks}


def _table(record: dict, n_rows: int, path) -> str:
    """The text that is printed at the end of a run."""
    metrics = record["metrics"]
    what = registry.protocol(record["protocol"]).ranks(record["candidates"]["count"])
    head = f"{record['model']} on {record['dataset']}, {what}, {result_file.count_of_rows(n_rows, record['n_test_rows'])}"
    if record["calibrated"]:
        head += f"; probabilities calibrated on validation ({record['calibrated']})"
    table = [[name, f"{value:.4f}"] for name, value in metrics.items()]
    for name, value in (record["generation"] or {}).items():
        table.append([f"generate {name}", f"{value:.4f}" if isinstance(value, float) else value])
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in record["seconds"].items())
    return f"\n{head}\n{tabulate(table, headers=['metric', 'test'])}\n{seconds}\nresult file: {path}"

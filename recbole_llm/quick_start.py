"""The recipe, top to bottom: config, data, CRM, model, fine-tuning, test, result file, table."""

from __future__ import annotations

import logging
import sys
import time
from logging import getLogger

from recbole.utils import get_environment, init_logger, set_color
from tabulate import tabulate

from recbole_llm.data.rows import candidate_sets
from recbole_llm import recommender, registry, result
from recbole_llm.command_line import parse_command_line
from recbole_llm.config import ConfigError, LLMConfig, plain_values


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
    init_logger(config)
    logger = getLogger()
    logger.info(config)
    fitted = recommender.fit(config, saved=saved)
    _, _, _, test = fitted.data
    trainer = fitted.trainer
    start = time.perf_counter()
    test_result = trainer.evaluate(test, load_best_model=saved, show_progress=config["show_progress"])
    seconds = {"train": fitted.seconds, "evaluate": time.perf_counter() - start}
    logger.info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    record, rows = _record(config, trainer, test_result, seconds)
    path = result.write_result(result.result_path(config), record, rows)
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


def _record(config, trainer, test_result, seconds) -> tuple[dict, list[tuple]]:
    """The fields of schema 1, and one tuple per test row."""
    model = trainer.model
    plugin = registry.is_plugin_model(config["model"])
    test_set = candidate_sets(config).test
    crm_seconds = model.crm.seconds if plugin else 0.0
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "seed": config["seed"],
        "metrics": {name.lower(): float(value) for name, value in test_result.items()},
        "generation": getattr(trainer, "generation", None),
        "candidates": {"count": config["n_candidates"], "sha256": test_set.sha256},
        "llm": _llm_record(config, model) if plugin else None,
        "crm": {"model": model.crm.name, "sha256": model.crm.sha256} if plugin else None,
        "seconds": {"crm": round(crm_seconds, 2), **{name: round(value, 2) for name, value in seconds.items()}},
        "peak_memory_mb": result.peak_memory_mb(),
        "device": result.device_name(config["device"]),
        "versions": result.versions(),
        "commit": result.commit(),
        "config": plain_values(config),
    }
    collected = trainer.eval_collector.rows()
    rows = list(
        zip(
            test_set.user_ids.tolist(), test_set.item_ids.tolist(), collected.rank.tolist(),
            collected.target_position.tolist(), strict=True,
        )
    )  # fmt: skip
    return record, rows


def _llm_record(config, model) -> dict:
    total = sum(weight.numel() for weight in model.llm.parameters())
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    adapter = sum(weight.numel() for weight in model.llm.parameters() if weight.requires_grad)
    return {"name": config["llm_path"], "parameters": total - adapter, "trainable_parameters": trainable}


def _table(record: dict, n_rows: int, path) -> str:
    """What the user reads last."""
    metrics = record["metrics"]
    head = f"{record['model']} on {record['dataset']}, {record['candidates']['count']} candidates, {n_rows} test rows"
    table = [[name, f"{value:.4f}"] for name, value in metrics.items()]
    for name, value in (record["generation"] or {}).items():
        table.append([f"generate {name}", f"{value:.4f}" if isinstance(value, float) else value])
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in record["seconds"].items())
    return f"\n{head}\n{tabulate(table, headers=['metric', 'test'])}\n{seconds}\nresult file: {path}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code. A bad setting or bad data is a message, not a traceback."""
    try:
        options = parse_command_line(sys.argv[1:] if arguments is None else arguments)
        run_recbole_llm(options.model, options.dataset, options.config_files, None, options.options)
    except (ConfigError, ValueError, FileNotFoundError, FloatingPointError, OSError) as error:
        getLogger().debug("", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        logging.shutdown()
    return 0

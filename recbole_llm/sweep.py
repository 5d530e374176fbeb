"""Few2Many (RecLoRA, section 4.3): how many rows does the LLM need? One command, a table and a plot.

    python -m recbole_llm.sweep --dataset=ml-100k --sizes=250,1000,4000,16000 [--model=RecLoRA] [--key=value ...]

Trains the model once for each sample size (the CRM once for all, on every row) and draws AUC against the size, with
the CRM's own AUC on the same rows as a line. Results of finished runs are used again. Written to `result_dir`:
`<dataset>.ctr.<model>.sweep.seed<seed>.{csv,md,html}`; the runs' own files beside them, filed as `<model>@n=<size>`.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from logging import getLogger
from pathlib import Path

from recbole.utils import init_logger
from tabulate import tabulate

from recbole_llm import recommender
from recbole_llm.command_line import parse_command_line
from recbole_llm.config import ConfigError, LLMConfig
from recbole_llm.crm import crm_config, load_or_train
from recbole_llm.data.ctr import labelled_rows
from recbole_llm.leaderboard import reuse
from recbole_llm.quick_start import run_recbole_llm
from recbole_llm.result import read_result, result_path

COLUMNS = ("sample", "share", "auc", "gauc", "logloss", "acc", "train_seconds")


def sweep(model: str, dataset: str, sizes: list, config_files: list[str] | None = None, settings: dict | None = None):
    """Train `model` with each sample size under `protocol: ctr`; (rows of `COLUMNS`, the CRM's metrics, files).

    Raises
    ------
    ValueError
        If no size is given, one is given twice, or one is more than the training rows there are (before any training).
    """
    settings = {**(settings or {}), "protocol": "ctr"}
    base = LLMConfig(model, dataset, config_files, None, settings)
    init_logger(base)
    total = len(labelled_rows(base).numbers["train"])
    counts = [_count(size, total) for size in sizes]
    if not counts or len(set(counts)) < len(counts):
        raise ValueError(f"--sizes={','.join(map(str, sizes))}: give one or more sizes, each once")
    line = crm_metrics(base)
    rows = []
    for size, count in zip(sizes, counts, strict=True):
        record = _run(
            model, dataset, config_files, {**settings, "train_sample_size": size, "variant": f"{model}@n={size}"}
        )
        metrics = record["metrics"]
        shown = [round(metrics[name], 4) if name in metrics else None for name in COLUMNS[2:6]]
        rows.append((count, round(count / total, 4), *shown, record["seconds"]["train"]))
    rows.sort()
    return rows, line, write(base, model, rows, line)


def _count(size, total: int) -> int:
    count = total if size is None else round(size * total) if isinstance(size, float) else int(size)
    if not 1 <= count <= total:
        raise ValueError(f"--sizes: {size} asks for {count} of {total} training rows; use sizes from 1 to {total}")
    return count


def crm_metrics(config) -> dict:
    """The test metrics of the CRM that the model reads: from `crm_path`, the cache, or trained now for all runs."""
    from recbole_llm.data.labelled import calibrate

    own = crm_config(config)
    trainer, data = recommender.build(own)
    crm = load_or_train(config, data[0])
    trainer.model.load_state_dict(crm.model.state_dict())
    calibrate(trainer, data[2], own, False)
    found = trainer.evaluate(data[3], load_best_model=False)
    return {"model": own["model"], **{name: float(value) for name, value in found.items()}}


def _run(model: str, dataset: str, config_files, settings: dict) -> dict:
    """The result of one run, from its file where that is what the run would give now."""
    config = LLMConfig(model, dataset, config_files, None, settings)
    path = result_path(config)
    if path.is_file():
        record = read_result(path)
        why = reuse.differences(record, reuse.expected(config))
        if not why:
            getLogger().info(f"{path} is used again")
            return record
        getLogger().info(f"{path} is made again: {'; '.join(why[:5])}")
    return read_result(run_recbole_llm(model, dataset, config_files, None, settings)["result_file"])


def write(config, model: str, rows: list[tuple], line: dict) -> list[Path]:
    """Write the table as CSV and Markdown and the plot as one HTML page; each whole or not at all."""
    stem = f"{config['dataset']}.ctr.{model}.sweep.seed{config['seed']}"
    folder = Path(config["result_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    head = f"{model} on {config['dataset']}, AUC of {line['model']} alone (all {_all(rows)} rows): {line['auc']:.4f}"
    contents = {
        ".csv": text.getvalue(),
        ".md": f"{head}\n\n{tabulate(rows, headers=COLUMNS, tablefmt='github')}\n",
        ".html": plot(rows, line, f"{model} on {config['dataset']}: AUC against sample size"),
    }
    files = []
    for suffix, content in contents.items():
        path = folder / (stem + suffix)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            aside.write_text(content, encoding="utf-8")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        files.append(path)
    return files


def _all(rows) -> str:
    count, share = rows[0][:2]
    return f"~{round(count / share):,}" if share else "training"


def plot(rows: list[tuple], line: dict, title: str) -> str:
    """A page with AUC against the sample size (log axis) and the CRM's AUC as a dashed line; nothing is fetched."""
    import plotly.graph_objects as go

    figure = go.Figure()
    sizes, scores = [row[0] for row in rows], [row[2] for row in rows]
    figure.add_trace(go.Scatter(x=sizes, y=scores, mode="lines+markers", name="AUC"))
    figure.add_hline(y=line["auc"], line_dash="dash", annotation_text=f"{line['model']}, all rows: {line['auc']:.4f}")
    figure.update_xaxes(type="log", title="training rows seen by the LLM")
    figure.update_yaxes(title="AUC (test)")
    figure.update_layout(title=title, template="plotly_white")
    return figure.to_html(include_plotlyjs=True, full_html=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sizes = [text for text in arguments if text.startswith("--sizes=")]
    try:
        options = parse_command_line([text for text in arguments if text not in sizes])
        if len(sizes) != 1 or not options.dataset:
            raise ConfigError(
                ["sweep: give --dataset=NAME and --sizes=250,1000,4000 (counts, shares such as 0.1, or null)"]
            )
        rows, line, files = sweep(
            options.model or "RecLoRA", options.dataset, parse_sizes(sizes[0].partition("=")[2]),
            options.config_files, options.options,
        )  # fmt: skip
    except (ConfigError, ValueError, FileNotFoundError, FloatingPointError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{tabulate(rows, headers=COLUMNS)}\n{line['model']} alone, on all rows: AUC {line['auc']:.4f}")
    print("written: " + ", ".join(map(str, files)))
    return 0


def parse_sizes(text: str) -> list:
    """Sizes from "250,0.1,null": counts, shares below 1, and null for all rows; ValueError for anything else."""
    sizes: list = []
    for word in text.split(","):
        word = word.strip()
        try:
            sizes.append(None if word.lower() in ("null", "none") else int(word) if word.isdigit() else float(word))
        except ValueError:
            raise ValueError(f"--sizes: {word!r} is no count, share or null") from None
        if isinstance(sizes[-1], float) and not 0 < sizes[-1] < 1:
            raise ValueError(f"--sizes: the share {word} must lie between 0 and 1")
    return sizes


if __name__ == "__main__":
    sys.exit(main())

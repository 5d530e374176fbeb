"""What a run costs beside its quality: parameters, throughput, and the time one user waits.

Latency is taken at batch size 1 on a few test rows, after a warm-up, from the rendered row to its scores: what a
service that answers one request at a time would see. Works for RecBole's models and the plugin's alike.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from recbole_llm.llm.loading import count_parameters

WARM_UP, LIMIT = 2, 5.0  # rows not counted; seconds after which no further row is taken


def describe(trainer, loader, evaluate_seconds: float, n_rows: int, latency_rows: int) -> dict:
    """The ``cost`` field of a result file.

    Args:
        trainer: the fitted trainer.
        loader: its test loader.
        evaluate_seconds: wall time of the evaluation of ``n_rows`` rows.
        latency_rows: rows scored one by one; 0 for none.

    ``training`` is what :meth:`recbole_llm.training.throughput.Meter.report` measured (tokens/s, utilisation, share of the time spent
    waiting for data); None for RecBole's own trainers and where nothing was trained.
    """
    return {
        "parameters": count_parameters(trainer.model),
        "trainable_parameters": count_parameters(trainer.model, trainable=True),
        "rows_per_second": round(n_rows / evaluate_seconds, 2) if evaluate_seconds > 0 else None,
        "latency_ms": latency(trainer, loader, latency_rows) if latency_rows else None,
        "training": getattr(trainer, "speed", None),
    }


@torch.no_grad()
def latency(trainer, loader, rows: int) -> dict:
    """Milliseconds per row at batch size 1: ``{"p50", "p95", "rows"}``."""
    trainer.model.eval()
    score = _scorer(trainer, loader)
    seconds = []
    began = time.perf_counter()
    for number, one in enumerate(_single_rows(loader, rows + WARM_UP)):
        start = time.perf_counter()
        score(one)
        _wait(trainer.device)
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - start)
        if seconds and time.perf_counter() - began > LIMIT:
            break
    if not seconds:
        return {"p50": None, "p95": None, "rows": 0}
    p50, p95 = np.quantile(np.array(seconds) * 1000, [0.5, 0.95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "rows": len(seconds)}


def _single_rows(loader, rows: int):
    """What the loader collates for one row at a time, spread evenly over its rows."""
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, list):  # prompts: the loader holds its rows' keys
        keys = [key for batch in batches for key in batch]
        chosen = np.unique(np.linspace(0, len(keys) - 1, min(rows, len(keys))).astype(int))
        return [[keys[i]] for i in chosen]
    size = loader.sample_size
    return [[int(i)] for i in np.unique(np.linspace(0, size - 1, min(rows, size)).astype(int))]


def _scorer(trainer, loader):
    """A function from one row's key to its scores, by the path that the trainer's evaluation takes."""
    if hasattr(trainer.model, "evaluation_scores"):

        def score(keys):
            batch = loader.collate_fn([loader.dataset[key] for key in keys]).to(trainer.device)
            with trainer.steps.autocast():
                trainer.model.evaluation_scores(batch)
    else:
        from recbole.data.dataloader import FullSortEvalDataLoader

        full = isinstance(loader, FullSortEvalDataLoader)
        evaluate = trainer._full_sort_batch_eval if full else trainer._neg_sample_batch_eval

        def score(keys):
            evaluate(loader.collate_fn(keys))

    return score


def _wait(device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)

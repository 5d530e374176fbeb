"""What is written of a run beside its test rows: the training sample, and what was retrieved before it was ranked."""

from __future__ import annotations

import hashlib


def train_sample(train) -> dict | None:
    """Which training rows the LLM saw: their numbers in the training split, in order, and their digest."""
    sample = getattr(getattr(train, "batches", None), "sample", None)
    if sample is None:
        return None
    text = " ".join(map(str, sample.tolist()))
    return {"count": len(sample), "sha256": hashlib.sha256(text.encode()).hexdigest(), "rows": text}


def retriever(config, trainer) -> dict | None:
    """In ``full``, what an LLM row re-ranks: ``{"model", "n", "recall"}``; the recall bounds the row's metrics."""
    retrieved = getattr(trainer.eval_collector, "retrieved", None)
    if not retrieved:
        return None
    return {"model": trainer.model.crm.name, "n": config["rerank_n"], "recall": round(retrieved["test"].recall, 6)}

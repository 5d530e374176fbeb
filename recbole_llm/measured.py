"""What a run is measured on, by protocol: the test rows, their digest, and the lines of the rows file."""

from __future__ import annotations

import hashlib

from recbole_llm.data.ctr import labelled_rows
from recbole_llm.data.full import full_rows
from recbole_llm.data.rows import ROWS, candidate_sets
from recbole_llm.result import ROW_COLUMNS

CTR_COLUMNS = ("user_id", "item_id", "label", "score")


def measured_on(config) -> dict:
    """``{"count", "sha256", "rows"}``: how many items a row ranks (the catalogue in ``full``, null in ``ctr``), the digest
    of the rows with all that they rank, and the version of the rules that make rows of files. Runs with another digest
    cannot stand in one table.
    """
    if config["protocol"] == "ctr":
        return {"count": None, "sha256": labelled_rows(config).sha256, "rows": ROWS}
    if config["protocol"] == "full":
        rows = full_rows(config)
        return {"count": len(rows.sets.catalogue), "sha256": rows.sha256, "rows": ROWS}
    return {"count": config["n_candidates"], "sha256": candidate_sets(config).test.sha256, "rows": ROWS}


def n_test_rows(config) -> int:
    """Test rows of the split, measured or left out by `test_sample_size`."""
    if config["protocol"] == "ctr":
        return labelled_rows(config).n_test
    return len(candidate_sets(config).rows.test[0])


def tested_rows(config, collector) -> tuple[tuple[str, ...], list[tuple]]:
    """Column names and lines of the rows file, in the order of the test rows.

    In ``full`` the target position is that among the retrieved candidates of an LLM row, -1 where there is none.
    """
    found = collector.rows()
    if config["protocol"] == "ctr":
        users, items, labels = (column[found.row] for column in labelled_rows(config).columns("test"))
        return CTR_COLUMNS, list(
            zip(users.tolist(), items.tolist(), labels.tolist(), found.score.tolist(), strict=True)
        )
    test = candidate_sets(config).test
    columns = (test.user_ids, test.item_ids, found.rank, found.target_position)
    return ROW_COLUMNS, list(zip(*(column.tolist() for column in columns), strict=True))


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

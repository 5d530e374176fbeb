"""Numbers that papers report for these datasets, under their own protocols: never to be ranked with ours.

They are in `properties/published.yaml`, each with its source; `python -m recbole_llm.reproduce` puts a paper's table beside ours.
"""

from __future__ import annotations

from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import read_yaml

_TABLES = {"candidates": "ranking", "ctr": "click"}


def contents() -> dict:
    """The whole file."""
    return read_yaml(properties_dir() / "published.yaml")


def of_dataset(table: str, dataset: str) -> tuple[str, dict] | None:
    """(the dataset's column in a table, what is said of it: names, title, rows), or None."""
    found = contents()[table]["datasets"].items()
    return next(((key, about) for key, about in found if dataset in about["names"]), None)


def published(dataset: str, protocol: str) -> dict | None:
    """``{"title", "note", "metric", "rows": [[name, value], ...]}`` for a dataset, or None."""
    table = _TABLES.get(protocol)
    found = of_dataset(table, dataset) if table else None
    if found is None:
        return None
    (key, about), values = found, contents()[table]
    rows = [[row["model"], row[key]] for row in values["rows"] if key in row]
    if table == "click":
        note = "Other people's protocol: AUC as ReLLa reports it. Not comparable with the table above."
    else:
        note = (
            f"Other people's protocol: HitRatio@1 on the papers' own {about['title']} split, 20 candidates redrawn at every evaluation, "
            f"Llama-2-7B, {about['rows']:,} test rows. Not comparable with the table above: other rows, other candidates, another LLM. "
            "iLoRA's paper claims +11.4% on average over LoRA."
        )
    return {"title": f"Published for {about['title']}", "note": note, "metric": values["metric"], "rows": rows}

"""Amazon Reviews 2023 (Hou et al., 2024), any category, as RecBole atomic files: `amazon-2023-<Category>`.

Interactions are `<Category>.csv.gz` (the published 5-core file: user_id, parent_asin, rating, timestamp in ms) or, where
that is absent, `<Category>.jsonl.gz` (all reviews). Titles are `meta_<Category>.jsonl.gz`. An item is a `parent_asin`.
"""

import re
from collections.abc import Iterable, Iterator

from recbole_llm.data.convert.atomic import cell, item_lines
from recbole_llm.data.convert.files import PublishedFiles
from recbole_llm.data.convert.jsonl import records

PREFIX = "amazon-2023"
HEADER = "user_id,parent_asin,rating,timestamp"
KEYS = tuple(HEADER.split(","))
_ROW = re.compile(r"\w+,\w+,\d(\.\d)?,\d+", re.ASCII).fullmatch


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read."""
    category = dataset.removeprefix(PREFIX).removeprefix("-")
    reviews = f"{category}.jsonl"
    return [reviews if reviews in files and f"{category}.csv" not in files else f"{category}.csv", f"meta_{category}.jsonl"]


def recognise(files: PublishedFiles) -> str | None:
    """The dataset that the files are of; None if there are no titles, or those of several categories."""
    metas = files.find("meta_*.jsonl")
    return f"{PREFIX}-{metas[0].removeprefix('meta_').removesuffix('.jsonl')}" if len(metas) == 1 else None


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file."""
    seen: set[str] = set()
    interactions, meta = needed(files, dataset)
    print(f"interactions from {files.place(interactions)}")
    rows = _ratings(files, interactions, seen) if interactions.endswith(".csv") else _reviews(files, interactions, seen)
    titles = ((r["parent_asin"], cell(r["title"] or "")) for _, r in records(files, meta, ("parent_asin", "title")))
    return {"inter": rows, "item": item_lines("item_id:token\ttitle:token_seq", titles, seen)}


def _ratings(files: PublishedFiles, name: str, seen: set[str]) -> Iterator[str]:
    """The rows of a 5-core file, in its order; fills `seen` with the items."""
    place = files.place(name)
    yield "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    for number, line in files.lines(name):
        if _ROW(line) is None:
            if number == 1 and line == HEADER:
                continue
            raise ValueError(f"{place}, line {number}: expected {HEADER}, found {line[:60]!r}")
        row = line.replace(",", "\t")
        seen.add(row.split("\t", 2)[1])
        yield row
    if not seen:
        raise ValueError(f"{place} has no rows")


def _reviews(files: PublishedFiles, name: str, seen: set[str]) -> Iterator[str]:
    """One line per review, in the order of the file; fills `seen` with the items."""
    yield "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    for number, record in records(files, name, KEYS):
        row = [str(record[key]) for key in KEYS]
        if _ROW(",".join(row)) is None:
            raise ValueError(f"{files.place(name)}, line {number}: expected {HEADER}, found {', '.join(row)[:60]!r}")
        seen.add(row[1])
        yield "\t".join(row)
    if not seen:
        raise ValueError(f"{files.place(name)} has no rows")

"""Goodreads (UCSD Book Graph; Wan and McAuley, 2018) as RecBole atomic files, whole or of one genre.

`goodreads_interactions_dedup.json.gz` (228.6 M shelvings; `goodreads_interactions_<genre>.json.gz` for a genre) gives the
interactions: rated books only (rating 1 to 5; 0 means that no rating was given), timed by `date_added`.
`goodreads_books.json.gz` (or `..._<genre>`) gives the titles. `goodreads_interactions.csv` has no times, so it cannot be
used sequentially.
"""

import calendar
from collections.abc import Iterable, Iterator
from datetime import datetime

from recbole_llm.data.convert.atomic import cell, item_lines
from recbole_llm.data.convert.files import PublishedFiles
from recbole_llm.data.convert.jsonl import records

WHOLE, BOOKS = "goodreads_interactions_dedup.json", "goodreads_books.json"
_MONTHS = {name: number for number, name in enumerate(calendar.month_abbr) if name}


def _genre(dataset: str) -> str:
    return dataset.removeprefix("goodreads").removeprefix("-")


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read.

    Raises:
        ValueError: only the CSV file is there, which has no times.
    """
    genre = _genre(dataset)
    names = [f"goodreads_interactions_{genre}.json", f"goodreads_books_{genre}.json"] if genre else [WHOLE, BOOKS]
    if names[0] not in files and files.find("goodreads_interactions*.csv"):
        raise ValueError(f"{files.path}: goodreads_interactions.csv has no times, sequences need them; get {names[0]}.gz")
    return names


def recognise(files: PublishedFiles) -> str | None:
    """The dataset that the files are of, None if it is none of this module's or several."""
    found = files.find("goodreads_interactions*.json")
    if len(found) != 1:
        return None
    genre = found[0].removeprefix("goodreads_interactions").removeprefix("_").removesuffix(".json")
    return "goodreads" if genre in ("", "dedup") else f"goodreads-{genre}"


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file."""
    seen: set[str] = set()
    interactions, books = needed(files, dataset)
    titles = ((str(r["book_id"]), cell(r["title"] or "")) for _, r in records(files, books, ("book_id", "title")))
    return {
        "inter": _interactions(files, interactions, seen),
        "item": item_lines("item_id:token\ttitle:token_seq", titles, seen),
    }


def _interactions(files: PublishedFiles, name: str, seen: set[str]) -> Iterator[str]:
    """One line per rated book, in the order of the file; fills `seen` with the books."""
    unrated = 0
    yield "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    for number, record in records(files, name, ("user_id", "book_id", "rating", "date_added")):
        rating = record["rating"]
        if not rating:
            unrated += 1
            continue
        book = cell(str(record["book_id"]))
        seen.add(book)
        try:
            yield f"{cell(str(record['user_id']))}\t{book}\t{int(rating)}\t{unix_time(record['date_added'])}"
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{files.place(name)}, line {number}: expected a rating of 1 to 5 and a date such as 'Sun Jul 30 07:44:10 "
                f"-0700 2017', found {rating!r}, {record['date_added']!r}"
            ) from error
    if not seen:
        raise ValueError(f"{files.place(name)} has no rated book")
    print(f"note: {unrated:,} shelvings without a rating left out")


def unix_time(text: str) -> int:
    """Seconds since 1970 of "Sun Jul 30 07:44:10 -0700 2017", whatever the locale."""
    _, month, day, clock, zone, year = text.split()
    return int(datetime.fromisoformat(f"{year}-{_MONTHS[month]:02}-{int(day):02}T{clock}{zone}").timestamp())

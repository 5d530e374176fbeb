"""Steam reviews with game titles (McAuley lab, UCSD) as RecBole atomic files.

Interactions are `steam_reviews.json.gz` (7.8 M reviews; Kang and McAuley, 2018; `username`, `product_id`, `date`,
`hours`) or, where that is absent, `australian_user_reviews.json.gz` (59 K reviews of Australian users; Pathak et al.,
2017; `user_id` and a list `reviews` with `item_id`, `posted`, `recommend`). Titles are `steam_games.json.gz`. Lines are
Python literals, not JSON; they are parsed by `ast.literal_eval`, which evaluates nothing.

Dates have no time of day; within a day the file's order counts. User names of `steam_reviews` hold quotes, tabs and
every script, so users are numbered by first appearance.
"""

import ast
import calendar
import re
from collections.abc import Iterable, Iterator
from datetime import date

from recbole_llm.data.convert.atomic import cell, item_lines
from recbole_llm.data.convert.files import PublishedFiles

REVIEWS, AUSTRALIAN, GAMES = "steam_reviews.json", "australian_user_reviews.json", "steam_games.json"
MOST_UNREADABLE = 0.001  # share of lines
_POSTED = re.compile(r"Posted (\w+) (\d{1,2}), (\d{4})\.")
_MONTHS = {name: number for number, name in enumerate(calendar.month_name) if name}


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read."""
    return [AUSTRALIAN if AUSTRALIAN in files and REVIEWS not in files else REVIEWS, GAMES]


def recognise(files: PublishedFiles) -> str | None:
    """The dataset that the files are of, None if it is none of this module's."""
    return "steam" if REVIEWS in files or AUSTRALIAN in files else None


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file."""
    seen: set[str] = set()
    reviews = _reviews(files, seen) if REVIEWS in files else _australian(files, seen)
    return {"inter": reviews, "item": item_lines("item_id:token\ttitle:token_seq", _games(files), seen)}


def _records(files: PublishedFiles, name: str) -> Iterator[tuple[int, dict]]:
    """Yield (line number, dict); a few lines that are no literal are left out and counted.

    Raises:
        ValueError: more than one line in a thousand is none.
    """
    bad, number, first = 0, 0, 0
    for number, line in files.lines(name):
        if not line.strip():
            continue
        try:
            record = ast.literal_eval(line)
            if not isinstance(record, dict):
                raise ValueError("not a dict")
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            bad, first = bad + 1, first or number
            continue
        yield number, record
    if bad > max(1, number * MOST_UNREADABLE):
        raise ValueError(f"{files.place(name)}: {bad} of {number} lines are no dict, first line {first}; download it again")
    if bad:
        print(f"note: {bad} unreadable line of {files.place(name)} left out, first line {first}")


def _days(text: str) -> int | None:
    """Unix time of midnight UTC of "2017-12-17" or "Posted November 5, 2011."; None without a full date."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        found = _POSTED.match(text)
        if not found or found[1] not in _MONTHS:
            return None
        try:
            day = date(int(found[3]), _MONTHS[found[1]], int(found[2]))
        except ValueError:
            return None
    return calendar.timegm(day.timetuple())


def _reviews(files: PublishedFiles, seen: set[str]) -> Iterator[str]:
    """One line per review of steam_reviews; fills `seen` with the games."""
    users: dict[str, int] = {}
    undated = 0
    yield "user_id:token\titem_id:token\ttimestamp:float\thours:float"
    for number, record in _records(files, REVIEWS):
        try:
            user, item, when = record["username"], str(record["product_id"]), _days(record["date"])
            number_of_user, hours = users.setdefault(user, len(users)), float(record.get("hours") or 0)
        except (KeyError, TypeError, ValueError) as error:
            raise _lacks(files, REVIEWS, number, "username, product_id, date and hours", error) from error
        if when is None:
            undated += 1
            continue
        seen.add(cell(item))
        yield f"{number_of_user}\t{cell(item)}\t{when}\t{hours}"
    yield from _finish(files, REVIEWS, seen, undated)


def _australian(files: PublishedFiles, seen: set[str]) -> Iterator[str]:
    """One line per review of australian_user_reviews; fills `seen` with the games."""
    undated = 0
    yield "user_id:token\titem_id:token\ttimestamp:float\trecommend:float"
    users: dict[str, int] = {}
    for number, record in _records(files, AUSTRALIAN):
        try:
            reviews = [(str(r["item_id"]), _days(r["posted"]), int(bool(r["recommend"]))) for r in record["reviews"]]
            user = users.setdefault(record["user_id"], len(users))
        except (KeyError, TypeError) as error:
            raise _lacks(files, AUSTRALIAN, number, "user_id and reviews with item_id, posted, recommend", error) from error
        for item, when, liked in reviews:
            if when is None:  # reviews of the year of the crawl say "Posted July 24."
                undated += 1
                continue
            seen.add(cell(item))
            yield f"{user}\t{cell(item)}\t{when}\t{liked}"
    yield from _finish(files, AUSTRALIAN, seen, undated)


def _lacks(files: PublishedFiles, name: str, number: int, what: str, error: Exception) -> ValueError:
    return ValueError(f"{files.place(name)}, line {number}: expected {what} ({type(error).__name__}: {error})")


def _finish(files: PublishedFiles, name: str, seen: set[str], undated: int) -> Iterable[str]:
    if not seen:
        raise ValueError(f"{files.place(name)} has no dated review")
    if undated:
        print(f"note: {undated:,} reviews of {files.place(name)} have no full date and are left out")
    return ()


def _games(files: PublishedFiles) -> Iterator[tuple[str, str]]:
    """Yield (game, title)."""
    for _, record in _records(files, GAMES):
        if record.get("id") is not None:
            yield str(record["id"]), cell(str(record.get("title") or record.get("app_name") or ""))

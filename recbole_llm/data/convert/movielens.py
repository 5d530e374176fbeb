"""MovieLens (GroupLens; Harper and Konstan, 2015) as RecBole atomic files: ml-100k, ml-1m, ml-20m, ml-25m, ml-32m.

| release | ratings | movies | users |
|---|---|---|---|
| ml-100k | `u.data`, tabs | `u.item`, "|", latin-1 | `u.user` |
| ml-1m | `ratings.dat`, "::" | `movies.dat`, "::", latin-1 | `users.dat` |
| ml-20m, ml-25m, ml-32m | `ratings.csv` | `movies.csv` | none |

Columns are those of RecBole's own files: the year stands apart from the title, genres are separated by spaces. Articles
stay behind the title ("Usual Suspects, The"); `move_article` moves them when prompts are written. Rows keep the order of
the file.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from recbole_llm.data.convert.atomic import cell, item_lines
from recbole_llm.data.convert.files import PublishedFiles


class Release(NamedTuple):
    """Files of a release and its size, by which releases with files of the same names are told apart."""

    ratings: str
    movies: str
    users: str | None
    separator: str
    n_ratings: int
    n_movies: int


RELEASES = {
    "ml-100k": Release("u.data", "u.item", "u.user", "\t", 100_000, 1_682),
    "ml-1m": Release("ratings.dat", "movies.dat", "users.dat", "::", 1_000_209, 3_883),
    "ml-20m": Release("ratings.csv", "movies.csv", None, ",", 20_000_263, 27_278),
    "ml-25m": Release("ratings.csv", "movies.csv", None, ",", 25_000_095, 62_423),
    "ml-32m": Release("ratings.csv", "movies.csv", None, ",", 32_000_204, 87_585),
}
CSV_HEADER = "userId,movieId,rating,timestamp"
_ROW = {
    sep: re.compile(rf"\d+{sep}\d+{sep}\d(\.\d)?{sep}\d+", re.ASCII).fullmatch for sep in ("\t", "::", ",")
}
_YEAR = re.compile(r"^(?P<title>.*\S)\s*\((?P<year>\d{4})\)\s*$")
_GENRES = (  # of ml-100k's flags, in the order of its u.genre
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read."""
    release = RELEASES[dataset]
    return [name for name in (release.ratings, release.movies, release.users) if name]


def recognise(files: PublishedFiles) -> str | None:
    """The release that the files are of; None if they are none, or a part of one that cannot be told from others."""
    if "u.data" in files:
        return "ml-100k"
    if "ratings.dat" in files and "movies.dat" in files:
        return "ml-1m" if "users.dat" in files else "ml-10m"
    if not {"ratings.csv", "movies.csv"} <= set(files.names):
        return None
    readme = files.read("README.txt").decode("utf-8", "replace") if "README.txt" in files else ""
    named = re.search(r"This dataset \((ml-[\w-]+)\)", readme)
    if named:
        return named[1]
    movies = sum(1 for _ in files.lines("movies.csv")) - 1
    return next((name for name, release in RELEASES.items() if release.n_movies == movies), None)


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file."""
    seen: set[str] = set()
    release = RELEASES[dataset]
    genres = "class" if dataset == "ml-100k" else "genre"  # as RecBole calls them
    header = f"item_id:token\tmovie_title:token_seq\trelease_year:token\t{genres}:token_seq"
    made = {
        "inter": _ratings(files, dataset, seen),
        "item": item_lines(header, _movies(files, release), seen),
    }
    return made | ({"user": _users(files, release)} if release.users else {})


def _ratings(files: PublishedFiles, dataset: str, seen: set[str]) -> Iterator[str]:
    """The ratings in the order of the file; fills `seen` with the movies."""
    release = RELEASES[dataset]
    place, matches, separator = files.place(release.ratings), _ROW[release.separator], release.separator
    count = 0
    yield "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    for number, line in files.lines(release.ratings):
        if matches(line) is None:
            if separator == "," and number == 1 and line == CSV_HEADER:
                continue
            raise ValueError(
                f"{place}, line {number}: expected user, movie, rating and timestamp separated by {separator!r}, found {line[:60]!r}"
            )
        row = line.replace(separator, "\t")
        seen.add(row.split("\t", 2)[1])
        count += 1
        yield row
    if not count:
        raise ValueError(f"{place} has no rows")
    if count != release.n_ratings:
        print(f"note: {place} has {count:,} ratings, the release {dataset} has {release.n_ratings:,}")


def _title(text: str) -> tuple[str, str]:
    """("Toy Story (1995)") -> ("Toy Story", "1995"); no year, no change."""
    found = _YEAR.match(text)
    return (cell(found["title"]), found["year"]) if found else (cell(text), "")


def _movies(files: PublishedFiles, release: Release) -> Iterator[tuple[str, str, str, str]]:
    """Yield (movie, title, year, genres)."""
    place = files.place(release.movies)
    encoding = "utf-8" if release.separator == "," else "latin-1"
    lines = files.lines(release.movies, encoding)
    if release.separator == ",":
        rows = _csv_rows(place, (line for number, line in lines if number > 1))
    else:
        separator = "|" if release.movies == "u.item" else "::"
        rows = (line.split(separator) for _, line in lines if line)
    for number, row in enumerate(rows, start=1):
        if len(row) < 3 or not row[0].isdecimal():
            raise ValueError(f"{place}, row {number}: expected id, title and genres, found {str(row)[:60]}")
        flags = row[5:]  # id, title, two dates, address, a flag per genre
        if release.movies == "u.item":
            genres = " ".join(name for name, flag in zip(_GENRES, flags, strict=False) if flag == "1")
        else:
            genres = "" if row[2].startswith("(no genres") else cell(row[2].replace("|", " "))
        yield row[0], *_title(row[1]), genres


def _csv_rows(place, lines: Iterable[str]) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines)
    except csv.Error as error:
        raise ValueError(f"{place}: not comma-separated text ({error}); download it again") from error


def _users(files: PublishedFiles, release: Release) -> Iterator[str]:
    """Users with RecBole's columns; ages of ml-1m are the lower ends of its age groups."""
    place, in_1m = files.place(release.users), release.separator == "::"
    yield "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    for number, line in files.lines(release.users, "latin-1"):
        cells = [cell(text) for text in line.split("::" if in_1m else "|")]
        if len(cells) != 5:
            raise ValueError(f"{place}, line {number}: {len(cells)} columns, expected 5")
        user, age, gender, occupation, code = cells
        if in_1m:
            age, gender = gender, age
        yield "\t".join((user, age, gender, occupation, code))

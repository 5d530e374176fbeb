"""Last.fm (HetRec 2011, Cantador et al.) with timestamps as RecBole atomic files.

RecBole's own `lastfm` download has no timestamps, so it cannot be used sequentially. The tag assignments have them:
`user_taggedartists-timestamps.dat` (userID, artistID, tagID, timestamp in ms; tab-separated, with a header) gives
`lastfm.inter`, one line per tag assignment; `properties/dataset/lastfm.yaml` keeps the first of each (user, artist).
`artists.dat` (id, name, url, pictureURL) gives `lastfm.item`; it is UTF-8 with some bad bytes, which become U+FFFD.
"""

from collections.abc import Iterable, Iterator

from recbole_llm.data.convert.atomic import cell, item_lines
from recbole_llm.data.convert.files import PublishedFiles

TAGS, ARTISTS = "user_taggedartists-timestamps.dat", "artists.dat"
TAG_COLUMNS, ARTIST_COLUMNS = ["userID", "artistID", "tagID", "timestamp"], ["id", "name"]


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read."""
    return [TAGS, ARTISTS]


def recognise(files: PublishedFiles) -> str | None:
    """The dataset that the files are of, None if it is none of this module's."""
    return "lastfm" if TAGS in files else None


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file."""
    seen: set[str] = set()
    artists = ((cells[0], cell(cells[1])) for _, cells in _table(files, ARTISTS, ARTIST_COLUMNS))
    return {"inter": _interactions(files, seen), "item": item_lines("item_id:token\tname:token", artists, seen)}


def _table(files: PublishedFiles, name: str, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) after checking the header."""
    place = files.place(name)
    for number, line in files.lines(name, errors="replace"):
        cells = line.split("\t")
        if number == 1:
            if cells[: len(columns)] != columns:
                raise ValueError(f"{place}, line 1: expected the columns {', '.join(columns)}, found {', '.join(cells)}")
        elif line and len(cells) < len(columns):
            raise ValueError(f"{place}, line {number}: {len(cells)} columns, expected {len(columns)}")
        elif line:
            yield number, cells


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _interactions(files: PublishedFiles, seen: set[str]) -> Iterator[str]:
    """One line per tag assignment, in the order of the file; fills `seen` with the artists."""
    yield "user_id:token\titem_id:token\ttimestamp:float"
    for number, (user, artist, tag, time, *_) in _table(files, TAGS, TAG_COLUMNS):
        if not all(map(_is_integer, (user, artist, tag, time))):
            found = f"{user!r} {artist!r} {tag!r} {time!r}"
            raise ValueError(f"{files.place(TAGS)}, line {number}: expected four integers, found {found}")
        seen.add(artist)
        yield f"{user}\t{artist}\t{time}"
    if not seen:
        raise ValueError(f"{files.place(TAGS)} has no rows")

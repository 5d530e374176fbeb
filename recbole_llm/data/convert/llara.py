"""The splits released with LLaRA (and used by iLoRA) as RecBole benchmark files: MovieLens, Steam and LastFM.

Source: `train_data.df`, `Val_data.df`, `Test_data.df`, pickled DataFrames with `seq` (ten items, padded), `len_seq` and
`next`; titles in `id2name.txt` (`id::name`) or, for MovieLens, in ml-100k's `u.item`, whose ids the split counts from 0.
An item of MovieLens is a pair (id, rating). The three releases have the same file names; the id that pads short
histories is the number of items, and tells them apart.

Each row becomes one session of its own, "train-17", since RecBole merges the test rows of a user. Rows with
`len_seq` >= 3 are kept, as in the papers (LastFM: 47,872, 122 and 122). Where `Val_data.df` is absent, the latest row of
every tenth user of the training rows is kept for validation.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from recbole_llm.data.convert.atomic import cell, item_lines
from recbole_llm.data.convert.files import PublishedFiles
from recbole_llm.data.convert.pickles import read_frame

TITLES, MOVIES = "id2name.txt", "u.item"
PADDING = {"movielens-llara": 1682, "steam-llara": 3581, "lastfm-llara": 4606}
FRAMES = {"train": "train_data.df", "valid": "Val_data.df", "test": "Test_data.df"}
MIN_LENGTH = 3
WIDTH = 10  # items in `seq`
EVERY = 10  # users per validation row where the release has none
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")


class Row(NamedTuple):
    """One released row: its number in the frame, the history's ids, the next item's id."""

    number: int
    history: list[int]
    target: int


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read; the validation frame only where it is there."""
    frames = [name for split, name in FRAMES.items() if split != "valid" or name in files]
    return [*frames, MOVIES if dataset == "movielens-llara" else TITLES]


def recognise(files: PublishedFiles) -> str | None:
    """The split that the files are of, by the id that pads its histories; None where no row is padded."""
    for name in (FRAMES["test"], FRAMES["valid"], FRAMES["train"]):
        if name in files:
            frame = _frame(files, name)
            found = {
                _item(seq[length])
                for seq, length in zip(frame["seq"], frame["len_seq"], strict=True)
                if 0 <= length < len(seq)
            }
            if found:
                known = [dataset for dataset, padding in PADDING.items() if found == {padding}]
                return known[0] if known else f"another split (padded with {min(found)})"
    return None


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file."""
    titles = dict(_movies(files) if dataset == "movielens-llara" else _names(files))
    splits = {split: list(_rows(files, name, titles, dataset)) for split, name in FRAMES.items() if name in files}
    if "valid" not in splits:
        splits["train"], splits["valid"] = hold_out(splits["train"])
        print(
            f"note: {FRAMES['valid']} is absent; the latest training row of every {EVERY}th user, "
            f"{len(splits['valid'])} rows, is kept for validation"
        )
    items = ((str(item), title) for item, title in titles.items())
    made = {"item": item_lines("item_id:token\tname:token", items, {str(item) for item in titles})}
    return made | {f"{split}.inter": _lines(split, splits[split]) for split in FRAMES}


def hold_out(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Split training rows into (training, validation): the last row of every tenth user.

    A user's rows stand together, each history being the one before with its next item; the last next item is in no
    other row of the user.
    """
    last = [
        row
        for row, after in zip(rows, [*rows[1:], None], strict=True)
        if after is None or after.history != [*row.history, row.target][-WIDTH:]
    ]
    held = {row.number for row in last[EVERY - 1 :: EVERY]}
    if not held:
        raise ValueError(
            f"{FRAMES['valid']} is absent and {FRAMES['train']} has {len(last)} users, fewer than {EVERY}, so that no "
            f"validation row can be kept; add {FRAMES['valid']}"
        )
    return [row for row in rows if row.number not in held], [row for row in rows if row.number in held]


def _lines(split: str, rows: list[Row]) -> Iterator[str]:
    yield "user_id:token\titem_id:token\titem_id_list:token_seq"
    for row in rows:
        yield f"{split}-{row.number}\t{row.target}\t{' '.join(map(str, row.history))}"


def _item(value) -> int:
    """The id of an item that is an id or a pair (id, rating)."""
    return value[0] if isinstance(value, tuple) else value


def _frame(files: PublishedFiles, name: str) -> dict[str, list]:
    place = files.place(name)
    frame = read_frame(place, files.read(name))
    if missing := {"seq", "len_seq", "next"} - set(frame):
        raise ValueError(f"{place} has no column {', '.join(sorted(missing))}; it has {', '.join(frame)}")
    return frame


def _rows(files: PublishedFiles, name: str, titles: dict[int, str], dataset: str) -> Iterator[Row]:
    """Yield the rows with at least three history items.

    Raises:
        ValueError: a column is missing, or a row's length or ids are out of range.
    """
    place, frame = files.place(name), _frame(files, name)
    for number, (seq, length, target) in enumerate(zip(frame["seq"], frame["len_seq"], frame["next"], strict=True)):
        if length < MIN_LENGTH:  # the released rows of length 1 may hold nothing but padding
            continue
        if length > len(seq):
            raise ValueError(f"{place}, row {number}: len_seq {length} with {len(seq)} ids in seq")
        row = Row(number, [_item(value) for value in seq[:length]], _item(target))
        unknown = [item for item in (*row.history, row.target) if item not in titles]
        if unknown:
            source = MOVIES if dataset == "movielens-llara" else TITLES
            kind = "the padding id" if unknown[0] == PADDING[dataset] else f"an id that is not in {source}"
            raise ValueError(f"{place}, row {number}: {unknown[0]} among the first len_seq ids or as next is {kind}")
        yield row


def _names(files: PublishedFiles) -> Iterator[tuple[int, str]]:
    """(id, name) of each line of an `id::name` file.

    Raises:
        ValueError: a line is not one; names it.
    """
    for number, line in files.lines(TITLES):
        key, separator, name = line.partition("::")
        if line.strip():
            if not separator or not key.strip().isdecimal():
                raise ValueError(f"{files.place(TITLES)}, line {number}: expected id::name, found {line[:60]!r}")
            yield int(key), cell(name)


def _movies(files: PublishedFiles) -> Iterator[tuple[int, str]]:
    """(id from 0, title without its year) of ml-100k's `u.item`."""
    for number, line in files.lines(MOVIES, "latin-1"):
        key, separator, rest = line.partition("|")
        if line.strip():
            if not separator or not key.isdecimal():
                raise ValueError(f"{files.place(MOVIES)}, line {number}: expected id|title|..., found {line[:60]!r}")
            yield int(key) - 1, cell(_YEAR.sub("", rest.split("|")[0]))

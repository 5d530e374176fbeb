"""Reads atomic files (.inter, .item, .user ...) as text: the one reader of RecBole's datasets and of titles.

Values are taken as they are written: quotes are text, and "NA", "null" or "3.0" are ids. `data.records` says how a line
becomes values.
"""

import csv
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.data.records import lines_of, values_of

TYPES = ("token", "token_seq", "float", "float_seq")
_SEPARATORS = ("\t", ",", ";", "|", "::", " ")
_DATES = pd.Timestamp("1677-09-22", tz="UTC"), pd.Timestamp("2262-04-11", tz="UTC")  # as far as 64 bits of nanoseconds reach
_NO_NUMBER = frozenset({"", "nan", "na", "n/a", "null", "none"})  # ways to write an empty cell of a number column


@dataclass(frozen=True)
class Table:
    """The records of an atomic file, as they are written. n of each.

    Attributes:
        path: the file.
        types: field -> type of every column of the header, None where the header gives none.
        columns: field -> its values, of the fields asked for. list of str [n]
        lines: number of the line on which each record begins, from 1. int64 [n]
    """

    path: Path
    types: dict[str, str | None]
    columns: dict[str, list[str]]
    lines: np.ndarray

    def where(self, row: int) -> str:
        """File and line of a record, as messages name them."""
        return f"{self.path}, line {self.lines[row]}"

    def floats(self, field: str) -> np.ndarray:
        """The numbers of a column, NaN where a cell is empty. float64 [n]

        Raises:
            ValueError: a cell holds no finite number; names file, line and value of the first.
        """
        values, bad = _parse(self.columns[field])
        if bad is not None:
            raise ValueError(
                f"{self.where(bad)}: {field} is {self.columns[field][bad]!r}, and {field}:{self.types[field]} holds "
                f"numbers; correct the value, or declare the column {field}:token"
            )
        return values

    def times(self, field: str) -> np.ndarray | pd.arrays.IntegerArray:
        """As `floats`, for the column of times, which may also hold ISO 8601 dates: they become seconds since 1970.

        Integers beyond 2^53, of which float64 holds not all, stay integers (pandas' Int64, in which a cell can be empty).

        Raises:
            ValueError: a cell holds neither, or numbers and dates are mixed; names file, line and value.
        """
        text = self.columns[field]
        values, bad = _parse(text)
        if bad is None:
            integers = _integers(text) if (np.abs(values) > 2**53).any() else None
            return values if integers is None else integers
        cells = pd.Series(text, dtype=object)
        dates = pd.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")
        dates = dates.where(cells.str.match(r"\s*\d") & dates.between(*_DATES))  # to pandas "now" is a date, and so is one of 9999
        wrong = np.flatnonzero(dates.isna() & ~cells.str.strip().str.lower().isin(_NO_NUMBER))
        if len(wrong):
            bad = bad if bad in wrong or 2 * len(wrong) > len(text) else int(wrong[0])  # of two kinds, the rarer
            raise ValueError(
                f"{self.where(bad)}: {field} is {text[bad]!r}; interactions are put in order by numbers (seconds since "
                f"1970), or all by ISO dates (2018-09-01, 2018-09-01T12:30:00) from 1677-09-22 to 2262-04-11: rewrite the "
                f"column, or name another one with TIME_FIELD"
            )
        logging.getLogger().info(f"{self.path}: the dates in {field} are read as seconds since 1970")
        return ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(dtype=np.float64)


def _parse(text: list[str]) -> tuple[np.ndarray | None, int | None]:
    """(numbers, None), or (None, place of the first value that is no finite number)."""
    try:
        values = np.array(text, dtype=np.float64)
    except ValueError:
        text = ["nan" if value.strip().lower() in _NO_NUMBER else value for value in text]
        try:
            values = np.array(text, dtype=np.float64)
        except ValueError:
            return None, next(row for row, value in enumerate(text) if not _is_number(value))
    infinite = np.flatnonzero(np.isinf(values))
    return (None, int(infinite[0])) if len(infinite) else (values, None)


def _integers(text: list[str]) -> pd.arrays.IntegerArray | None:
    """Integers as they are written, NA where a cell is empty; None where one is no integer or too large to subtract in int64."""
    try:
        values = [None if value.strip().lower() in _NO_NUMBER else int(value) for value in text]
    except ValueError:
        return None
    return pd.array(values, dtype="Int64") if all(value is None or abs(value) < 2**62 for value in values) else None


def _is_number(value: str) -> bool:
    try:
        return not np.isinf(float(value))
    except ValueError:
        return False


def read_header(path, separator: str = "\t", encoding: str | None = None) -> dict[str, str | None]:
    """Return the columns of an atomic file, field -> type (None where the header gives none).

    Raises:
        ValueError: the file has no header, its columns are separated by something else, two have one name, or there is no
            such encoding.
    """
    path, encoding = Path(path), encoding or "utf-8"
    try:
        with open(path, encoding=encoding) as lines:
            header = lines.readline().removesuffix("\n")
    except (UnicodeError, LookupError):
        header = lines_of(path, encoding)[0]  # names the byte, or the encoding
    return _fields(header.removeprefix("\ufeff"), path, separator)


def _fields(header: str, path: Path, separator: str) -> dict[str, str | None]:
    if not separator:
        raise ValueError(f"{path}: field_separator is {separator!r}; set it to what stands between the columns, e.g. \"\\t\" or \",\"")
    if not header.strip():
        raise ValueError(f"{path} is empty; its first line must be a header such as user_id:token<TAB>item_id:token")
    names = _split_quoted(header, separator)
    parts = [name.rpartition(":") for name in names]
    fields = [field or name for name, (field, _, _) in zip(names, parts, strict=True)]
    if len(names) == 1 or any(":" in field for field in fields):
        if other := _other_separator(header, separator):
            raise ValueError(
                f"{path}: its columns are separated by {other!r}, not by field_separator {separator!r}; set "
                f"field_separator: {other!r}"
            )
    if twice := sorted({field for field in fields if fields.count(field) > 1}):
        raise ValueError(f"{path}: the header names {', '.join(map(repr, twice))} twice; rename one of the columns")
    return {field: kind if colon else None for field, (_, colon, kind) in zip(fields, parts, strict=True)}


def _split_quoted(header: str, separator: str) -> list[str]:
    if header.startswith('"') and len(separator) == 1:
        return next(csv.reader([header], delimiter=separator))
    return header.split(separator)


def _other_separator(header: str, separator: str) -> str | None:
    """The separator that makes sense of a header which `separator` does not split."""
    for other in _SEPARATORS:
        parts = header.split(other)
        if other != separator and len(parts) > 1 and all(re.fullmatch(r'"?\w+(:\w+)?"?', part) for part in parts):
            return other
    return None


def read_table(path, separator: str = "\t", encoding: str | None = None, wanted=None) -> Table:
    """Read an atomic file.

    Args:
        path: the file.
        separator: between columns.
        encoding: of the file; None for UTF-8.
        wanted: a function that is given the header (field -> type) and returns the fields to keep; None for all.

    Raises:
        ValueError: the file is not text in `encoding`, `separator` is empty, or a line does not fit the header; names file
            and line.
    """
    path = Path(path)
    lines = lines_of(path, encoding or "utf-8")
    types = _fields(lines[0], path, separator)
    fields = list(types)
    kept = fields if wanted is None else list(wanted(types))
    values, numbers = values_of(lines, separator, len(fields), path)
    columns = {field: values[fields.index(field) :: len(fields)] for field in kept}
    return Table(path, types, columns, numbers)

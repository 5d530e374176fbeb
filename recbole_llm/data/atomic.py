"""Reads atomic files (.inter, .item, .user ...) as text: the one reader of RecBole's datasets and of titles.

A record is a line, its values stand between `field_separator`s, and nothing is interpreted: quotes are text, and "NA",
"null" or "3.0" are ids. Where the header is quoted, or where the lines have not as many values as the header and as
CSV (RFC 4180: a quoted value may hold separators and line breaks) they have, a file is read as CSV. A quoted value that
fits on its line is unquoted where doubled quotes inside show that a CSV writer made it. Lines end in \\n or \\r\\n (in a
file without \\n in \\r), blank lines are skipped, and a byte order mark is dropped.
"""

import csv
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TYPES = ("token", "token_seq", "float", "float_seq")
_SEPARATORS = ("\t", ",", ";", "|", "::", " ")
_NO_NUMBER = frozenset({"", "nan", "na", "n/a", "null", "none"})  # ways to write an empty cell of a number column
_NAMED = 5  # lines shown in a message


@dataclass(frozen=True)
class Table:
    """The records of an atomic file, as they are written. n of each.

    Attributes
    ----------
    types : field -> type of every column of the header, None where the header gives none
    columns : field -> its values, of the fields asked for. list of str [n]
    lines : number of the line on which each record begins, from 1. int64 [n]
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

        Raises
        ------
        ValueError
            Names file, line and value of the first cell that holds no finite number.
        """
        values, bad = _parse(self.columns[field])
        if bad is not None:
            raise ValueError(
                f"{self.where(bad)}: {field} is {self.columns[field][bad]!r}, and {field}:{self.types[field]} holds "
                f"numbers; correct the value, or declare the column {field}:token"
            )
        return values

    def times(self, field: str) -> np.ndarray:
        """As `floats`, for the column of times, which may also hold ISO 8601 dates: they become seconds since 1970."""
        text = self.columns[field]
        values, bad = _parse(text)
        if bad is None:
            return values
        dates = pd.to_datetime(pd.Series(text, dtype=object), format="ISO8601", utc=True, errors="coerce")
        wrong = np.flatnonzero(dates.isna() & ~pd.Series(text, dtype=object).str.strip().str.lower().isin(_NO_NUMBER))
        if len(wrong):
            bad = bad if bad in wrong or 2 * len(wrong) > len(text) else int(wrong[0])  # of two kinds, the rarer
            raise ValueError(
                f"{self.where(bad)}: {field} is {text[bad]!r}; interactions are put in order by numbers (seconds since "
                f"1970), or all by ISO dates (2018-09-01, 2018-09-01T12:30:00): rewrite the column, or name another "
                f"one with TIME_FIELD"
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


def _is_number(value: str) -> bool:
    try:
        return not np.isinf(float(value))
    except ValueError:
        return False


def read_header(path, separator: str = "\t", encoding: str | None = None) -> dict[str, str | None]:
    """Return the columns of an atomic file, field -> type (None where the header gives none).

    Raises
    ------
    ValueError
        If the file has no header, its columns are separated by something else, or two have one name.
    """
    path, encoding = Path(path), encoding or "utf-8"
    try:
        with open(path, encoding=encoding) as lines:
            header = lines.readline().removesuffix("\n")
    except UnicodeError:
        header = _lines(path, encoding)[0]  # names the byte
    return _fields(header.removeprefix("\ufeff"), path, separator)


def _fields(header: str, path: Path, separator: str) -> dict[str, str | None]:
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


def _lines(path: Path, encoding: str) -> list[str]:
    """The lines of a file without their ends.

    Raises
    ------
    ValueError
        Names the first byte that is no text in this encoding.
    """
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content.count(b"\n", 0, start) + 1
        utf16 = " (it begins with the mark of UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(
            f"{path}: byte {start} is not {encoding} text; set `encoding` to the file's own (line {line}){utf16}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: a NUL character, so this is no {encoding} text; set `encoding`")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    return (text if "\n" in text else text.replace("\r", "\n")).split("\n")


def read_table(path, separator: str = "\t", encoding: str | None = None, wanted=None) -> Table:
    """Read an atomic file.

    Parameters
    ----------
    wanted : function that is given the header (field -> type) and returns the fields to keep; None: all

    Raises
    ------
    ValueError
        If the file is not text in `encoding`, or a line does not fit the header; file and line are named.
    """
    path = Path(path)
    lines = _lines(path, encoding or "utf-8")
    types = _fields(lines[0], path, separator)
    fields = list(types)
    kept = fields if wanted is None else list(wanted(types))
    values, numbers = _values(lines, separator, len(fields), path)
    columns = {field: values[fields.index(field) :: len(fields)] for field in kept}
    return Table(path, types, columns, numbers)


def _values(lines: list[str], separator: str, width: int, path: Path) -> tuple[list[str], np.ndarray]:
    """All values one after the other, `width` of each record, and the line of each record."""
    numbers = np.array([number for number, line in enumerate(lines, start=1) if line.strip(" ")][1:], dtype=np.int64)
    body = [line for line in lines[1:] if line.strip(" ")]
    counts = np.array([line.count(separator) for line in body], dtype=np.int64) + 1
    exact = bool((counts == width).all())
    odd = [i for i, line in enumerate(body) if line.count('"') % 2]  # where a quoted value may run on
    if lines[0].startswith('"') or odd or not exact and any('"' in line for line in body):
        records = _csv_records(lines, separator, width)
        if records is not None and _is_csv(records, lines, counts, numbers, width, path):
            return [value for _, _, record in records for value in record], np.array([start for start, _, _ in records])
        if lines[0].startswith('"'):
            raise ValueError(f"{path}: the header is quoted, but the file is no CSV that can be read: write values with "
                             f"{separator!r}, quotes or line breaks in quotes, and double the quotes inside")  # fmt: skip
    if not exact:
        body = _evened(body, counts, numbers, separator, width, path, bool(odd))
    values = separator.join(body).split(separator) if body else []
    return [_unescape(value) if value[:1] == '"' else value for value in values], numbers


def _csv_records(lines: list[str], separator: str, width: int) -> list[tuple[int, int, list[str]]] | None:
    """(first line, last line, values) of each record, or None where the file is not CSV with `width` values in each."""
    if len(separator) != 1:
        return None
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    before, end, records = csv.field_size_limit(2**31 - 1), 0, []
    try:
        for record in reader:
            start, end = end + 1, reader.line_num
            if record and len(record) != width:
                return None
            if record:
                records.append((start, end, record))
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(before)
    return records[1:]


def _is_csv(records, lines, counts, numbers, width, path) -> bool:
    """Whether quoted values of several lines are values, rather than rows between two stray quotes.

    Raises
    ------
    ValueError
        Names the lines where both are possible.
    """
    like_rows = dict(zip(numbers.tolist(), (counts == width).tolist(), strict=True))  # line -> has the header's width
    exact = len(like_rows) == sum(like_rows.values())
    for start, end, _ in records:
        inner = [like_rows.get(number, False) for number in range(start + 1, end)]
        if exact and len(inner) > 0 and not lines[0].startswith('"'):
            logging.getLogger().warning(
                f"{path}: lines {start} to {end} stand between two stray quotes and are read as {end - start + 1} rows"
            )
            return False
        if end > start and exact and not lines[0].startswith('"') or len(inner) > 1 and 2 * sum(inner) > len(inner):
            raise ValueError(
                f"{path}, line {start}: a quote opens that line {end} closes, and the lines are rows as well as one "
                f"quoted value; remove the quotes, or remove the line breaks between them"
            )
    return not exact or lines[0].startswith('"')


def _evened(body, counts, numbers, separator, width, path, quotes: bool) -> list[str]:
    """The lines with empty values for those that are missing at the end: editors strip empty columns there."""
    wrong = np.flatnonzero(counts > width)
    if not len(wrong) and quotes:
        wrong = np.flatnonzero(counts < width)
    if len(wrong):
        at = wrong[0]
        raise ValueError(
            f"{path}, line {numbers[at]}: {counts[at]} columns where the header has {width}; remove the "
            f"field_separator {separator!r} and line breaks from the text, or write such values as CSV does, in quotes "
            f"and with quotes inside doubled"
        )
    short = np.flatnonzero(counts < width)
    shown = ", ".join(map(str, numbers[short[:_NAMED]].tolist())) + (" ..." if len(short) > _NAMED else "")
    logging.getLogger().warning(
        f"{path}: {len(short)} lines have fewer columns than the header's {width}; what is missing is empty: line {shown}"
    )
    return [line + separator * (width - count) for line, count in zip(body, counts.tolist(), strict=True)]


def _unescape(value: str) -> str:
    """Undo CSV quoting where it is certain: outer quotes and only doubled quotes inside, one pair at least."""
    inner = value[1:-1]
    quoted = len(value) > 2 and value[0] == value[-1] == '"' and '""' in inner
    return inner.replace('""', '"') if quoted and '"' not in inner.replace('""', "") else value

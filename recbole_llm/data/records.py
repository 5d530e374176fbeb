"""From the bytes of an atomic file to lines, and from lines to values.

A record is a line, and its values stand between `field_separator`s. Where the header is quoted, or where the lines have
not as many values as the header and as CSV (RFC 4180: a quoted value may hold separators and line breaks) they have, a
file is read as CSV. A quoted value that fits on its line is unquoted where doubled quotes inside show that a CSV writer
made it. Lines end in \\n or \\r\\n (in a file without \\n in \\r), blank lines are skipped, and a byte order mark is dropped.
"""

import csv
import logging
from pathlib import Path

import numpy as np

_NAMED = 5  # lines shown in a message


def lines_of(path: Path, encoding: str) -> list[str]:
    """The lines of a file without their ends.

    Raises:
        ValueError: there is no such encoding, or a byte is no text in it; names the first.
    """
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise ValueError(
            f"{path}: `encoding` is {encoding!r}, which Python does not know as an encoding of text; set it to the file's own, "
            f"e.g. utf-8, utf-16 or latin-1"
        ) from error
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


def values_of(lines: list[str], separator: str, width: int, path: Path) -> tuple[list[str], np.ndarray]:
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

    Raises:
        ValueError: both are possible; names the lines.
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
    """Undo CSV quoting where there is no doubt: outer quotes and only doubled quotes inside, one pair at least."""
    inner = value[1:-1]
    quoted = len(value) > 2 and value[0] == value[-1] == '"' and '""' in inner
    return inner.replace('""', '"') if quoted and '"' not in inner.replace('""', "") else value

"""Streams of JSON, one object per line."""

import json
from collections.abc import Iterator

from recbole_llm.data.convert.files import PublishedFiles


def records(files: PublishedFiles, name: str, keys: tuple[str, ...]) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object).

    Raises:
        ValueError: a line is no JSON object, or lacks one of `keys`; names file and line.
    """
    place = files.place(name)
    for number, line in files.lines(name):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}, line {number}: not JSON ({error}); download it again") from error
        if not isinstance(record, dict) or any(key not in record for key in keys):
            raise ValueError(f"{place}, line {number}: expected an object with {', '.join(keys)}, found {line[:60]!r}")
        yield number, record

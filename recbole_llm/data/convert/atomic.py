"""Writing a dataset's RecBole atomic files: all of them or none, streamed."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from recbole_llm.runtime.files import place_of, put_back, put_folder

_CHUNK = 8192  # lines held in memory
_NAMED = 5  # ids shown in a note


def cell(text: str) -> str:
    """Return text without the characters that separate columns and lines."""
    return " ".join(text.replace("\t", " ").split())


def item_lines(header: str, rows: Iterable[tuple[str, ...]], wanted: set[str]) -> Iterator[str]:
    """Yield the lines of an .item file: every wanted item once, those without a title with empty cells.

    Args:
        header: the first line; as many columns as a row has cells.
        rows: (item, title, ...) of any items; the first row of an item that has a title counts.
        wanted: the items that occur in the interactions, complete when the first row is asked for.

    Raises:
        ValueError: no item has a title, so that the two files are not of one dataset.
    """
    yield header
    missing, empty = set(wanted), "\t" * header.count("\t")
    shown = None
    for row in rows:
        shown = shown or row[0]
        if row[0] in missing and row[1]:
            missing.discard(row[0])
            yield "\t".join(row)
    if missing and len(missing) == len(wanted):
        raise ValueError(
            f"none of the {len(wanted)} items has a title: an id of the interactions is {min(missing)!r}, one of the "
            f"titles {shown!r}. Both files must be of one release; download them again"
        )
    if missing:
        some = ", ".join(sorted(missing)[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        print(f"note: {len(missing)} of {len(wanted)} items have no title, prompts name them by their id: {some}")
    yield from (item + empty for item in sorted(missing))


@contextmanager
def _writing(folder: Path):
    """Name the folder and the remedy in an error of the operating system (a full disk)."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {folder} ({error.strerror}); free space or choose another --target"
        raise OSError(error.errno, message) from error


def _write_file(path: Path, lines: Iterable[str], folder: Path) -> int:
    """Write lines to a file and return their number; errors of their source pass as they are."""
    rows, count = iter(lines), 0
    with _writing(folder):
        file = open(path, "w", encoding="utf-8", newline="\n")
    try:
        while chunk := list(islice(rows, _CHUNK)):
            count += len(chunk)
            with _writing(folder):
                file.write("\n".join(chunk) + "\n")
    except BaseException:
        with suppress(OSError):  # the file is thrown away
            file.close()
        raise
    with _writing(folder):
        file.close()
    return count


def write_dataset(target, dataset: str, files: Mapping[str, Iterable[str]], force: bool = False) -> Path:
    """Write `<target>/<dataset>/<name>` for every name -> lines, in that order, whole or not at all.

    Raises:
        FileExistsError: the folder holds files already and `force` is not set.
        OSError: it cannot be written (a full disk); the target is as it was before.
    """
    folder = place_of(Path(target) / dataset)
    put_back(folder)
    if folder.exists() and any(folder.iterdir()) and not force:
        raise FileExistsError(f"{folder} holds files already; pass --force to replace it, or choose another --target")
    is_new = not folder.parent.exists()
    working = None
    try:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            working = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{dataset}."))
            (working / "new").mkdir()
        counts = {name: _write_file(working / "new" / name, lines, folder) for name, lines in files.items()}
        with _writing(folder):
            put_folder(working / "new", folder)
    finally:
        if working is not None:
            shutil.rmtree(working, ignore_errors=True)
        if is_new and folder.parent.exists() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    for name, count in counts.items():
        if name.endswith((".inter", ".item", ".user")):
            print(f"{name}: {count - 1:,} rows")
    return folder

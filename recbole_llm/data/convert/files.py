"""The published files of a dataset, read as streams from a folder, a zip archive, or a folder of zip archives.

Files are known by their name, with or without ".gz" and wherever they lie in an archive; nothing is unpacked to disk.
Checksums of zip members (CRC-32) and gzip files are checked as they are read to the end.
"""

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

LONGEST_LINE = 1 << 26  # bytes
_BUFFER = 1 << 20
_EVERY = 50_000  # lines between two updates of the progress bar


class Place(NamedTuple):
    """Where a file is: on disk, or a member of the zip archive at `path`."""

    path: Path
    member: str | None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


def _damaged(place, error) -> ValueError:
    return ValueError(f"{place} is truncated or damaged ({error}); delete it and download it again")


class PublishedFiles:
    """What lies at `--source`.

    Attributes:
        path: the folder or archive.
        names: file names without ".gz", sorted.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: an archive is damaged, or has an entry that points outside of it.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"--source {path} does not exist; give the folder or archive with the published files")
        self._places: dict[str, list[Place]] = {}
        found = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        archives = [file for file in found if file.suffix.lower() == ".zip"]
        for file in found:
            if file.is_file() and file not in archives:
                self._add(file.name, Place(file, None))
        for archive in archives:
            for member in _members(archive):
                self._add(PurePosixPath(member).name, Place(archive, member))

    def _add(self, name: str, place: Place) -> None:
        self._places.setdefault(name.removesuffix(".gz"), []).append(place)

    @property
    def names(self) -> list[str]:
        return sorted(self._places)

    def find(self, pattern: str) -> list[str]:
        """Names that match a pattern as in a shell ("meta_*.jsonl")."""
        return [name for name in self.names if fnmatch(name, pattern)]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def place(self, name: str) -> Place:
        """Where a file is; a file on disk goes before the same file in an archive.

        Raises:
            ValueError: the name occurs more than once.
        """
        places = self._places[name]
        best = [place for place in places if place.member is None] or places
        if len(best) > 1:
            raise ValueError(
                f"{self.path} holds {name} more than once: {', '.join(map(str, best[:3]))}. Give --source the one "
                f"archive or folder of the dataset"
            )
        return best[0]

    def read(self, name: str) -> bytes:
        """A whole file, for small ones."""
        place = self.place(name)
        with ExitStack() as stack:
            try:
                return _open(place, stack)[0].read()
            except (EOFError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile) as error:
                raise _damaged(place, error) from error

    def lines(self, name: str, encoding: str = "utf-8", errors: str = "strict") -> Iterator[tuple[int, str]]:
        """Yield (line number from 1, text without its end) with a progress bar once it takes seconds.

        Raises:
            ValueError: the file is damaged, not text of this encoding, or has a line above 64 MiB.
        """
        place, number = self.place(name), 0
        with ExitStack() as stack:
            stream, position, size = _open(place, stack)
            bar = stack.enter_context(tqdm(total=size, unit="B", unit_scale=True, desc=name, delay=1, leave=False))
            try:
                while line := stream.readline(LONGEST_LINE):
                    number += 1
                    if number % _EVERY == 0:
                        bar.update(position.tell() - bar.n)
                    if len(line) == LONGEST_LINE:
                        raise ValueError(f"{place}, line {number}: longer than {LONGEST_LINE >> 20} MiB; not such a file")
                    text = line.decode(encoding, errors).rstrip("\r\n")
                    yield number, text.removeprefix("\ufeff") if number == 1 else text
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}, line {number}: not {encoding} text ({error.reason})") from error
            except (EOFError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile) as error:
                raise _damaged(place, error) from error


def _members(archive: Path) -> list[str]:
    """File entries of a zip archive; no entry is ever written to disk, and one that points elsewhere is refused."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = [entry.filename for entry in content.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, EOFError) as error:
        raise _damaged(archive, error) from error
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or parts.parts[0].endswith(":"):
            raise ValueError(f"{archive}: the entry {name!r} points outside the archive; get it again from its publisher")
    return names


def _open(place: Place, stack: ExitStack) -> tuple[BinaryIO, BinaryIO, int]:
    """A stream of the content, the stream whose position is the progress, and the latter's size in bytes."""
    if place.member is None:
        raw = stack.enter_context(open(place.path, "rb"))
        name, size = place.path.name, place.path.stat().st_size
    else:
        archive = stack.enter_context(zipfile.ZipFile(place.path))
        raw = stack.enter_context(archive.open(place.member))
        name, size = place.member, archive.getinfo(place.member).file_size
    stream = raw
    if name.endswith(".gz"):
        stream = stack.enter_context(gzip.GzipFile(fileobj=raw))
    return io.BufferedReader(stream, _BUFFER), raw, size

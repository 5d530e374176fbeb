"""Files and folders that are whole or not there: written under another name beside their place, then renamed.

A name aside begins with a dot, so that no search for results or checkpoints finds it, and is drawn: two threads, or the processes of
two containers that have the same number, write to files of their own. What stands at a symbolic link is written where it leads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike, elsewhere: str | None = None) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when the block ends without an error.

    Args:
        path: the file's place; its folder must be there.
        elsewhere: how to choose another place; an OSError then says it, with what was being written.

    Raises:
        OSError: the disk is full, say; a file that was at ``path`` is untouched.
    """
    path = place_of(path)
    aside = _aside(path)
    with explained(path, elsewhere):
        try:
            aside.touch()
            mode = aside.stat().st_mode
            yield aside
            aside.chmod(mode)  # safetensors' writer lets nobody else read
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | os.PathLike, elsewhere: str | None = None, sync: bool = False) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` when the block ends without an error.

    Args:
        folder: its place; parents are made.
        elsewhere: as in :func:`whole_file`.
        sync: bring every file to the disk before the folder is renamed, so that a power cut leaves no half of it.

    Raises:
        OSError: it cannot be written; a folder that was there is untouched.
    """
    folder = place_of(folder)
    aside = _aside(folder)
    with explained(folder, elsewhere):
        try:
            aside.mkdir(parents=True)
            yield aside
            mode = aside.stat().st_mode & 0o666
            for path in filter(Path.is_file, aside.rglob("*")):
                path.chmod(mode)  # safetensors' writer lets nobody else read
            if sync:
                for path in (*aside.rglob("*"), aside):
                    _sync(path)
            put_folder(aside, folder)
            if sync:
                _sync(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def put_folder(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; what was there is removed, or stays where that fails.

    A kill between the two renames leaves what was there as ``.NAME.old``, which :func:`put_back` finds; a later one leaves it beside
    ``folder``, until it is written or put back again.
    """
    put_back(folder)
    old = _old(folder)
    if folder.exists():
        _discard(old)
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except BaseException:
        put_back(folder)
        raise
    _discard(old)


def put_back(folder: Path) -> None:
    """Give a folder its name back that a writer, killed while it put another in its place, left as ``.NAME.old``; beside a good one it goes."""
    if not _old(folder).is_dir():
        return
    if folder.exists():
        _discard(_old(folder))
    else:
        os.replace(_old(folder), folder)


def put_all_back(parent: Path) -> None:
    """:func:`put_back` for every folder in ``parent``; no other process may be writing there."""
    for old in parent.glob(".*.old"):
        put_back(old.with_name(old.name[1:].removesuffix(".old")))


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half of it bears its name, and nothing is left to be put back."""
    _discard(_old(folder))
    _discard(folder)


def place_of(path: str | os.PathLike) -> Path:
    """Where a file or folder lies: at ``path``, or where the symbolic link leads that is there."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def expanded(path: str | os.PathLike) -> Path:
    """A path whose ``~`` is the user's home; of a home that is not known, as it is: no such file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def file_sha256(path: str | os.PathLike) -> str:
    """The sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | os.PathLike, text: str, elsewhere: str | None = None) -> None:
    """Write a text file in UTF-8, whole or not at all; ``elsewhere`` as in :func:`whole_file`."""
    with whole_file(path, elsewhere) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def explained(path: Path, elsewhere: str | None) -> Iterator[None]:
    """Say in an OSError of the block what was being written and what helps; without ``elsewhere`` it passes as it is."""
    try:
        yield
    except OSError as error:
        if elsewhere is None:
            raise
        remedy = "free some space" if error.errno == errno.ENOSPC else "check the folder's permissions"
        raise OSError(error.errno, f"{error.strerror or error} while writing {path}; {remedy} or {elsewhere}") from error


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _discard(folder: Path) -> None:
    """Remove a folder, if it is there, under a name that nobody looks for."""
    if folder.exists():
        aside = _aside(folder)
        os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

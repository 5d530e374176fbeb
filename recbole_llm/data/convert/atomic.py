"""Writing a dataset's RecBole atomic files: all of them or none."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def cell(text: str) -> str:
    """Return text without the characters that separate columns and lines."""
    return " ".join(text.replace("\t", " ").split())


def write_dataset(target, dataset: str, files: Mapping[str, Iterable[str]], force: bool = False) -> Path:
    """Write `<target>/<dataset>/<name>` for every name -> lines, whole or not at all.

    Raises
    ------
    FileExistsError
        If the folder holds files already and `force` is not set.
    OSError
        If it cannot be written (a full disk); the target is as it was before.
    """
    folder = Path(target) / dataset
    if folder.exists() and any(folder.iterdir()) and not force:
        raise FileExistsError(f"{folder} holds files already; pass --force to replace it, or choose another --target")
    working = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{dataset}."))
        new, old = working / "new", working / "old"
        new.mkdir()
        for name, lines in files.items():
            with open(new / name, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        message = f"cannot write {folder} ({error.strerror}); free space or choose another --target"
        raise OSError(error.errno, message) from error
    finally:
        if working is not None:
            if (working / "old").exists() and not folder.exists():
                (working / "old").rename(folder)
            shutil.rmtree(working, ignore_errors=True)
    return folder

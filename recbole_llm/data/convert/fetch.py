"""Fetching what `data_path` lacks, on first use of a dataset or by `python -m recbole_llm.data.convert NAME`."""

import json
import logging
import os
import shutil
from datetime import UTC, datetime
from glob import escape
from pathlib import Path

from filelock import FileLock

from recbole_llm.data.convert.convert import convert
from recbole_llm.data.convert.download import RemoteFile, download
from recbole_llm.data.convert.sources import Source, source_of
from recbole_llm.runtime.files import place_of, put_back

RECORD = "source.json"
_ON = ("1", "on", "yes", "true")


def is_offline(config) -> bool:
    """Whether `offline` or one of the environment's variables RECBOLE_LLM_OFFLINE, HF_HUB_OFFLINE forbids downloads."""
    variables = ("RECBOLE_LLM_OFFLINE", "HF_HUB_OFFLINE")
    return bool(config["offline"]) or any(os.environ.get(name, "").lower() in _ON for name in variables)


def ensure_dataset(config) -> None:
    """Fetch and convert the dataset if `data_path` holds none of its files and its source is known.

    Raises:
        FileNotFoundError, ConnectionError: it cannot be fetched; names the file, the addresses and the command.
        ValueError, OSError: what came is not the dataset, or cannot be written.
    """
    folder, dataset = Path(config["data_path"]), config["dataset"]
    put_back(place_of(folder))  # of a conversion that was killed while it replaced the files
    if any(folder.glob(f"{escape(dataset)}*.inter")):
        return
    source = source_of(dataset, config["source"])
    if source is not None:
        fetch(source, folder.parent, is_offline(config))


def fetch(source: Source, target, offline: bool = False, force: bool = False, sha256: str | None = None) -> Path:
    """Download a dataset's files, check and convert them; return `<target>/<dataset>`.

    The downloads are kept under `<target>/.download/` until they are converted, so that a broken one goes on later.
    One process works at a time; the others find the dataset when it is their turn.

    Args:
        sha256: accepted in place of the digest of the source's only file.
    """
    target = Path(target)
    folder, downloads = target / source.dataset, target / ".download" / source.dataset
    wanted = f"{folder / source.dataset}.inter is missing"
    if not source.files:
        which = f" name one of its categories, {source.dataset}-{source.categories[0]} ...;" if source.categories else ""
        raise FileNotFoundError(f"{wanted} and has no address to fetch it from;{which} {source.by_hand(target)}")
    if offline and not all(file.url.startswith("file:") for file in source.files):
        raise FileNotFoundError(f"{wanted}, and downloads are off (offline). {source.by_hand(target)}")
    downloads.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads.parent / f"{source.dataset}.lock"):
        if not force and any(folder.glob(f"{escape(source.dataset)}*.inter")):
            return folder
        files = [_with_digest(file, source, folder, sha256) for file in source.files]
        if source.licence:
            print(f"{source.dataset}: {source.licence}")
        try:
            got = [record for file in files if (record := download(file, downloads)) is not None]
        except ConnectionError as error:
            raise ConnectionError(f"{wanted}, and {error}. {source.by_hand(target)}") from error
        record = {"dataset": source.dataset, "converter": source.converter, "page": source.page}
        record |= {"licence": source.licence, "fetched": datetime.now(UTC).date().isoformat(), "files": got}
        lines = json.dumps(record, indent=1).split("\n")
        settings = {"converter": source.converter, "page": source.page}
        made = convert(source.dataset, downloads, target, force, settings, {RECORD: lines})
        shutil.rmtree(downloads)
    logging.getLogger().info(f"{source.dataset}: fetched and converted to {made}")
    return made


def _with_digest(file: RemoteFile, source: Source, folder: Path, sha256: str | None) -> RemoteFile:
    """The file with the digest that it must have: given, published, or recorded when it was fetched before."""
    if sha256 and len(source.files) == 1:
        return file._replace(sha256=sha256.lower())
    if file.sha256 is None and (folder / RECORD).is_file():
        recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known = {one["url"]: one["sha256"] for one in recorded["files"]}
        return file._replace(sha256=known.get(file.url))
    return file

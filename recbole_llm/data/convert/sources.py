"""Where datasets come from: the `source` of a dataset's YAML, and fetching what `data_path` lacks on first use.

    source:
      converter: movielens        # a module of this package
      page: https://...           # where people find the files and their terms
      licence: ...                # printed once, before the download
      files:                      # what is downloaded
        - {url: https://..., sha256: ...}      # null: not published; then the hash of the first download is recorded
      categories: [Books, ...]    # `<dataset>-<category>` are datasets too, ...
      category_files: [...]       # ... made of these files, {category} in their addresses

Datasets without a YAML here that RecBole's table knows are fetched from there, by the same way.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from glob import escape
from pathlib import Path

import yaml
from filelock import FileLock

from recbole_llm.data.convert.download import RemoteFile, download

COMMAND = "python -m recbole_llm.data.convert {} --source DIR"
RECORD = "source.json"
_KEYS = {"converter", "page", "licence", "files", "categories", "category_files"}
_ON = ("1", "on", "yes", "true")


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from; see the module."""

    dataset: str
    converter: str
    files: tuple[RemoteFile, ...] = ()
    page: str | None = None
    licence: str | None = None
    categories: tuple[str, ...] = ()

    def by_hand(self, target) -> str:
        """How to get the dataset without this package's downloads."""
        addresses = ", ".join(file.url for file in self.files)
        fetch = f"Fetch {addresses or 'the files'}" + (f" (see {self.page})" if self.page else "")
        return f"{fetch} into a folder DIR, then: {COMMAND.format(self.dataset)} --target {target}"


@cache
def _recbole_table() -> dict[str, str]:
    """RecBole's dataset -> address of its processed archive."""
    import recbole

    path = Path(recbole.__file__).parent / "properties/dataset/url.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _own() -> dict[str, dict]:
    """Dataset -> `source` of the plugin's YAML files."""
    from recbole_llm.config import properties_dir

    return _sources_in(properties_dir())


@cache
def _sources_in(folder: Path) -> dict[str, dict]:
    from recbole_llm.config import read_yaml

    files = sorted(folder.glob("dataset/*.yaml"))
    return {file.stem: source for file in files if (source := read_yaml(file).get("source"))}


def family_of(dataset: str) -> str | None:
    """The dataset whose YAML also describes `dataset`, one of its categories: amazon-2023 for amazon-2023-Books."""
    for name, source in _own().items():
        if dataset.startswith(f"{name}-") and dataset[len(name) + 1 :] in (source.get("categories") or ()):
            return name
    return None


def dataset_names() -> list[str]:
    """The datasets with a converter, without RecBole's own archives; categories by their family's name."""
    return sorted({*_own()} | {f"{name}-{one}" for name, source in _own().items() for one in source.get("categories") or ()})


def source_of(dataset: str, settings: Mapping | None = None) -> Source | None:
    """Where a dataset comes from, or None where that is not known.

    Args:
        settings: a `source` mapping that goes before the plugin's files.

    Raises:
        ValueError: the mapping is not as described above.
    """
    family = family_of(dataset)
    found = settings or _own().get(family or dataset)
    if found is None:
        address = _recbole_table().get(dataset)
        page = "https://recbole.io/dataset_list.html"
        return Source(dataset, "recbole", (RemoteFile(address, None),), page) if address else None
    if problems := source_problems(found):
        raise ValueError(f"{dataset}: {'; '.join(problems)}")
    category = dataset[len(family) + 1 :] if family else None
    listed = found.get("category_files" if category else "files") or ()
    files = tuple(
        RemoteFile(file["url"].replace("{category}", category or ""), file.get("sha256"), bool(file.get("optional")))
        for file in listed
    )
    categories = () if category else tuple(found.get("categories") or ())
    return Source(dataset, found["converter"], files, found.get("page"), found.get("licence"), categories)


def source_problems(source) -> list[str]:
    """Lines for a `source` that is not as described above."""
    from recbole_llm.data.convert.convert import CONVERTERS

    if not isinstance(source, Mapping) or source.get("converter") not in CONVERTERS:
        return [f"source: must be a mapping with converter, one of {', '.join(CONVERTERS)}, got {source!r}"]
    problems = [f"source: unknown key {key!r}; it has {', '.join(sorted(_KEYS))}" for key in source if key not in _KEYS]
    for file in [*(source.get("files") or ()), *(source.get("category_files") or ())]:
        url = file.get("url") if isinstance(file, Mapping) else None
        if not isinstance(url, str) or not url.startswith(("https://", "http://", "file://")):
            problems.append(f"source: each of files is {{url: https://..., sha256: HEX or null}}, got {file!r}")
    return problems


def is_offline(config) -> bool:
    """Whether `offline` or one of the environment's variables RECBOLE_LLM_OFFLINE, HF_HUB_OFFLINE forbids downloads."""
    variables = ("RECBOLE_LLM_OFFLINE", "HF_HUB_OFFLINE")
    return bool(config["offline"]) or any(os.environ.get(name, "").lower() in _ON for name in variables)


def how_to_get(dataset: str, data_path) -> str:
    """One sentence that says how to get a dataset's files into `data_path`."""
    source = source_of(dataset)
    if source is None:
        return f"Set data_path to the folder that holds {dataset}/{dataset}.inter"
    return f"{source.by_hand(data_path)}; or set data_path to the folder that holds {dataset}/"


def ensure_dataset(config) -> None:
    """Fetch and convert the dataset if `data_path` holds none of its files and its source is known.

    Raises:
        FileNotFoundError, ConnectionError: it cannot be fetched; names the file, the addresses and the command.
        ValueError, OSError: what came is not the dataset, or cannot be written.
    """
    folder, dataset = Path(config["data_path"]), config["dataset"]
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
    from recbole_llm.data.convert.convert import convert

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

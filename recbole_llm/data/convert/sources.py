"""Where datasets come from: the `source` of a dataset's YAML.

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

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from recbole_llm.config.known_keys import hint
from recbole_llm.config.properties import dataset_sources, family_of
from recbole_llm.data.convert.download import RemoteFile

COMMAND = "python -m recbole_llm.data.convert {} --source DIR"


CONVERTERS = ("lastfm", "movielens", "llara", "steam", "goodreads", "amazon", "recbole")  # modules of this package
_KEYS = {"converter", "page", "licence", "files", "categories", "category_files"}


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


def dataset_names() -> list[str]:
    """The datasets with a converter, without RecBole's own archives; categories by their family's name."""
    return sorted({*dataset_sources()} | {f"{name}-{one}" for name, source in dataset_sources().items() for one in source.get("categories") or ()})


def source_of(dataset: str, settings: Mapping | None = None) -> Source | None:
    """Where a dataset comes from, or None where that is not known.

    Args:
        settings: a `source` mapping that goes before the plugin's files.

    Raises:
        ValueError: the mapping is not as described above.
    """
    family = family_of(dataset)
    found = settings or dataset_sources().get(family or dataset)
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
    if not isinstance(source, Mapping) or source.get("converter") not in CONVERTERS:
        return [f"source: must be a mapping with converter, one of {', '.join(CONVERTERS)}, got {source!r}"]
    problems = [f"source: unknown key {key!r}; it has {', '.join(sorted(_KEYS))}" for key in source if key not in _KEYS]
    for file in [*(source.get("files") or ()), *(source.get("category_files") or ())]:
        url = file.get("url") if isinstance(file, Mapping) else None
        if not isinstance(url, str) or not url.startswith(("https://", "http://", "file://")):
            problems.append(f"source: each of files is {{url: https://..., sha256: HEX or null}}, got {file!r}")
    return problems


def how_to_get(dataset: str, data_path) -> str:
    """One sentence that says how to get a dataset's files into `data_path`."""
    source = source_of(dataset)
    if source is None:
        near = hint(dataset, dataset_names()) or "; or make one that has a converter: recbole-llm data convert NAME"
        return f"Set data_path to the folder that holds {dataset}/{dataset}.inter{near}"
    return f"{source.by_hand(data_path)}; or set data_path to the folder that holds {dataset}/"


"""From published files to a dataset's atomic files: the converter by name, the check that the files are its own, the writing."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from recbole_llm.config.properties import family_of
from recbole_llm.data.convert import sources
from recbole_llm.data.convert.atomic import write_dataset
from recbole_llm.data.convert.files import PublishedFiles
from recbole_llm.data.convert.sources import COMMAND, dataset_names, source_of

# Name in a dataset's `source: {converter: ...}` -> module with needed(), recognise() and tables()
CONVERTERS = {name: import_module(f"recbole_llm.data.convert.{name}") for name in sources.CONVERTERS}


class UnknownDataset(ValueError):
    """A name that no converter has; says which are near and which there are."""

    def __init__(self, name: str):
        known = dataset_names()
        by_case = {one.lower(): one for one in known}
        near = difflib.get_close_matches(name.lower(), by_case, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(by_case[one] for one in near)}?" if near else "."
        shown = [one for one in known if family_of(one) is None]
        some = [f"{one}-<category>" for one in sorted({family_of(one) for one in known} - {None})]
        super().__init__(f"no converter for {name!r}{hint} Available: {', '.join(shown + some)}")


def convert(
    dataset: str, source, target, force: bool = False, settings: Mapping | None = None, extra: Mapping | None = None
) -> Path:
    """Write `<target>/<dataset>/` from the published files at `source`; return the folder.

    Args:
        dataset: a name with a `source` in its YAML, e.g. ``ml-1m``.
        source: a folder with the published files (unpacked, gzipped or in zip archives), or one archive.
        settings: the `source` mapping of a dataset that has no YAML among the plugin's.
        extra: further files of the folder, name -> lines.

    Raises:
        UnknownDataset: no such converter.
        FileNotFoundError: naming the files that `source` lacks, and where they are published.
        ValueError: the files are another dataset's (named), damaged, or a line is not as published. Nothing is written.
        FileExistsError, OSError: see `write_dataset`.
    """
    found = source_of(dataset, settings)
    if found is None:
        raise UnknownDataset(dataset)
    module = CONVERTERS[found.converter]
    files = PublishedFiles(source)
    dataset = _checked(found, module, files)
    tables = module.tables(files, dataset)
    named = {f"{dataset}.{ending}": lines for ending, lines in tables.items()}
    return write_dataset(target, dataset, named | dict(extra or {}), force)


def _checked(found, module, files: PublishedFiles) -> str:
    """The dataset's name once the files are known to be its own; a name without category takes the files'."""
    dataset = found.dataset
    own = module.recognise(files)
    if own and found.categories and not found.files and own.startswith(f"{dataset}-"):
        dataset = own
    other = own if own != dataset else None
    if own is None:
        other = next(filter(None, (_recognised(one, files) for one in CONVERTERS.values() if one is not module)), None)
    missing = [name for name in module.needed(files, dataset) if name not in files]
    if other and (own or missing):
        remedy = f"run: {COMMAND.format(other).replace('DIR', str(files.path))}" if other in dataset_names() else "it has no converter here"
        raise ValueError(f"{files.path} holds the files of {other}, not of {dataset}; {remedy}")
    if missing:
        where = found.page or ", ".join(file.url for file in found.files)
        held = ", ".join(files.names[:6]) or "nothing"
        raise FileNotFoundError(
            f"{files.path} lacks {', '.join(missing)} (it holds {held}). They are published at {where}; then: "
            f"{COMMAND.format(dataset)}"
        )
    if own is None and found.converter == "llara":
        raise ValueError(f"{files.path}: no history is padded, so that it cannot be told which released split this is")
    return dataset


def _recognised(module, files: PublishedFiles) -> str | None:
    """What a module takes the files for; one that cannot read them takes them for nothing."""
    try:
        return module.recognise(files)
    except ValueError:
        return None

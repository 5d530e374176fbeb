"""RecBole's own processed archives (`recbole/properties/dataset/url.yaml`): atomic files under another name."""

from collections.abc import Iterable, Iterator

from recbole_llm.data.convert.files import PublishedFiles

ENDINGS = ("inter", "item", "user", "kg", "link", "net")


def needed(files: PublishedFiles, dataset: str) -> list[str]:
    """Names of the files that are read."""
    return [] if files.find("*.inter") else [f"{dataset}.inter"]


def recognise(files: PublishedFiles) -> str | None:
    """Atomic files do not say of which dataset they are."""
    return None


def tables(files: PublishedFiles, dataset: str) -> dict[str, Iterable[str]]:
    """Lines by the ending of the atomic file.

    Raises:
        ValueError: the files are of several datasets.
    """
    names = [name for name in files.names if name.rpartition(".")[2] in ENDINGS]
    stems = {name.partition(".")[0] for name in names}
    if len(stems) != 1:
        raise ValueError(f"{files.path} holds atomic files of {', '.join(sorted(stems))}; give --source those of one dataset")
    return {name.partition(".")[2]: _lines(files, name) for name in names}


def _lines(files: PublishedFiles, name: str) -> Iterator[str]:
    for _, line in files.lines(name):
        yield line

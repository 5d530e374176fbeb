"""The Last.fm split released with LLaRA (and used by iLoRA) as RecBole benchmark files.

Source: `train_data.df`, `Val_data.df`, `Test_data.df` (pickled DataFrames with `seq`, ten artist ids padded with
4606, `len_seq`, `next`) and `id2name.txt` (`id::name`). Each row becomes one session of its own, "train-17", since
RecBole merges the test rows of a user. Rows with `len_seq` >= 3 are kept, as in the papers: 47,872, 122 and 122.
"""

from collections.abc import Iterator
from pathlib import Path

from recbole_llm.data.convert.atomic import cell, write_dataset
from recbole_llm.data.convert.pickles import read_frame

DATASET = "lastfm-llara"
PADDING = 4606
MIN_LENGTH = 3
FRAMES = {"train": "train_data.df", "valid": "Val_data.df", "test": "Test_data.df"}
NAMES = "id2name.txt"
INTER_HEADER = "user_id:token\titem_id:token\titem_id_list:token_seq"
ITEM_HEADER = "item_id:token\tname:token"


def read_names(path) -> dict[int, str]:
    """Return id -> name of an `id::name` file; ValueError naming the line that is not one."""
    names: dict[int, str] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        key, separator, name = line.partition("::")
        if not separator or not key.strip().isdecimal():
            raise ValueError(f"{path}, line {number}: expected id::name, found {line[:60]!r}")
        names[int(key)] = cell(name)
    return names


def sessions(path, names: dict[int, str]) -> Iterator[tuple[int, list[int], int]]:
    """Yield (row number, history, target) of the rows with at least three history items.

    Raises
    ------
    ValueError
        If a column is missing, or a row's length or ids are out of range.
    """
    frame = read_frame(path)
    if missing := {"seq", "len_seq", "next"} - set(frame):
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(frame)}")
    for row, (seq, length, target) in enumerate(zip(frame["seq"], frame["len_seq"], frame["next"], strict=True)):
        if length < MIN_LENGTH:  # the released rows of length 1 may hold nothing but padding
            continue
        if length > len(seq):
            raise ValueError(f"{path}, row {row}: len_seq {length} with {len(seq)} ids in seq")
        history = seq[:length]
        unknown = [item for item in (*history, target) if item not in names]
        if unknown:
            kind = "the padding id" if unknown[0] == PADDING else "an id that is not in " + NAMES
            raise ValueError(f"{path}, row {row}: {unknown[0]} among the first len_seq ids or as next is {kind}")
        yield row, history, target


def convert(source, target, force: bool = False) -> Path:
    """Write `<target>/lastfm-llara/lastfm-llara.{train,valid,test}.inter` and `.item`; return the folder.

    Raises
    ------
    FileNotFoundError
        Naming the files that `source` lacks.
    ValueError
        If a pickle is refused or a row is not as described above. Nothing is written then.
    """
    source = Path(source)
    missing = [name for name in (*FRAMES.values(), NAMES) if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{source} lacks {', '.join(missing)}. They are published with LLaRA (github.com/ljy0ustc/LLaRA, lastfm "
            f"data); then: python -m recbole_llm.data.convert llara --source DIR --target DIR"
        )
    names = read_names(source / NAMES)
    files = {f"{DATASET}.item": [ITEM_HEADER, *(f"{item}\t{name}" for item, name in names.items())]}
    for split, name in FRAMES.items():
        lines = [INTER_HEADER]
        for row, history, next_item in sessions(source / name, names):
            lines.append(f"{split}-{row}\t{next_item}\t{' '.join(map(str, history))}")
        files[f"{DATASET}.{split}.inter"] = lines
        print(f"{name}: {len(lines) - 1} rows with len_seq >= {MIN_LENGTH}")
    return write_dataset(target, DATASET, files, force)

"""Interactions in order of time: which column says it, and what is said where there is none.

They are put in order by the file's own numbers, equal times in the file's order, before RecBole casts times to 32 bits,
whose grain is 128 s in seconds since 1970. RecBole's later sorts are stable and casting is monotone, so they keep it. A split
by time (`TS`) compares times with a boundary: it is given those of 64 bits, and models those of 32 afterwards.
"""

from pathlib import Path

import numpy as np
import torch

from recbole_llm.config.checks import time_split_problems
from recbole_llm.data.atomic import read_header
from recbole_llm.data.columns import history_field

_FIRST_PLACE = 2**24  # so large that the rounding of a share, as in (1 - 0.2) * 95, does not move a boundary off a place


def in_order_of_time(dataset, types) -> bool:
    config = dataset.config
    if (config["eval_args"] or {}).get("order") != "TO":
        return False
    return dataset.benchmark_filename_list is None or history_field(config) not in types


def check_time(path, field, types) -> None:
    if types[field] != "float":
        raise ValueError(
            f"{path}: the time is declared {field}:{types[field]}, by which nothing can be put in order of time; write "
            f"{field}:float in the header, or name another column with TIME_FIELD"
        )


def put_in_order(dataset) -> None:
    """Put the interactions in order of time, by the file's own numbers; of benchmark files without lists, file by file."""
    frame, field = dataset.inter_feat, dataset.time_field
    if field not in frame or not in_order_of_time(dataset, frame.columns):
        return
    keys = [frame[field].to_numpy()]
    if dataset.benchmark_filename_list is not None:
        keys.append(np.repeat(np.arange(len(dataset.file_size_list)), dataset.file_size_list))
    dataset.inter_feat = frame.iloc[np.lexsort(keys)].reset_index(drop=True)  # lexsort is stable


def splits_by_time(config) -> bool:
    """Whether `eval_args` splits by a boundary in time (`TS`)."""
    split = (config["eval_args"] or {}).get("split")
    return isinstance(split, dict) and "TS" in split and config["benchmark_filename"] is None


def check_split(config) -> None:
    """Refuse what RecBole would split wrongly by time.

    Raises:
        ValueError: the rows are not in order of time, or the shares are not three.
    """
    if problems := time_split_problems(config["eval_args"]):  # plain RecBole's models come here with a configuration that nobody checked
        raise ValueError("; ".join(problems))


def keep_exact(dataset, frame, feat) -> None:
    """Give interactions (`feat`) the times of their table (`frame`) in 64 bits.

    RecBole's boundary is a float64, which does not tell integers beyond 2^53 apart: the places of these in order stand for
    them, since which of two times is later is all that a boundary between two of them asks.
    """
    field = dataset.time_field
    if field in feat and feat[field].dim() == 1:
        times = frame[field].to_numpy()
        if times.dtype == np.int64:
            dataset._instants, places = np.unique(times, return_inverse=True)
            times = places + _FIRST_PLACE
        feat.interaction[field] = torch.from_numpy(times.astype(np.float64))


def cast_times(dataset) -> None:
    """Give a dataset's interactions their times, and the lists of them, in 32 bits, as models read them."""
    for field in (dataset.time_field, f"{dataset.time_field}{dataset.config['LIST_SUFFIX']}"):
        if field in dataset.inter_feat:
            values = dataset.inter_feat[field]
            if (instants := getattr(dataset, "_instants", None)) is not None:
                held = torch.from_numpy(instants)[(values.long() - _FIRST_PLACE).clamp(min=0)]
                values = torch.where(values > 0, held, 0)  # 0 fills lists up
            dataset.inter_feat.interaction[field] = values.float()


def not_there(file: Path, config, missing: list[str], types: dict[str, str | None]) -> str:
    """What to say of columns that an .inter file lacks: the key that names each, and a column that may be meant."""
    told = []
    for key, kind, marks in (
        ("USER_ID_FIELD", "token", ("user", "uid", "session")),
        ("ITEM_ID_FIELD", "token", ("item", "iid")),
        ("TIME_FIELD", "float", ("time", "date", "ts")),
    ):
        if config[key] in missing:
            alike = [name for name, own in types.items() if own in (kind, None) and any(m in name.lower() for m in marks)]
            told.append(f"{key}: {alike[0] if alike else '<its name in the file>'}")
    return (
        f"{file} has no column {', '.join(map(repr, missing))} (it has {', '.join(types)}); sequential rows need user, item "
        f"and time. If the file calls it otherwise, set {', '.join(told) or 'the key that names it'} and load_col"
    )


def check_columns(dataset, by) -> None:
    """Refuse to sort by a column that was not loaded.

    Raises:
        ValueError: the file has no such column, or `load_col` leaves it out.
    """
    missing = [name for name in ([by] if isinstance(by, str) else by) if name not in dataset.inter_feat]
    if not missing:
        return
    config, loaded = dataset.config, ", ".join(dataset.inter_feat.columns)
    file = Path(config["data_path"]) / f"{dataset.dataset_name}.inter"
    types = read_header(file, config["field_separator"], config["encoding"]) if file.is_file() else {}
    if types and (absent := [name for name in missing if name not in types]):
        raise ValueError(not_there(file, config, absent, types))
    raise ValueError(
        f"{dataset.dataset_name}: interactions are put in order by {', '.join(map(repr, missing))}, which is none of the "
        f"loaded columns {loaded}; name it in load_col: {{inter: [...]}}"
    )

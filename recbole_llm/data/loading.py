"""What RecBole's `Dataset` does between a file and its DataFrame, on the reader of `data.atomic`; `compat` puts it there.

RecBole reads with `pandas.read_csv`, which drops ids such as NA, joins rows between two stray quotes and names neither
file nor line, and it fills empty numbers with the column's mean.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType

from recbole_llm.data.atomic import TYPES, Table, read_table
from recbole_llm.data.time_order import check_time, in_order_of_time, not_there

_NAMED = 5  # lines or ids shown in a message


def load_feat(dataset, filepath, source) -> pd.DataFrame | None:
    """Replaces `Dataset._load_feat`: the columns of an atomic file that `load_col` and `unload_col` ask for.

    Token columns hold text, NaN where a cell is empty; float columns finite numbers; sequences arrays. Interactions
    without user, item or time are dropped, and counted in a warning.

    Raises:
        ValueError: the file does not fit its header or its types; file, line, column and value are named.
    """
    load, unload = dataset._get_load_and_unload_col(source)
    if load == set() and source is not FeatureSource.INTERACTION:
        return None

    def loaded(types):
        return [name for name in types if (load is None or name in load) and name not in (unload or ())]

    hidden = []  # rows without a time are left out whether or not a model loads it, or models would differ in rows

    def wanted(types):
        _check_header(dataset, Path(filepath), source, types, loaded(types))
        if source is FeatureSource.INTERACTION and dataset.time_field in types and in_order_of_time(dataset, types):
            check_time(filepath, dataset.time_field, types)
            hidden.extend({dataset.time_field} - set(loaded(types)))
        return loaded(types) + hidden

    config = dataset.config
    table = read_table(filepath, config["field_separator"], config["encoding"], wanted)
    if not len(table.lines):
        raise ValueError(f"{filepath} holds a header and no rows")
    columns = [name for name in table.columns if name not in hidden]
    if not columns:
        dataset.logger.warning(f"No columns has been loaded from [{source}]")
        return None
    _set_properties(dataset, columns, table.types, source)
    frame = pd.DataFrame({name: _column(dataset, table, name) for name in (*columns, *hidden)}, copy=False)
    frame = _without_keys(dataset, frame, table, source)[columns]
    for name in columns:
        if table.types[name].endswith("seq"):
            frame[name] = _cut(dataset, name, frame[name])
    return frame


def _check_types(path, types) -> None:
    for name, kind in types.items():
        if kind not in TYPES:
            written = f"{name}:{kind}" if kind else name
            raise ValueError(
                f"{path}: column {written!r} of the header has no type of RecBole's; write name:type with one of "
                f"{', '.join(TYPES)}, e.g. user_id:token, item_id:token, timestamp:float"
            )


def _keys(dataset, source) -> list[str]:
    """The columns of users and items that a file needs."""
    keys = {
        FeatureSource.INTERACTION: (dataset.uid_field, dataset.iid_field),
        FeatureSource.USER: (dataset.uid_field,),
        FeatureSource.ITEM: (dataset.iid_field,),
    }.get(source, ())
    return [name for name in keys if name]


def _check_header(dataset, path: Path, source, types, loaded) -> None:
    """Refuse columns without a type, users and items that are no single ids, and interactions without them."""
    _check_types(path, types)
    keys = _keys(dataset, source)
    for name in keys:
        if types.get(name, "token") != "token":
            raise ValueError(
                f"{path}: {name} is declared {name}:{types[name]}, and each row needs one id; write {name}:token in the header"
            )
    if source is not FeatureSource.INTERACTION:
        return
    if missing := [name for name in keys if name not in types]:
        raise ValueError(not_there(path, dataset.config, missing, types))
    if missing := [name for name in keys if name not in loaded]:
        raise ValueError(
            f"{path}: {', '.join(map(repr, missing))} of its columns {', '.join(types)} would not be loaded (load_col is "
            f"{dataset.config['load_col']}, unload_col {dataset.config['unload_col']}); set load_col: {{inter: [{', '.join(types)}]}}, "
            f"or both to null, which loads every column"
        )


def _set_properties(dataset, columns, types, source) -> None:
    if source == "link":
        return
    for name in columns:
        dataset.field2source[name], dataset.field2type[name] = source, FeatureType(types[name])
        if not types[name].endswith("seq"):
            dataset.field2seqlen[name] = 1
        if "float" in types[name]:
            dataset.field2bucketnum[name] = 2


def _column(dataset, table: Table, name: str):
    text, kind = table.columns[name], table.types[name]
    if kind == "token":
        values = np.array(text, dtype=object)
        _check_padding(table, name, np.flatnonzero(values == "[PAD]"), "is")
        values[values == ""] = np.nan
        return pd.Series(values, dtype=object)
    if kind == "float":
        return _numbers(dataset, table, name)
    separator = dataset.config["seq_separator"]
    parts = [[part for part in value.split(separator) if part] for value in text]
    if kind == "token_seq":
        _check_padding(table, name, [row for row, part in enumerate(parts) if "[PAD]" in part], "holds")
        return pd.Series([np.array(part, dtype=str) for part in parts], dtype=object)
    return pd.Series(_float_lists(table, name, parts), dtype=object)


def _check_padding(table: Table, name: str, rows, verb: str) -> None:
    if len(rows):
        raise ValueError(f"{table.where(int(rows[0]))}: {name} {verb} '[PAD]', RecBole's name for no value; rename it")


def _numbers(dataset, table: Table, name: str) -> np.ndarray | pd.arrays.IntegerArray:
    if name == dataset.time_field:
        return table.times(name)
    values = table.floats(name)
    empty = np.flatnonzero(np.isnan(values))
    if len(empty):
        raise ValueError(
            f"{table.where(int(empty[0]))}: {name} is empty, as in {len(empty)} of {len(values)} rows, and no number can "
            f"be made up for it; fill the cells in, remove the rows, or leave {name} out of load_col"
        )
    return values


def _float_lists(table: Table, name: str, parts: list[list[str]]) -> list[np.ndarray]:
    try:
        return [np.array(part, dtype=np.float64) for part in parts]
    except ValueError:
        for row, part in enumerate(parts):
            try:
                np.array(part, dtype=np.float64)
            except ValueError as error:
                text = table.columns[name][row][:80]
                raise ValueError(
                    f"{table.where(row)}: {name} is {text!r}, and float_seq holds numbers separated by seq_separator; "
                    f"correct the value, or set seq_separator to what stands between them"
                ) from error
        raise


def _without_keys(dataset, frame: pd.DataFrame, table: Table, source) -> pd.DataFrame:
    """Drop rows without user, item or time, in one warning for each; what is left of pandas' integers becomes NumPy's."""
    keys = _keys(dataset, source) + [dataset.time_field] * (source is FeatureSource.INTERACTION)
    kept = np.ones(len(frame), dtype=bool)
    for name in keys:
        if name in frame and len(missing := np.flatnonzero(frame[name].isna())):
            shown = ", ".join(map(str, table.lines[missing[:_NAMED]])) + (" ..." if len(missing) > _NAMED else "")
            logging.getLogger().warning(
                f"{table.path}: {len(missing)} of {len(frame)} rows have no {name} and are left out: line {shown}"
            )
            kept[missing] = False
    if not kept.any():
        raise ValueError(f"{table.path}: none of its {len(frame)} rows has all of {', '.join(k for k in keys if k)}")
    frame = frame if kept.all() else frame[kept].reset_index(drop=True)
    integers = [name for name in frame if isinstance(frame[name].dtype, pd.Int64Dtype)]
    return frame.astype({name: np.float64 if frame[name].hasnans else np.int64 for name in integers}) if integers else frame


def _cut(dataset, name: str, values: pd.Series) -> pd.Series:
    """Cut sequences to `seq_len`, and note the longest."""
    longest = max(map(len, values))
    most = (dataset.config["seq_len"] or {}).get(name)
    dataset.field2seqlen[name] = longest if most is None else min(most, longest)
    return values if most is None else values.map(lambda value: value[:most])


def check_imputed(dataset) -> None:
    """Refuse to invent a number for users or items of the interactions that the .user or .item file lacks.

    Raises:
        ValueError: a user or an item has no row there, or no number; names the first and how many there are.
    """
    for name, key in (("user", dataset.uid_field), ("item", dataset.iid_field)):
        frame = getattr(dataset, f"{name}_feat")
        for field in () if frame is None else frame:
            if dataset.field2type[field] != FeatureType.FLOAT:
                continue
            missing = np.flatnonzero(frame[field].isna().to_numpy()[1:]) + 1  # row 0 is the padding's
            if len(missing):
                first = dataset.field2id_token[key][frame[key].iloc[missing[0]]]
                raise ValueError(
                    f"{dataset.dataset_name}.{name} has no row for {len(missing)} {name}s of the interactions, first "
                    f"{str(first)!r}, and so no {field}; add them, set filter_inter_by_user_or_item: True, or leave "
                    f"{field} out of load_col"
                )

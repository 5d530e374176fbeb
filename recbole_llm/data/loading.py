"""What RecBole's `Dataset` does between a file and its DataFrame, on the reader of `data.atomic`; `compat` puts it there.

RecBole reads with `pandas.read_csv`, which drops ids such as NA, joins rows between two stray quotes and names neither
file nor line; fills empty numbers with the column's mean; and sorts by times cast to 32 bits, whose grain is 128 s in
seconds since 1970. Here interactions are put in order by the file's own numbers, equal times in the file's order, before
any cast; RecBole's later sorts are stable and casting is monotone, so they keep it.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_llm.data.atomic import TYPES, Table, read_header, read_table

_NAMED = 5  # lines or ids shown in a message
_LIST_SEPARATORS = (",", ";", "|", "/", "::", "\t", " ")
_PLACE = "place_in_files"  # a column of their own for the time that benchmark files are built from
STEPS = {  # method of Dataset -> the keys that make it drop rows
    "_filter_nan_user_or_item": (),
    "_remove_duplication": ("rm_dup_inter",),
    "_filter_by_field_value": ("val_interval",),
    "_filter_inter_by_user_or_item": ("filter_inter_by_user_or_item",),
    "_filter_by_inter_num": ("user_inter_num_interval", "item_inter_num_interval"),
}


# ---- one file ----------------------------------------------------------------------------------------------------


def load_feat(dataset, filepath, source) -> pd.DataFrame | None:
    """Replaces `Dataset._load_feat`: the columns of an atomic file that `load_col` and `unload_col` ask for.

    Token columns hold text, NaN where a cell is empty; float columns finite numbers; sequences arrays. Interactions
    without user, item or time are dropped, and counted in a warning.

    Raises
    ------
    ValueError
        If the file does not fit its header or its types; file, line, column and value are named.
    """
    load, unload = dataset._get_load_and_unload_col(source)
    if load == set():
        return None

    def loaded(types):
        return [name for name in types if (load is None or name in load) and name not in (unload or ())]

    hidden = []  # rows without a time are left out whether or not a model loads it, or models would differ in rows

    def wanted(types):
        _check_types(filepath, types)
        if source is FeatureSource.INTERACTION and dataset.time_field in types and _in_order_of_time(dataset, types):
            _check_time(filepath, dataset.time_field, types)
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


def _in_order_of_time(dataset, types) -> bool:
    config = dataset.config
    if (config["eval_args"] or {}).get("order") != "TO":
        return False
    return dataset.benchmark_filename_list is None or dataset.iid_field + config["LIST_SUFFIX"] not in types


def _check_time(path, field, types) -> None:
    if types[field] != "float":
        raise ValueError(
            f"{path}: the time is declared {field}:{types[field]}, by which nothing can be put in order of time; write "
            f"{field}:float in the header, or name another column with TIME_FIELD"
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
        if (values == "[PAD]").any():
            row = int(np.flatnonzero(values == "[PAD]")[0])
            raise ValueError(f"{table.where(row)}: {name} is '[PAD]', RecBole's name for no value; rename it")
        values[values == ""] = np.nan
        return pd.Series(values, dtype=object)
    if kind == "float":
        return _numbers(dataset, table, name)
    separator = dataset.config["seq_separator"]
    parts = [[part for part in value.split(separator) if part] for value in text]
    if kind == "token_seq":
        return pd.Series([np.array(part, dtype=str) for part in parts], dtype=object)
    return pd.Series(_float_lists(table, name, parts), dtype=object)


def _numbers(dataset, table: Table, name: str) -> np.ndarray:
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
    """Drop rows without user, item or time, in one warning for each."""
    keys = {
        FeatureSource.INTERACTION: (dataset.uid_field, dataset.iid_field, dataset.time_field),
        FeatureSource.USER: (dataset.uid_field,),
        FeatureSource.ITEM: (dataset.iid_field,),
    }.get(source, ())
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
    return frame if kept.all() else frame[kept].reset_index(drop=True)


def _cut(dataset, name: str, values: pd.Series) -> pd.Series:
    """Cut sequences to `seq_len`, and note the longest."""
    longest = max(map(len, values))
    most = (dataset.config["seq_len"] or {}).get(name)
    dataset.field2seqlen[name] = longest if most is None else min(most, longest)
    return values if most is None else values.map(lambda value: value[:most])


# ---- the files together ------------------------------------------------------------------------------------------


def check_benchmark(config) -> list[Path]:
    """The files of `benchmark_filename`, which must be three that have the same columns.

    Raises
    ------
    ValueError
    """
    names, folder = config["benchmark_filename"], Path(config["data_path"])
    if not isinstance(names, (list, tuple)) or len(names) != 3:
        raise ValueError(
            f"{config['dataset']}: benchmark_filename is {names!r} and must name three files, those of training, "
            f"validation and test rows, e.g. [train, valid, test] for {config['dataset']}.train.inter and so on; where "
            f"there is no validation file, make one of a part of the training rows"
        )
    files = [folder / f"{config['dataset']}.{name}.inter" for name in names]
    present = [file for file in files if file.is_file()]  # a missing one is named where it is opened
    headers = [list(read_header(file, config["field_separator"], config["encoding"])) for file in present]
    for file, header in zip(present, headers, strict=True):
        if set(header) != set(headers[0]):
            raise ValueError(
                f"{file} has the columns {', '.join(header)}, and {present[0]} has {', '.join(headers[0])}; files of "
                f"benchmark_filename need the same columns"
            )
    return files


def check_history_lists(dataset) -> None:
    """Refuse history lists that are not loaded, or written with another separator than `seq_separator`.

    Raises
    ------
    ValueError
        Names the list and the separator that splits it into known items.
    """
    field = dataset.iid_field + dataset.config["LIST_SUFFIX"] if dataset.iid_field else None
    frame = dataset.inter_feat
    if dataset.benchmark_filename_list is not None and field in (dataset.config["alias_of_item_id"] or ()):
        if not brings_histories(dataset):
            raise ValueError(f"{dataset.dataset_name}: alias_of_item_id names {field}, which the files lack; leave it out")
    if field not in frame or dataset.iid_field not in frame or dataset.field2type[field] != FeatureType.TOKEN_SEQ:
        return
    known = set(frame[dataset.iid_field])
    for token in pd.unique(np.concatenate([frame[field].iloc[0][:0].astype(object), *frame[field]]).astype(object)):
        if token in known:
            continue
        for mark in _LIST_SEPARATORS:
            if mark in token and not known.isdisjoint(part.strip() for part in token.split(mark)):
                row = next(row for row, value in enumerate(frame[field]) if token in value)
                raise ValueError(
                    f"{dataset.dataset_name}: {field} of interaction {row + 1} holds {token[:80]!r} as one item; the list "
                    f"seems to be separated by {mark!r} and seq_separator is {dataset.config['seq_separator']!r}: set "
                    f"seq_separator: {mark!r}"
                )


def put_in_order(dataset) -> None:
    """Put the interactions in order of time, by the file's own numbers; of benchmark files without lists, file by file."""
    frame, field = dataset.inter_feat, dataset.time_field
    if field not in frame or not _in_order_of_time(dataset, frame.columns):
        return
    keys = [frame[field].to_numpy()]
    if dataset.benchmark_filename_list is not None:
        keys.append(np.repeat(np.arange(len(dataset.file_size_list)), dataset.file_size_list))
    dataset.inter_feat = frame.iloc[np.lexsort(keys)].reset_index(drop=True)  # lexsort is stable


def check_imputed(dataset) -> None:
    """Refuse to invent a number for users or items of the interactions that the .user or .item file lacks.

    Raises
    ------
    ValueError
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


# ---- what filters leave --------------------------------------------------------------------------------------------


def count_steps(dataset, name: str, step) -> None:
    """Run one of RecBole's filters and note the rows before and after."""
    feats = [feat for feat in ("inter", "user", "item") if getattr(dataset, f"{feat}_feat", None) is not None]
    before = {feat: len(getattr(dataset, f"{feat}_feat")) for feat in feats}
    example = {feat: getattr(dataset, f"{feat}_feat").head(1) for feat in feats}
    step(dataset)
    counts = vars(dataset).setdefault("_counts", [])
    counts += [(feat, name, before[feat], len(getattr(dataset, f"{feat}_feat")), example) for feat in feats]


def check_left(dataset) -> None:
    """Refuse a dataset of which filters leave nothing.

    Raises
    ------
    ValueError
        Names the dataset, each filter that dropped rows, and the rows before and after.
    """
    for feat in ("inter", "user", "item"):
        frame = getattr(dataset, f"{feat}_feat", None)
        if frame is None or not frame.empty:
            continue
        raise ValueError(
            f"{dataset.dataset_name}: no row of .{feat} is left: {'; '.join(rows_dropped(dataset, feat))}. Loosen what drops the rows, or set "
            f"it to null"
        )


def rows_dropped(dataset, feat: str) -> list[str]:
    """What each filter left of the rows of "inter", "user" or "item", of those that dropped some."""
    told = []
    for which, name, before, after, example in vars(dataset).get("_counts", ()):
        if which != feat or before == after:
            continue
        values = {key: dataset.config[key] for key in STEPS[name]}
        keys = [f"{key}: {value}" for key, value in values.items() if value not in (None, False, "[0,inf)")]
        told.append(f"{' and '.join(keys) or 'rows without ids'} left {after} of {before} rows")
        if name == "_filter_inter_by_user_or_item":
            told[-1] += _differing_ids(dataset, example)
    return told


def _differing_ids(dataset, example) -> str:
    told = []
    for feat, key in (("user", dataset.uid_field), ("item", dataset.iid_field)):
        if feat in example:
            inter, own = (str(example[name][key].iloc[0]) for name in ("inter", feat))
            told.append(f"{feat} {inter!r} in .inter and {own!r} in .{feat}")
    return f" (e.g. {'; '.join(told)})"


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

    Raises
    ------
    ValueError
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


# ---- benchmark files without history lists -------------------------------------------------------------------------


def brings_histories(dataset) -> bool:
    """Whether the rows of benchmark files bring their histories.

    Raises
    ------
    ValueError
        If the files hold histories that are not loaded.
    """
    field = dataset.iid_field + dataset.config["LIST_SUFFIX"]
    if field in dataset.inter_feat:
        return True
    for file in check_benchmark(dataset.config):
        if field in read_header(file, dataset.config["field_separator"], dataset.config["encoding"]):
            raise ValueError(f"{file} holds the histories {field}, which are not loaded; add {field} to load_col: "
                             "{inter: [...]}")  # fmt: skip
    return False


def histories_from_files(dataset) -> None:
    """Give each row of benchmark files the user's earlier rows as its history, as RecBole does within one file.

    The files follow each other: what stands in the training file is earlier than what stands in the others; within a
    file the time decides where there is one, else the order of the lines. A user's first row has no history and goes.
    Called when `inter_feat` is an Interaction whose rows are in that order (`put_in_order`).
    """
    sizes = torch.tensor(dataset.file_size_list)
    file_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    place_list = _PLACE + dataset.config["LIST_SUFFIX"]
    dataset.set_field_property(_PLACE, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
    dataset.inter_feat.interaction[_PLACE] = torch.arange(len(file_of))
    time_field, dataset.time_field = dataset.time_field, _PLACE
    try:
        dataset.data_augmentation()
    finally:
        dataset.time_field = time_field
    files = file_of[dataset.inter_feat[_PLACE]]
    dataset.inter_feat = dataset.inter_feat[torch.argsort(files, stable=True)]
    dataset.file_size_list = torch.bincount(files, minlength=len(sizes)).tolist()
    for name in (_PLACE, place_list):
        dataset._del_col(dataset.inter_feat, name)

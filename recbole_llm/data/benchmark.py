"""Files of `benchmark_filename`: ready-made training, validation and test rows, with history lists or without."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_llm.data.atomic import read_header, read_table
from recbole_llm.data.columns import history_field

_LIST_SEPARATORS = (",", ";", "|", "/", "::", "\t", " ")
_AROUND = " []()\"'"  # what stands around ids in lists that a program printed
_PLACE = "place_in_files"  # a column of their own for the time that benchmark files are built from


def check_benchmark(config) -> list[Path]:
    """The files of `benchmark_filename`, which must be three that have the same columns.

    Raises:
        ValueError: they are not three, one is missing, or their columns differ.
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


def histories_loaded(dataset) -> bool:
    """Whether the rows of benchmark files bring their histories.

    Raises:
        ValueError: the files hold histories that are not loaded.
    """
    field = history_field(dataset.config)
    if field in dataset.inter_feat:
        return True
    for file in check_benchmark(dataset.config):
        if field in read_header(file, dataset.config["field_separator"], dataset.config["encoding"]):
            raise ValueError(f"{file} holds the histories {field}, which are not loaded; add {field} to load_col: "
                             "{inter: [...]}")  # fmt: skip
    return False


def check_history_lists(dataset) -> None:
    """Refuse history lists that are not loaded, or written otherwise than as ids with `seq_separator` between them.

    Raises:
        ValueError: a list is not; names file, line and list, and what makes known items of it.
    """
    field = history_field(dataset.config) if dataset.iid_field else None
    frame = dataset.inter_feat
    if dataset.benchmark_filename_list is not None and field in (dataset.config["alias_of_item_id"] or ()):
        if not histories_loaded(dataset):
            raise ValueError(f"{dataset.dataset_name}: alias_of_item_id names {field}, which the files lack; leave it out")
    if frame is None or field not in frame or dataset.iid_field not in frame or dataset.field2type[field] != FeatureType.TOKEN_SEQ:
        return
    own, targets = dataset.config["seq_separator"], set(frame[dataset.iid_field])
    listed = pd.unique(np.concatenate([frame[field].iloc[0][:0].astype(object), *frame[field]]).astype(object))
    seen = targets.union(listed)
    for token in listed:
        remedy = None if token in targets else _remedy(token, targets, seen, own)
        if remedy:
            where, value = _first_list(dataset, field, token)
            raise ValueError(
                f"{where}: {field} is {value[:80]!r}, of which {token[:80]!r} would be one item; its ids are split at "
                f"seq_separator {own!r}: {remedy}"
            )


def _remedy(token: str, targets: set[str], seen: set[str], own: str) -> str | None:
    """What to do about a part of a list that is several known ids, or one with marks around it; None where it is neither."""
    plain = f"write each list as ids with {own!r} between them, without brackets, quotes or spaces around them"
    for mark in _LIST_SEPARATORS:
        parts = [part.strip(_AROUND) for part in token.strip().split(mark)]
        if len(parts) > 1 and (not targets.isdisjoint(parts) or sum(part in seen for part in parts) > 1):
            return plain if token.strip().strip(_AROUND) != token.strip() else f"set seq_separator: {mark!r}"
    bare = token.strip(_AROUND + ",;")
    return plain if bare != token and bare in seen else None


def _first_list(dataset, field: str, token: str) -> tuple[str, str]:
    """(file and line, list as it is written) of the first list that has this part."""
    config = dataset.config
    names = [f".{name}" for name in dataset.benchmark_filename_list or ()] or [""]
    for name in names:
        file = Path(config["data_path"]) / f"{dataset.dataset_name}{name}.inter"
        table = read_table(file, config["field_separator"], config["encoding"], lambda types: [field])
        for row, value in enumerate(table.columns[field]):
            if token in value.split(config["seq_separator"]):
                return table.where(row), value
    return dataset.dataset_name, token  # the files have changed since


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

"""Files of `benchmark_filename`: ready-made training, validation and test rows, with history lists or without."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_llm.data.atomic import read_header

_LIST_SEPARATORS = (",", ";", "|", "/", "::", "\t", " ")
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
    field = dataset.iid_field + dataset.config["LIST_SUFFIX"]
    if field in dataset.inter_feat:
        return True
    for file in check_benchmark(dataset.config):
        if field in read_header(file, dataset.config["field_separator"], dataset.config["encoding"]):
            raise ValueError(f"{file} holds the histories {field}, which are not loaded; add {field} to load_col: "
                             "{inter: [...]}")  # fmt: skip
    return False


def check_history_lists(dataset) -> None:
    """Refuse history lists that are not loaded, or written with another separator than `seq_separator`.

    Raises:
        ValueError: a list is not; names it, and the separator that splits it into known items.
    """
    field = dataset.iid_field + dataset.config["LIST_SUFFIX"] if dataset.iid_field else None
    frame = dataset.inter_feat
    if dataset.benchmark_filename_list is not None and field in (dataset.config["alias_of_item_id"] or ()):
        if not histories_loaded(dataset):
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

"""The interactions as RecBole's sequential models see them, read without regard to the model that will be run.

RecBole's data depend on the model: item features can drop interactions
(`filter_inter_by_user_or_item`), a general model keeps users whom a sequential one cannot score. Evaluation rows
must not, so they are taken from a RecBole `SequentialDataset` over a copy of the config that loads the interaction
columns and nothing else. RecBole sorts by 32-bit timestamps; normalising them (its ml-100k does) changes which
interactions tie, so that setting is kept.
"""

import copy
from pathlib import Path

import numpy as np
from recbole.data.dataset import SequentialDataset
from torch.nn import functional

from recbole_llm.data.atomic import read_header
from recbole_llm.data.benchmark import check_benchmark
from recbole_llm.data.columns import history_field
from recbole_llm.data.convert import ensure_dataset, how_to_get
from recbole_llm.data.convert.sources import source_of
from recbole_llm.data.time_order import not_there

_NOT_LOADED = {  # settings about columns that are not loaded here, or that would alter the ones that are
    "unload_col": None,
    "unused_col": None,
    "additional_feat_suffix": None,
    "preload_weight": None,
    "threshold": None,
    "discretization": None,
    "numerical_features": [],
    "seq_len": None,
    "MAX_ITEM_LIST_LENGTH": 1,  # a row is (user, target); whole histories are read before RecBole cuts them
}


def interaction_files(config) -> list[Path]:
    """Return the .inter files of the dataset, one, or one per entry of `benchmark_filename`; fetched where it is missing.

    Raises:
        FileNotFoundError: a file is missing; names it, and the command that makes it where one exists.
        ValueError: `benchmark_filename` does not name three files of the same columns.
    """
    ensure_dataset(config)
    folder, dataset = Path(config["data_path"]), config["dataset"]
    files = [folder / f"{dataset}.inter"] if config["benchmark_filename"] is None else check_benchmark(config)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"interaction file {file} not found. {how_to_get(dataset, folder.parent)}")
    return files


def columns_of(file: Path, config) -> list[str]:
    """Return the field names in the header of an atomic file."""
    return list(read_header(file, config["field_separator"], config["encoding"]))


def brings_histories(config) -> bool:
    """Whether the dataset consists of benchmark files whose rows bring their history, a list of items."""
    list_field = history_field(config)
    return config["benchmark_filename"] is not None and list_field in columns_of(interaction_files(config)[0], config)


def _filter_columns(config, suffix: str) -> list[str]:
    """Columns of a .user or .item file that `val_interval` filters by."""
    file = Path(config["data_path"]) / f"{config['dataset']}.{suffix}"
    if config["benchmark_filename"] is not None or not config["val_interval"] or not file.is_file():
        return []
    return [name for name in columns_of(file, config) if name in config["val_interval"]]


def loaded_files(config) -> list[Path]:
    """Return every file on which the evaluation rows depend."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    features = [folder / f"{dataset}.{suffix}" for suffix in ("user", "item") if _filter_columns(config, suffix)]
    return interaction_files(config) + features


def _interaction_columns(config) -> list[str]:
    """The .inter columns that rows are made of.

    Raises:
        ValueError: one is missing; names file and column.
    """
    file = interaction_files(config)[0]
    types = read_header(file, config["field_separator"], config["encoding"])
    needed = [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
    wanted = list(config["val_interval"] or ())
    if brings_histories(config):
        needed.append(history_field(config))
        wanted = list(config["alias_of_item_id"] or ())
    elif config["benchmark_filename"] is not None:
        wanted = [config["TIME_FIELD"]]
    else:
        needed.append(config["TIME_FIELD"])
    missing = [name for name in needed if name not in types]
    if missing:
        known = source_of(config["dataset"])  # a file of it that was not made here may lack columns
        remedy = f". {how_to_get(config['dataset'], Path(config['data_path']).parent)}" if known else ""
        raise ValueError(f"{not_there(file, config, missing, types)}{remedy}")
    return needed + [name for name in wanted if name in types and name not in needed]


def reduced_config(config):
    """Copy a RecBole config so that it loads the interaction columns and the columns it filters by, nothing else.

    Raises:
        ValueError: interactions are not ordered by time, or the history list of a benchmark file is not an alias
            of the item.
    """
    if config["eval_args"]["order"] != "TO":
        raise ValueError(
            f"eval_args.order is {config['eval_args']['order']!r}; candidate sets follow sequential rows, which are in "
            f"order of time: set eval_args to {{order: TO, split: {{LS: valid_and_test}}, group_by: user}}"
        )
    list_field = history_field(config)
    if brings_histories(config) and list_field not in (config["alias_of_item_id"] or ()):
        raise ValueError(f"benchmark_filename needs alias_of_item_id: [{list_field}]: histories and items share ids")
    reduced = copy.copy(config)
    reduced.final_config_dict = {**config.final_config_dict, **_NOT_LOADED}
    load = {"inter": _interaction_columns(config)}
    for suffix, key in (("user", "USER_ID_FIELD"), ("item", "ITEM_ID_FIELD")):
        if extra := _filter_columns(config, suffix):
            load[suffix] = [config[key], *extra]
    reduced["load_col"] = load
    for alias in ("alias_of_user_id", "alias_of_item_id"):
        reduced[alias] = [name for name in config[alias] or () if name in load["inter"]] or None
    reduced["normalize_field"] = [
        name for name in config["normalize_field"] or () if name == config["TIME_FIELD"]
    ] or None
    return reduced


def load_interactions(config) -> SequentialDataset:
    """Return RecBole's sequential dataset over the reduced config, not yet built."""
    dataset = SequentialDataset(reduced_config(config))
    check_histories(config, dataset)
    return dataset


def check_histories(config, dataset) -> None:
    """Refuse benchmark files with rows that have no history, which no sequential model reads.

    Raises:
        ValueError: there are such rows; names the files, a few users and the remedy.
    """
    if not brings_histories(config):
        return
    feat, field = dataset.inter_feat, history_field(config)
    empty = [row for row, history in enumerate(feat[field]) if len(history) == 0]
    if empty:
        ids = np.asarray(feat[dataset.uid_field])[empty]
        users = sorted(set(dataset.field2id_token[dataset.uid_field][ids].tolist()))
        files = ", ".join(str(file) for file in interaction_files(config))
        raise ValueError(
            f"{len(empty)} rows of {files} have an empty {field}: users {', '.join(map(str, users[:5]))}"
            f"{' ...' if len(users) > 5 else ''}; a sequential row needs an earlier interaction, remove these rows"
        )


def fit_histories(config, dataset) -> None:
    """Cut benchmark rows' histories to the latest MAX_ITEM_LIST_LENGTH items, as RecBole cuts those that it makes."""
    if brings_histories(config):
        check_histories(config, dataset)
        field, most = history_field(config), config["MAX_ITEM_LIST_LENGTH"]
        if field in dataset.inter_feat:
            dataset.inter_feat[field] = [history[-most:] for history in dataset.inter_feat[field]]
            if config["ITEM_LIST_LENGTH_FIELD"] in dataset.inter_feat:  # which RecBole has already counted
                dataset.inter_feat[config["ITEM_LIST_LENGTH_FIELD"]] = dataset.inter_feat[field].map(len)


def widen_histories(config, split) -> None:
    """Pad benchmark rows' histories to MAX_ITEM_LIST_LENGTH: some models (Caser) take no other width."""
    field, most = history_field(config), config["MAX_ITEM_LIST_LENGTH"]
    if config["benchmark_filename"] is not None and field in split.inter_feat:
        held = split.inter_feat[field]
        if held.shape[1] < most:
            split.inter_feat.interaction[field] = functional.pad(held, (0, most - held.shape[1]))

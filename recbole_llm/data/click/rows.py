"""Labelled rows for click-through prediction: one set, with a sha256, for every model.

A row is an interaction (user, item, label) that has an earlier one: RecBole's sequential models see no other, so
context models (DeepFM, AutoInt ...) see no other either. Order and split are RecBole's own, taken from a
`SequentialDataset` over the interaction columns, in which each interaction carries its number; every model's dataset is
then cut along these rows, whatever columns it loads. Times are kept in full precision: "before" is decided by them.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureSource, FeatureType, get_model

from recbole_llm.data.interactions import columns_of, interaction_files, reduced_config
from recbole_llm.data.model_kinds import reads_labels
from recbole_llm.data.rows import fingerprint
from recbole_llm.data.sample import sample_evaluation_rows, sample_rows
from recbole_llm.registry import is_plugin_model

PHASES = ("train", "valid", "test")
NUMBER = "interaction_number"
_memory: dict[str, "LabelledRows"] = {}


@dataclass(frozen=True)
class Interactions:
    """Every interaction of a dataset, in order of time, equal times in the order of its file. n of each.

    Attributes
    ----------
    users, items : external tokens. str [n]
    times : seconds, or RecBole's normalised time; only their order matters. float64 [n]
    ratings : float64 [n], or None where the file has none
    labels : 1 liked, 0 not. int8 [n], or None where there is no protocol that asks for labels
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray | None
    labels: np.ndarray | None


@dataclass(frozen=True)
class LabelledRows:
    """Which interactions are rows of which phase. `numbers[phase]` indexes `interactions`, in order of time.

    `n_test` counts the test rows of the split, of which `test_sample_size` may have left some out.
    """

    interactions: Interactions
    numbers: dict[str, np.ndarray]
    n_test: int

    def columns(self, phase: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(users, items, labels) of a phase, external tokens."""
        chosen = self.numbers[phase]
        data = self.interactions
        return data.users[chosen], data.items[chosen], data.labels[chosen]

    @cached_property
    def sha256(self) -> str:
        """Digest of every row's phase, user, item and label, in order."""
        digest = hashlib.sha256(b"recbole_llm labelled rows 1\n")
        for phase in PHASES:
            users, items, labels = self.columns(phase)
            digest.update(f"{phase} {len(users)}\n".encode())
            for user, item, label in zip(users.tolist(), items.tolist(), labels.tolist(), strict=True):
                digest.update(f"{len(user)} {user} {len(item)} {item} {label}\n".encode())
        return digest.hexdigest()


def label_columns(config) -> tuple[str | None, float | None]:
    """(column, threshold) that labels come from; (None, None) where the dataset has neither labels nor ratings."""
    present = columns_of(interaction_files(config)[0], config)
    if config["threshold"]:
        ((column, value),) = config["threshold"].items()
        return (column, float(value)) if column in present else (None, None)
    return (config["LABEL_FIELD"], None) if config["LABEL_FIELD"] in present else (None, None)


def load_numbered(config, labelled: bool) -> tuple[SequentialDataset, Interactions]:
    """RecBole's dataset over the interaction columns, not yet built, each interaction numbered; and the interactions.

    Raises
    ------
    ValueError
        With `labelled`, if the dataset has neither labels nor ratings.
    """
    reduced = reduced_config(config)
    present = columns_of(interaction_files(config)[0], config)
    column, threshold = label_columns(config)
    if labelled and column is None:
        raise ValueError(
            f"{config['dataset']}: protocol ctr needs labels, and {interaction_files(config)[0]} has the columns "
            f"{', '.join(present)}. Name a column of ratings, e.g. threshold: {{rating: 4}}, or add a column "
            f"{config['LABEL_FIELD']!r} of 0 and 1; implicit data can be ranked with protocol: candidates"
        )
    wanted = {name for name in (column, config["RATING_FIELD"]) if name in present}
    inter = reduced["load_col"]["inter"]
    reduced["load_col"] = {**reduced["load_col"], "inter": inter + sorted(wanted - set(inter))}
    reduced["normalize_all"], reduced["normalize_field"] = False, _normalised(config, reduced)
    dataset = SequentialDataset(reduced)
    frame = dataset.inter_feat
    users, items = (
        np.asarray(dataset.field2id_token[field], dtype=str)[frame[field].to_numpy()]
        for field in (dataset.uid_field, dataset.iid_field)
    )
    values = {name: frame[name].to_numpy(dtype=np.float64) for name in wanted}
    labels = _labels(values.get(column), threshold, config, column) if labelled else None
    data = Interactions(
        users, items, frame[dataset.time_field].to_numpy(dtype=np.float64), values.get(config["RATING_FIELD"]), labels
    )
    for name in wanted:
        dataset._del_col(frame, name)
    dataset.set_field_property(NUMBER, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
    frame[NUMBER] = np.arange(len(frame))
    return dataset, data


def _normalised(config, reduced) -> list[str] | None:
    """Times are normalised where RecBole does it, since 32-bit ties depend on it; ratings never."""
    return [config["TIME_FIELD"]] if config["normalize_all"] else reduced["normalize_field"]


def _labels(values, threshold, config, column) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(
            f"{config['dataset']}: column {column!r} holds empty values; protocol ctr needs one in each row"
        )
    if threshold is not None:
        return (values >= threshold).astype(np.int8)
    if odd := sorted(set(np.unique(values).tolist()) - {0.0, 1.0})[:3]:
        raise ValueError(
            f"{config['dataset']}: column {column!r} holds {odd} where labels are 0 or 1; "
            f"set threshold: {{{column}: VALUE}} to make labels of it"
        )
    return values.astype(np.int8)


def build_labelled_rows(config) -> LabelledRows:
    """Read and split the labelled rows, without the cache."""
    dataset, data = load_numbered(config, labelled=True)
    splits = dataset.build()
    if len(splits) != 3:
        raise ValueError(f"eval_args.split {config['eval_args']['split']} must give train, valid and test rows")
    numbers = {
        phase: split.inter_feat[NUMBER].numpy().astype(np.int64) for phase, split in zip(PHASES, splits, strict=True)
    }
    n_test = len(numbers["test"])
    kept = sample_evaluation_rows(n_test, config["test_sample_size"], int(config["candidate_seed"]), "test")
    rows = LabelledRows(data, {**numbers, "test": numbers["test"][kept]}, n_test)
    for phase in PHASES:
        _check_classes(rows, phase, config)
    return rows


def _check_classes(rows: LabelledRows, phase: str, config) -> None:
    labels = rows.columns(phase)[2]
    if not len(labels):
        raise ValueError(f"{config['dataset']}: no {phase} row; change eval_args.split {config['eval_args']['split']}")
    if labels.min() == labels.max():
        undefined = "a model can learn nothing from it" if phase == "train" else "AUC is undefined"
        larger = "test_sample_size, " if phase == "test" and len(labels) < rows.n_test else ""
        raise ValueError(
            f"{config['dataset']}: all {len(labels)} {phase} rows are labelled {labels[0]}, so {undefined}; "
            f"change {larger}threshold {config['threshold']} or eval_args.split {config['eval_args']['split']}"
        )


def labelled_rows(config) -> LabelledRows:
    """The labelled rows of a dataset under `protocol: ctr`, the same for every model; kept in memory.

    Raises
    ------
    FileNotFoundError, ValueError
        If files, columns or labels are missing, or a phase has rows of one class only.
    """
    settings = [config[key] for key in ("threshold", "LABEL_FIELD", "RATING_FIELD", "test_sample_size")]
    key = " ".join([fingerprint(config), *map(str, settings)])
    if key not in _memory:
        _memory[key] = build_labelled_rows(config)
        counts = ", ".join(f"{len(_memory[key].numbers[p])} {p}" for p in PHASES)
        logging.getLogger().info(
            f"labelled rows of {config['dataset']}: {counts} (sha256 {_memory[key].sha256[:12]}); "
            f"{np.mean(_memory[key].columns('test')[2]):.1%} of the test rows are labelled 1"
        )
    return _memory[key]


def interaction_numbers(feats: Sequence, dataset, data: Interactions) -> list[np.ndarray]:
    """For each row of a dataset's splits the number of its interaction, -1 where there is none.

    Rows are told apart by (user, item); of a pair that occurs several times the last occurrences belong together.

    Parameters
    ----------
    feats : the splits' `inter_feat`, train first; together in order of time for each user.

    Returns
    -------
    int64 [rows of the split], one array per split
    """
    order = np.argsort(data.times, kind="stable")
    numbers: dict[tuple[str, str], list[int]] = {}
    for number, user, item in zip(order.tolist(), data.users[order].tolist(), data.items[order].tolist(), strict=True):
        numbers.setdefault((user, item), []).append(number)
    tokens = [np.asarray(dataset.field2id_token[f], dtype=str) for f in (dataset.uid_field, dataset.iid_field)]
    found = [np.full(len(feat), -1, dtype=np.int64) for feat in feats]
    for feat, out in zip(reversed(feats), reversed(found), strict=True):
        users, items = (
            names[feat[f].numpy()].tolist()
            for names, f in zip(tokens, (dataset.uid_field, dataset.iid_field), strict=True)
        )
        for i in reversed(range(len(users))):
            if left := numbers.get((users[i], items[i])):
                out[i] = left.pop()
    return found


def labelled_splits(config, dataset) -> list:
    """Cut a model's dataset along the labelled rows: train, valid and test, with the canonical labels and order.

    Models whose loss reads no labels (SASRec, BPR ...) are trained on the rows labelled 1: what a user disliked is no
    example of what they like. A CRM with `crm_rows: sample` learns from the LLM's sample of these rows alone. Validation and test hold the same rows for all.

    Raises
    ------
    ValueError
        If the dataset lacks a row.
    """
    rows = labelled_rows(config)
    dataset._change_feat_format()
    feat = dataset.inter_feat
    if dataset.time_field in feat:
        dataset.sort(by=dataset.time_field)
        feat = dataset.inter_feat
    (numbers,) = interaction_numbers([feat], dataset, rows.interactions)
    place = np.full(len(rows.interactions.users), -1, dtype=np.int64)
    place[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
    label_field = config["LABEL_FIELD"]
    dataset._drop_unused_col()
    splits = []
    for phase in PHASES:
        index = place[rows.numbers[phase]]
        if (index < 0).any():
            lost = rows.numbers[phase][index < 0]
            user, item = rows.interactions.users[lost[0]], rows.interactions.items[lost[0]]
            raise ValueError(
                f"{len(lost)} of the {len(index)} {phase} rows are not in this model's dataset, first user "
                f"{str(user)!r} with item {str(item)!r}: its data are filtered otherwise; check val_interval and "
                f"filter_inter_by_user_or_item "
                f"(an incomplete .item or .user file)"
            )
        chosen = dataset.inter_feat[index]
        labels = torch.from_numpy(rows.columns(phase)[2].astype(np.float32))
        chosen.interaction[label_field] = labels
        if phase == "train" and config["crm_rows"] == "sample" and not is_plugin_model(config["model"]):
            stratified = rows.columns(phase)[2] if config["train_sample_stratified"] else None
            kept = torch.from_numpy(sample_rows(len(index), config["train_sample_size"], config["seed"], stratified))
            chosen, labels = chosen[kept], labels[kept]
        if phase == "train" and not reads_labels(get_model(config["model"])):
            chosen = chosen[torch.nonzero(labels == 1).flatten()]
        splits.append(dataset.copy(chosen))
    return splits

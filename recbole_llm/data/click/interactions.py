"""Every interaction of a dataset, numbered, with its rating and label; and the numbers of the rows of other datasets.

Order and split are RecBole's own, taken from a `SequentialDataset` over the interaction columns. Times are kept in full
precision: "before" is decided by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_llm.data.interactions import columns_of, interaction_files, reduced_config

NUMBER = "interaction_number"


@dataclass(frozen=True)
class Interactions:
    """Every interaction of a dataset, in order of time, equal times in the order of its file. n of each.

    Attributes:
        users: external tokens. str [n]
        items: external tokens. str [n]
        times: seconds, or RecBole's normalised time; only their order matters. float64 [n], int64 where float64 does not hold them
        ratings: float64 [n], or None where the file has none.
        labels: 1 liked, 0 not. int8 [n], or None where no protocol asks for labels.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray | None
    labels: np.ndarray | None


def label_columns(config) -> tuple[str | None, float | None]:
    """(column, threshold) that labels come from; (None, None) where the dataset has neither labels nor ratings."""
    present = columns_of(interaction_files(config)[0], config)
    if config["threshold"]:
        ((column, value),) = config["threshold"].items()
        return (column, float(value)) if column in present else (None, None)
    return (config["LABEL_FIELD"], None) if config["LABEL_FIELD"] in present else (None, None)


def load_numbered(config, labelled: bool) -> tuple[SequentialDataset, Interactions]:
    """RecBole's dataset over the interaction columns, not yet built, each interaction numbered; and the interactions.

    Raises:
        ValueError: `labelled` asks for labels, and the dataset has neither labels nor ratings; or one of them is no column of numbers.
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
    if odd := [name for name in sorted(wanted) if dataset.field2type[name] != FeatureType.FLOAT]:
        raise ValueError(
            f"{interaction_files(config)[0]}: column {odd[0]!r} is declared {dataset.field2type[odd[0]].value}, and ratings and labels are numbers; "
            f"write {odd[0]}:float in the header"
        )
    users, items = (
        np.asarray(dataset.field2id_token[field], dtype=str)[frame[field].to_numpy()]
        for field in (dataset.uid_field, dataset.iid_field)
    )
    values = {name: frame[name].to_numpy(dtype=np.float64) for name in wanted}
    labels = _labels(values.get(column), threshold, config, column) if labelled else None
    data = Interactions(
        users, items, frame[dataset.time_field].to_numpy(), values.get(config["RATING_FIELD"]), labels
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


def interaction_numbers(feats: Sequence, dataset, data: Interactions) -> list[np.ndarray]:
    """For each row of a dataset's splits the number of its interaction, -1 where there is none.

    Rows are told apart by (user, item); of a pair that occurs several times the last occurrences belong together.

    Args:
        feats: the splits' `inter_feat`, train first; together in order of time for each user.
        dataset: the RecBole dataset that they are of, which gives the external tokens.
        data: the numbered interactions.

    Returns:
        One array for each split. int64 [rows of the split]
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

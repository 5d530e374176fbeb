"""Labelled rows for click-through prediction: one set, with a sha256, for every model.

A row is an interaction (user, item, label) that has an earlier one: RecBole's sequential models see no other, so
context models (DeepFM, AutoInt ...) see no other either. Every model's dataset is then cut along these rows.
"""

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbole_llm.data.click.interactions import NUMBER, Interactions, load_numbered
from recbole_llm.data.fingerprint import fingerprint
from recbole_llm.data.sample import sample_evaluation_rows

PHASES = ("train", "valid", "test")
_RATINGS = 100  # distinct values at most
_memory: dict[str, "LabelledRows"] = {}


@dataclass(frozen=True)
class LabelledRows:
    """Which interactions are rows of which phase.

    Attributes:
        interactions: every interaction of the dataset.
        numbers: phase -> places in `interactions`, in order of time. int64
        n_test: number of test rows of the split, of which `test_sample_size` may have left some out.
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
        labels = rows.columns(phase)[2]
        check_classes(labels, phase, config, sampled=phase == "test" and len(labels) < n_test)
    return rows


def check_classes(labels: np.ndarray, phase: str, config, sampled: bool) -> None:
    """Refuse a phase, or a sample of its rows (``<phase>_sample_size``), that has no row or rows of one class only."""
    if not len(labels):
        raise ValueError(f"{config['dataset']}: no {phase} row; change eval_args.split {config['eval_args']['split']}")
    if labels.min() == labels.max():
        undefined = "a model can learn nothing from it" if phase == "train" else "AUC is undefined"
        size = f"{phase}_sample_size"
        larger = f"{size} {config[size]}, " if sampled else ""
        raise ValueError(
            f"{config['dataset']}: all {len(labels)} {phase} rows are labelled {labels[0]:g}, so {undefined}; "
            f"change {larger}threshold {config['threshold']} or eval_args.split {config['eval_args']['split']}"
        )


def labelled_rows(config) -> LabelledRows:
    """The labelled rows of a dataset under `protocol: ctr`, the same for every model; kept in memory.

    Raises:
        FileNotFoundError, ValueError: files, columns or labels are missing, or a phase has rows of one class only.
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


def rating_values(config) -> np.ndarray:
    """The distinct ratings of a dataset's interactions, ascending. float64

    Raises:
        ValueError: there are none, or more than a table of embeddings is for.
    """
    ratings = labelled_rows(config).interactions.ratings
    values = np.unique(ratings) if ratings is not None else []
    if not 0 < len(values) <= _RATINGS:
        raise ValueError(f"{config['dataset']}: {len(values)} distinct ratings in column {config['RATING_FIELD']!r}, and RatedDIN has a vector "
                         f"for each of 1 to {_RATINGS}; name their column with RATING_FIELD, or choose DIN")  # fmt: skip
    return values


def rating_levels(config, ratings: np.ndarray) -> np.ndarray:
    """Places of ratings among `rating_values`, from 1. int64, of the same shape"""
    return 1 + np.searchsorted(rating_values(config), ratings)

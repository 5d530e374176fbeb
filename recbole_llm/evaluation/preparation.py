"""From a config to a dataset and its loaders: every model trains on the same interactions and ranks the same rows."""

import logging

import numpy as np
from recbole.data import create_dataset, data_preparation
from recbole.data import utils as recbole_data
from recbole.sampler import KGSampler
from recbole.utils import ModelType

from recbole_llm import registry
from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.convert import ensure_dataset
from recbole_llm.data.interactions import fit_histories, widen_histories


def prepare_data(config):
    """Create the dataset of a model and its loaders, as the run's protocol has them.

    Returns:
        (dataset, train loader, validation loader, test loader); a loader of length 0 stands for a phase that the split does
        not have.

    Raises:
        FileNotFoundError, ValueError: files, columns or rows are missing (each error names the remedy).
    """
    return registry.protocol(config["protocol"]).prepare(config)


def prepare(config):
    """The dataset and RecBole's own loaders of it."""
    dataset = _dataset(config)
    return dataset, *data_preparation(config, dataset)


def prepare_ranked(config, evaluation_loader):
    """The dataset and loaders of models that rank: a baseline gets `evaluation_loader(config)` for valid and test, a model of this
    package its own loaders, which read the same rows."""
    dataset = _dataset(config)
    splits = build_splits(config, dataset)
    samplers = recbole_data.create_samplers(config, dataset, splits)
    train = _train_loader(config, dataset, splits[0], samplers[0])
    if registry.is_plugin_model(config["model"]):
        valid, test = (
            recbole_data.get_dataloader(config, phase)(config, split, sampler, shuffle=False)
            for phase, split, sampler in zip(("valid", "test"), splits[1:], samplers[1:], strict=True)
        )
    else:
        loader = evaluation_loader(config)
        valid, test = (loader(config, splits[i], samplers[i], phase=phase) for i, phase in ((1, "valid"), (2, "test")))
    return dataset, train, valid, test


def _dataset(config):
    ensure_dataset(config)
    dataset = create_dataset(config)
    fit_histories(config, dataset)
    logging.getLogger().info(dataset)
    return dataset


def build_splits(config, dataset) -> list:
    """Split a model's dataset into train, valid and test.

    A sequential dataset is split by RecBole. Others are split by the candidate rows: RecBole's own split of them
    would also hold out interactions of users who have no sequential row. Either way all models train on the same
    interactions.
    """
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL or config["benchmark_filename"] is not None:
        splits = dataset.build()
        for split in splits:
            widen_histories(config, split)
        return splits
    sets = candidate_sets(config)
    dataset._change_feat_format()
    if dataset.time_field in dataset.inter_feat:
        dataset.sort(by=dataset.time_field)
    part = assign_rows(dataset, sets.rows.valid, sets.rows.test)
    dataset._drop_unused_col()
    return [dataset.copy(dataset.inter_feat[np.flatnonzero(part == i)]) for i in range(3)]


def assign_rows(dataset, valid: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Say for each interaction, in order of time, whether it is for training (0), validation (1) or test (2).

    Of a (user, item) pair that occurs several times, the last occurrences are the test rows, those before them the validation
    rows.

    Args:
        dataset: a RecBole dataset that is not yet built.
        valid: (users, targets) of all validation rows, measured or not.
        test: (users, targets) of all test rows, measured or not.

    Returns:
        int8 [number of interactions]
    """
    wanted: dict[tuple[str, str], list[int]] = {}
    for label, (users, targets) in ((1, valid), (2, test)):
        for pair in zip(users.tolist(), targets.tolist(), strict=True):
            wanted.setdefault(pair, []).append(label)
    columns = (
        np.asarray(dataset.field2id_token[field])[dataset.inter_feat[field].numpy()].tolist()
        for field in (dataset.uid_field, dataset.iid_field)
    )
    pairs = list(zip(*columns, strict=True))
    part = np.zeros(len(pairs), dtype=np.int8)
    for i in reversed(range(len(pairs))):
        if labels := wanted.get(pairs[i]):
            part[i] = labels.pop()
    return part


def _train_loader(config, dataset, split, sampler):
    loader = recbole_data.get_dataloader(config, "train")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        arguments = config["train_neg_sample_args"]
        return loader(
            config, split, sampler, KGSampler(dataset, arguments["distribution"], arguments["alpha"]), shuffle=True
        )
    return loader(config, split, sampler, shuffle=config["shuffle"])

"""A model's dataset, cut along the labelled rows of `data.click.rows`, whatever columns it loads."""

import numpy as np
import torch
from recbole.utils import get_model

from recbole_llm.data.click.interactions import interaction_numbers
from recbole_llm.data.click.retriever import kept_vectors, most_relevant
from recbole_llm.data.click.rows import PHASES, LabelledRows, labelled_rows, rating_levels
from recbole_llm.data.click.timelines import HISTORY_RATINGS, build_timelines, recent
from recbole_llm.data.columns import history_field
from recbole_llm.data.model_kinds import reads_labels, reads_ratings
from recbole_llm.data.sample import sample_rows
from recbole_llm.registry import is_plugin_model

VECTORS = "crm_text_vectors"  # hash of the vectors by which a CRM's histories are retrieved; set for a CRM alone


def labelled_splits(config, dataset) -> list:
    """Cut a model's dataset along the labelled rows, with the canonical labels and order.

    Models whose loss reads no labels (SASRec, BPR ...) are trained on the rows labelled 1: what a user disliked is no
    example of what they like. A CRM with `crm_rows: sample` learns from the LLM's sample of these rows alone. Validation and
    test hold the same rows for all. A CRM that is asked with relevant histories (`crm_history`) has them in all its rows.

    Args:
        config: the model's config.
        dataset: its dataset, not yet built.

    Returns:
        Three datasets: train, valid and test.

    Raises:
        ValueError: the dataset lacks a row.
    """
    rows = labelled_rows(config)
    dataset._change_feat_format()
    if dataset.time_field in dataset.inter_feat:
        dataset.sort(by=dataset.time_field)
    (numbers,) = interaction_numbers([dataset.inter_feat], dataset, rows.interactions)
    place = np.full(len(rows.interactions.users), -1, dtype=np.int64)  # of each interaction in the dataset
    place[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
    dataset._drop_unused_col()
    histories = _Histories(config, dataset, rows) if config[VECTORS] or reads_ratings(get_model(config["model"])) else None
    splits = []
    for phase in PHASES:
        index = place[rows.numbers[phase]]
        _check_there(index, rows, phase)
        chosen, labels = dataset.inter_feat[index], rows.columns(phase)[2]
        chosen.interaction[config["LABEL_FIELD"]] = torch.from_numpy(labels.astype(np.float32))
        if histories:
            histories.put_into(chosen, rows.numbers[phase])
        splits.append(dataset.copy(_learned_from(chosen, labels, config) if phase == "train" else chosen))
    return splits


class _Histories:
    """What each user did strictly before a row, in place of RecBole's list: the latest items, or those nearest to the row's own item.

    Raises:
        ValueError: vectors of item texts are not those of the dataset's items.
    """

    def __init__(self, config, dataset, rows: LabelledRows):
        self.dataset, self.width = dataset, config["MAX_ITEM_LIST_LENGTH"]
        self.timelines = build_timelines(rows.interactions, dataset)
        self.vectors = kept_vectors(config, config[VECTORS]) if config[VECTORS] else None
        self.levels = rating_levels(config, self.timelines.ratings) if reads_ratings(get_model(config["model"])) else None
        if self.vectors is not None and len(self.vectors) != dataset.item_num:
            raise ValueError(f"crm_history: relevant: {config['model']} reads {dataset.item_num - 1} items, of which {len(self.vectors) - 1} "
                             "have a text vector; leave what changes the items out of crm_config")  # fmt: skip

    def put_into(self, chosen, numbers: np.ndarray) -> None:
        """Give the rows of these interactions their histories, and where the model reads them their ratings."""
        start, end = self.timelines.start[numbers], self.timelines.end[numbers]
        if self.vectors is None:
            places = recent(start, end, self.width)  # [n, width]
        else:
            targets = chosen[self.dataset.iid_field].numpy()
            places = most_relevant(self.vectors, self.timelines.items, start, end, targets, self.width)
        lengths = np.maximum(1, (places >= 0).sum(1))  # an empty history is one padding item, as where the CRM is asked
        columns = {history_field(self.dataset.config): np.where(places >= 0, self.timelines.items[places], 0),
                   self.dataset.item_list_length_field: lengths}  # fmt: skip
        if self.levels is not None:
            columns[HISTORY_RATINGS] = np.where(places >= 0, self.levels[places], 0)
        chosen.interaction.update({name: torch.from_numpy(column) for name, column in columns.items()})


def _check_there(index: np.ndarray, rows: LabelledRows, phase: str) -> None:
    """Raise a ValueError that names the first row that a model's dataset lacks: its place in `index` is -1."""
    if not (index < 0).any():
        return
    lost = rows.numbers[phase][index < 0]
    user, item = rows.interactions.users[lost[0]], rows.interactions.items[lost[0]]
    raise ValueError(
        f"{len(lost)} of the {len(index)} {phase} rows are not in this model's dataset, first user "
        f"{str(user)!r} with item {str(item)!r}: its data are filtered otherwise; check val_interval and "
        f"filter_inter_by_user_or_item (an incomplete .item or .user file)"
    )


def _learned_from(chosen, labels: np.ndarray, config):
    """The training rows that a model learns from, of all `chosen` ones with these labels. int8 [n]"""
    if config["crm_rows"] == "sample" and not is_plugin_model(config["model"]):
        stratified = labels if config["train_sample_stratified"] else None
        kept = torch.from_numpy(sample_rows(len(labels), config["train_sample_size"], config["seed"], stratified))
        chosen, labels = chosen[kept], labels[kept.numpy()]
    if not reads_labels(get_model(config["model"])):
        chosen = chosen[torch.from_numpy(np.flatnonzero(labels == 1))]
    return chosen

"""RecBole's sequential dataset with what a click model needs: labels, and what each user did before each row."""

from __future__ import annotations

import copy

import numpy as np
from recbole.utils import get_model

from recbole_llm import registry
from recbole_llm.data.click.interactions import interaction_numbers, load_numbered
from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.data.click.splits import labelled_splits
from recbole_llm.data.click.timelines import Timelines, build_timelines, timelines_of_lists
from recbole_llm.data.columns import history_field
from recbole_llm.data.dataset import PromptDataset


class ClickDataset(PromptDataset):
    """A `PromptDataset` that also knows what each user did before each row, and under `protocol: ctr` the labels.

    Attributes:
        timelines: see `Timelines`.
        numbers: of a split, the rows' places in `timelines.start` and `timelines.end`. [rows]
    """

    timelines: Timelines
    numbers: np.ndarray
    phase: str | None = None

    def build(self):
        self.read_texts()
        if registry.protocol(self.config["protocol"]).labelled:
            rows = labelled_rows(self.config)
            splits, data = labelled_splits(self.config, self), rows.interactions
            numbers = list(rows.numbers.values())
        else:
            splits = super().build()
            if self.benchmark_filename_list is not None:
                return [_with_own_lists(split) for split in splits]
            data = load_numbered(self.config, labelled=self.config["history_notes"] == "likes")[1]
            numbers = interaction_numbers([split.inter_feat for split in splits], self, data)
        timelines = build_timelines(data, self)
        for split, places in zip(splits, numbers, strict=True):
            split.timelines, split.numbers = timelines, places
        if self.config["recipe"] == "released" and get_model(self.config["model"]).selects_on_test:
            splits[1], splits[1].phase = copy.copy(splits[2]), "test"
        return splits


def _with_own_lists(split):
    feat = split.inter_feat
    lengths = feat[split.item_list_length_field].numpy()
    split.timelines = timelines_of_lists(feat[history_field(split.config)].numpy(), lengths)
    split.numbers = np.arange(len(lengths))
    return split

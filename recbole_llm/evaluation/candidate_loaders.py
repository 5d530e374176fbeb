"""Dataloaders that put the frozen candidates before RecBole's unmodified Trainer, for every type of baseline.

`CandidateEvalDataLoader` feeds rows x C pairs in the order of the candidate set through `_neg_sample_batch_eval`.
For a sequential model that can score the whole catalogue from one sequence, `CandidateSequenceDataLoader` goes
through `_full_sort_batch_eval` instead, C times cheaper and with the same ranks. `CandidateCollector` takes the
place of `trainer.eval_collector` in both cases.
"""

import logging

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleDataLoader, NegSampleEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.candidates import CandidateSet
from recbole_llm.data.rows import ITEMS_FIELD, PHASE_FIELD, PHASES, ROW_FIELD, match_rows


class _CandidateRows:
    """What both loaders share: the rows of one phase in the model's own split, and their candidates' internal ids."""

    def _find_rows(self, config, dataset, sampler, phase) -> None:
        self.phase = phase or getattr(sampler, "phase", None)
        if self.phase not in PHASES:
            raise ValueError(
                f"phase must be one of {PHASES}, not {self.phase!r}: pass phase= or a sampler that has one"
            )
        sets = candidate_sets(config)
        self.candidate_set: CandidateSet = getattr(sets, self.phase)
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.rows = torch.from_numpy(match_rows(dataset, self.candidate_set))  # [n] into the split
        self.items = torch.from_numpy(sets.internal_items(dataset)[self.candidate_set.candidates])  # [n, C]
        self.position = torch.from_numpy(self.candidate_set.target_position.astype(np.int64))  # [n]
        self.sample_size = len(self.candidate_set)
        self.logger = logging.getLogger()

    def _init_batch_size_and_step(self):
        width = self.items.shape[1]
        self.step = max(self.config["eval_batch_size"] // width, 1)
        self.set_batch_size(self.step * width)

    def _lines(self, index: torch.Tensor) -> Interaction:
        """Rows of the candidate set as the model's split holds them, transformed. B lines"""
        return self.transform(self._dataset, self._dataset[self.rows[index]])


class CandidateEvalDataLoader(_CandidateRows, NegSampleEvalDataLoader):
    """Evaluation batches over the frozen candidates, one line per (row, candidate).

    A batch is (interaction, row index [B*C], positive row [B], positive item [B]); the interaction has C lines per
    row of the candidate set in its order, with the model's own columns, user and item features joined and RecBole's
    `transform` applied, plus `candidate_row`, `candidate_phase` and the label (1 at the target).

    Args:
        config: the model's config.
        dataset: the model's own validation or test split.
        sampler: RecBole's sampler of that split.
        shuffle: ignored, rows keep the order of the candidate set.
        phase: "valid" or "test"; taken from the sampler where it has one.

    Raises:
        ValueError: the phase is unknown, or the split lacks a row of the candidate set.
    """

    def __init__(self, config, dataset, sampler=None, shuffle=False, phase=None):
        self._find_rows(config, dataset, sampler, phase)
        self.label_field = config["LABEL_FIELD"]
        NegSampleDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def collate_fn(self, index):
        index = torch.as_tensor(np.asarray(index))  # [B]
        batch, width = len(index), self.items.shape[1]
        lines = self._lines(index).repeat_interleave(width)
        lines.update(Interaction({self.iid_field: self.items[index].reshape(-1)}))  # [B*C]
        lines = self._dataset.join(lines)
        label = torch.zeros(batch, width)
        label[torch.arange(batch), self.position[index]] = 1.0
        added = {
            self.label_field: label.reshape(-1),
            ROW_FIELD: index.repeat_interleave(width),
            PHASE_FIELD: torch.full((batch * width,), PHASES.index(self.phase)),
        }
        lines.update(Interaction(added))
        positive = torch.arange(batch)
        return lines, positive.repeat_interleave(width), positive, self.items[index, self.position[index]]


class CandidateSequenceDataLoader(_CandidateRows, FullSortEvalDataLoader):
    """Evaluation batches over the frozen candidates, one line per row, for models with `full_sort_predict`.

    A batch is (interaction, None, positive row [B], positive item [B]); the interaction also has `candidate_items`
    [B, C], `candidate_row` and `candidate_phase`. Arguments and errors are those of `CandidateEvalDataLoader`.
    """

    def __init__(self, config, dataset, sampler=None, shuffle=False, phase=None):
        self._find_rows(config, dataset, sampler, phase)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def collate_fn(self, index):
        index = torch.as_tensor(np.asarray(index))  # [B]
        lines = self._lines(index)
        added = {
            ITEMS_FIELD: self.items[index],
            ROW_FIELD: index,
            PHASE_FIELD: torch.full((len(index),), PHASES.index(self.phase)),
        }
        lines.update(Interaction(added))
        return lines, None, torch.arange(len(index)), self.items[index, self.position[index]]

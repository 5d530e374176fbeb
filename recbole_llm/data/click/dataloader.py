"""Dataloaders of RecLoRA's questions (`data.click.questions`).

In evaluation all items that are asked about after one and the same history share its prefix: the C candidates of a row
under `protocol: candidates`, and under `protocol: ctr` the labelled rows of a user that have one history (rows of one
moment). Where histories depend on the item (`relevant`), or the gate does, each item has a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from recbole_llm import registry
from recbole_llm.data.click.collate import ClickCollate
from recbole_llm.data.click.questions import ClickRows, Question
from recbole_llm.data.click.rows import check_classes
from recbole_llm.data.dataloader import EvalPromptDataLoader, TrainBatches, TrainPromptDataLoader
from recbole_llm.data.sample import sample_evaluation_rows, sample_rows

PROMPT_ROWS = 20  # labelled rows at most that share one prompt


class ClickBatches(TrainBatches):
    """Training questions of one epoch: labelled rows, or of each row by a fair coin the target or a negative."""

    def __init__(self, config, rows: ClickRows):
        labelled = registry.protocol(config["protocol"]).labelled
        self.labels = rows.split.inter_feat[config["LABEL_FIELD"]].numpy() if labelled else None  # [rows]
        super().__init__(config, rows)

    def _candidate_sets(self):
        return super()._candidate_sets() if self.labels is None else None

    def _sample_rows(self) -> np.ndarray:
        """Few2Many's seeded sample, stratified by label with `train_sample_stratified`."""
        labels = self.labels if self.config["train_sample_stratified"] else None
        return sample_rows(len(self.rows), self.config["train_sample_size"], self.seed, labels)

    def _candidates(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The item asked about, [n, 1], and where the target is: 0, or -1 where it is not asked about."""
        if self.sets is None:
            return self.rows.targets[order][:, None], np.where(self.labels[order] > 0.5, 0, -1)
        chosen, positions = super()._candidates(order)  # [n, C], [n]
        coin = np.random.default_rng([self.seed, 3, self.epoch]).integers(2, size=len(order))
        places = np.where(coin == 1, positions, (positions + 1) % chosen.shape[1])
        return chosen[np.arange(len(order)), places][:, None], np.where(coin == 1, 0, -1)

    def __iter__(self) -> Iterator[list[Question]]:
        for keys in super().__iter__():
            text, long = self.rows.histories(
                np.array([key.row for key in keys]), np.array([key.candidates[0] for key in keys])
            )
            yield [
                Question(key.row, key.candidates, 0, template=key.template, hybrid=key.hybrid, label=key.target_position + 1, text=(t,), long=(c,))
                for key, t, c in zip(keys, text, long, strict=True)
            ]


class TrainClickDataLoader(TrainPromptDataLoader):
    """Training questions; `set_epoch` must be called before each epoch."""

    def _parts(self, config, dataset):
        rows = ClickRows(config, dataset, training=True)
        return rows, ClickBatches(config, rows), ClickCollate(rows)


class EvalClickDataLoader(EvalPromptDataLoader):
    """Questions of the frozen candidate set, or of the labelled rows, of `phase`, longest first."""

    def _parts(self, config, dataset):
        rows = ClickRows(config, dataset, training=False)
        self.phase = dataset.phase or self.phase  # the released recipe validates on the test rows
        if registry.protocol(config["protocol"]).labelled:
            keys, canonical = labelled_questions(config, rows, self.phase), None
        else:
            keys, canonical = self._ranked(rows)
        return rows, [_padded(batch) for batch in self._batches(keys)], ClickCollate(rows, canonical)

    def _ranked(self, rows: ClickRows) -> tuple[list[Question], dict[int, int]]:
        keys, canonical = self._keys(rows.split, rows)
        width = self.candidate_set.n_candidates if rows.per_item else 1
        index = np.repeat([key.row for key in keys], width)
        items = np.array([key.candidates[:width] for key in keys]).reshape(-1)
        text, long = rows.histories(index, items)
        questions = []
        for i, key in enumerate(keys):
            mine = slice(i * width, (i + 1) * width)
            questions.append(
                Question(key.row, key.candidates, key.target_position, text=tuple(text[mine]), long=tuple(long[mine]))
            )
        return questions, canonical


def labelled_questions(config, rows: ClickRows, phase: str) -> list[Question]:
    """The labelled rows of a phase as prompts, rows of one history together where model and retriever allow it."""
    size = config["valid_sample_size"] if phase == "valid" else None
    kept = sample_evaluation_rows(len(rows), size, config["candidate_seed"], phase)
    check_classes(rows.split.inter_feat[config["LABEL_FIELD"]].numpy()[kept], phase, config, sampled=size is not None)
    shared = not rows.per_item and rows.model_class.shares_prefix(config)
    text, long = rows.histories(kept, rows.targets[kept])
    order = np.argsort(-rows.token_lengths(kept, rows.targets[kept][:, None]), kind="stable")
    groups: dict = {}
    for i in order.tolist():
        row = int(kept[i])
        own = (int(rows.start[row]), int(rows.end[row])) if shared else row
        groups.setdefault(own, [[]])
        if len(groups[own][-1]) == PROMPT_ROWS:
            groups[own].append([])
        groups[own][-1].append(i)
    prompts = [group for chunks in groups.values() for group in chunks]
    questions = []
    for group in sorted(prompts, key=len, reverse=True):  # stable: of like size, the longest first
        mine = tuple(int(kept[i]) for i in group)
        items = tuple(int(rows.targets[row]) for row in mine)
        questions.append(Question(mine[0], items, 0, text=(text[group[0]],), long=(long[group[0]],), rows=mine))
    return questions


def _padded(keys: list[Question]) -> list[Question]:
    """A batch whose prompts all ask about as many rows: the first is asked again, as row -1."""
    width = max(len(key.candidates) for key in keys)
    fill = [width - len(key.candidates) for key in keys]
    return [
        replace(key, candidates=key.candidates + key.candidates[:1] * n, rows=key.rows + (-1,) * n) if n else key
        for key, n in zip(keys, fill, strict=True)
    ]


class ValidClickDataLoader(EvalClickDataLoader):
    phase = "valid"


class TestClickDataLoader(EvalClickDataLoader):
    __test__ = False  # not a pytest class
    phase = "test"

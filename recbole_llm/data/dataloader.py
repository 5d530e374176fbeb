"""Dataloaders for hybrid prompts.

One example is a prompt (history, candidates, question) with behaviour slots and, in training, the answer's token ids.
Everything that is drawn (the sample of rows, their order, the negatives, the template, LLaRA's text-or-hybrid choice)
is a pure function of (seed, epoch, batch number): a loader that starts at any batch of any epoch, in any worker,
yields what an uninterrupted run would have seen.

Batches are left-padded in the prompt and right-padded in the answer, so that "the last prompt position" is the same
column for every row (scoring and decoding need that), and hold rows of like length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch.utils.data import DataLoader, Sampler

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.collate import Collate
from recbole_llm.data.prompt_rows import Key, PromptRows
from recbole_llm.data.rows import match_rows
from recbole_llm.data.sample import sample_evaluation_rows, sample_rows

BUCKET_BATCHES = 32  # rows are sorted by length within windows of this many batches: little padding, much shuffling


class TrainBatches(Sampler[list[Key]]):
    """Batches of one epoch: the seeded sample of rows, shuffled, bucketed by length, with this epoch's negatives.

    Attributes:
        epoch: set by the trainer before each epoch.
        start_batch: batches to leave out (a resumed epoch).
    """

    def __init__(self, config, rows: PromptRows):
        self.config, self.rows = config, rows
        self.batch_size = config["train_batch_size"]
        self.epochs = config["epochs"]
        self.seed = config["seed"]
        self.epoch = self.start_batch = 0
        self.sets = self._candidate_sets()
        self.sample = self._sample_rows()

    def _candidate_sets(self):
        return candidate_sets(self.config)

    def _sample_rows(self) -> np.ndarray:
        """Row numbers of the seeded training sample."""
        return sample_rows(len(self.rows), self.config["train_sample_size"], self.seed)

    def __len__(self) -> int:
        return -(-len(self.sample) // self.batch_size)

    def progress(self, batch: int) -> float:
        """The share of all training steps done before this batch, in [0, 1)."""
        return (self.epoch * len(self) + batch) / self.total_batches

    def step_share(self, batch: int) -> float:
        """The share of all optimizer steps that lie before the one that ``batch`` of this epoch belongs to."""
        width = self.config["accumulation_steps"]
        steps = -(-len(self) // width)
        total = self.epochs * steps if self.config["max_steps"] is None else min(self.config["max_steps"], self.epochs * steps)
        return (self.epoch * steps + batch // width) / total

    @property
    def total_batches(self) -> int:
        """Batches of the whole training; ``max_steps`` may end it within an epoch."""
        total, steps, width = self.epochs * len(self), self.config["max_steps"], self.config["accumulation_steps"]
        if steps is None:
            return total
        epochs, rest = divmod(steps, -(-len(self) // width))
        return min(total, epochs * len(self) + min(rest * width, len(self)))

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng([self.seed, 2, self.epoch])
        order = rng.permutation(self.sample)
        shared = self.config["users_per_list"] > 1
        candidates, positions = (self.rows.targets[order][:, None], None) if shared else self._candidates(order)
        templates = rng.integers(len(self.rows.templates), size=len(order))
        window = BUCKET_BATCHES * self.batch_size
        lengths = self.rows.token_lengths(order, candidates)
        place = np.concatenate(
            [start + np.argsort(lengths[start : start + window], kind="stable") for start in range(0, len(order), window)]
        )
        batches = [place[start : start + self.batch_size] for start in range(0, len(place), self.batch_size)]
        draws = rng.random(len(batches))  # LLaRA: one text-or-hybrid draw per batch
        for number, which in enumerate(rng.permutation(len(batches))):
            if number < self.start_batch:
                continue
            rows, progress = batches[which], self.progress(number)
            share = self.step_share(number) if self.config["stages"] else progress  # weights change stages with the step
            drawn = {
                "hybrid": bool(draws[number] < self.rows.model_class.hybrid_probability(self.config, share)),
                "history": progress >= self.config["history_from"],
            }
            if shared:
                yield self._sharing(order[rows], templates[rows], number, drawn)
            else:
                yield [
                    Key(int(order[i]), tuple(candidates[i].tolist()), int(positions[i]), int(templates[i]), **drawn)
                    for i in rows
                ]

    def _sharing(self, rows: np.ndarray, templates: np.ndarray, number: int, drawn: dict) -> list[Key]:
        """Keys of a batch whose rows share candidate lists, `users_per_list` a list; lists have numbers of their own in an epoch."""
        keys, size = [], self.config["users_per_list"]
        for group, start in enumerate(range(0, len(rows), size), number * self.batch_size):
            members = rows[start : start + size]
            found = self.rows.shared_list(members, self.sets, self.epoch, group)
            listed = tuple(found[0].tolist())
            keys += [
                Key(int(row), listed, int(at), int(templates[start]), group=group, unseen=tuple(may.tolist()), **drawn)
                for row, at, may in zip(members, *found[1:], strict=True)
            ]
        return keys

    def _candidates(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """This epoch's candidate ids ``[n, C]`` (internal) and target positions ``[n]``."""
        return self.rows.training_candidates(order, self.sets, self.epoch)


class TrainPromptDataLoader(DataLoader):
    """Training prompts; ``set_epoch`` must be called before each epoch."""

    is_sequential = True  # asked by RecBole's case_study

    def __init__(self, config, dataset, sampler=None, shuffle=True):
        self._dataset, self.config, self.shuffle = dataset, config, shuffle
        rows, self.batches, collate = self._parts(config, dataset)
        super().__init__(
            rows,
            batch_sampler=self.batches,
            collate_fn=collate,
            num_workers=config["worker"],
            generator=torch.Generator(),  # its own: iterating leaves torch's global generator alone
        )

    def _parts(self, config, dataset) -> tuple:
        """Rows, their batches, and what makes tensors of them."""
        rows = PromptRows(config, dataset)
        return rows, TrainBatches(config, rows), Collate(rows, training=True)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.batches.epoch, self.batches.start_batch = epoch, start_batch

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.batches.sample)

    def batch(self, keys: list[Key]) -> Interaction:
        """One batch of the rows that ``keys`` name."""
        return self.collate_fn([self.dataset[key] for key in keys])

    def longest(self, n: int) -> list[Key]:
        """Keys of the ``n`` longest prompts of an epoch, whichever has the longest, with behaviour tokens.

        What takes most memory. Epochs are looked at until they make 50,000 rows.
        """
        before = self.batches.epoch, self.batches.start_batch
        found: list[tuple[int, list[Key]]] = []
        for epoch in range(min(self.batches.epochs, 1 + 50_000 // self.n_rows)):
            self.set_epoch(epoch)
            keys = [replace(key, hybrid=True) for batch in self.batches for key in batch]
            rows, candidates = np.array([key.row for key in keys]), np.array([key.candidates for key in keys])
            likely = np.argsort(-self.dataset.token_lengths(rows, candidates), kind="stable")[: 4 * n + 64]
            examples = {int(i): self.dataset[keys[i]] for i in likely}  # templates and separators differ too
            lengths = {i: len(example["ids"]) + len(example["answer"]) for i, example in examples.items()}
            order = sorted(lengths, key=lambda i: -lengths[i])[:n]
            found.append((lengths[order[0]], [keys[i] for i in order]))
        self.set_epoch(*before)
        return max(found, key=lambda pair: pair[0])[1]


class EvalPromptDataLoader(DataLoader):
    """Prompts of the frozen candidate set of ``phase``, longest first (the first batch shows the peak memory)."""

    phase: str
    is_sequential = True  # asked by RecBole's case_study

    def __init__(self, config, dataset, sampler=None, shuffle=False):
        self._dataset, self.config, self.shuffle = dataset, config, False
        rows, batches, collate = self._parts(config, dataset)
        super().__init__(
            rows,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=config["worker"],
            generator=torch.Generator(),
        )

    def _parts(self, config, dataset) -> tuple:
        """Rows, their batches, and what makes tensors of them."""
        rows = PromptRows(config, dataset)
        keys, canonical = self._keys(dataset, rows)
        return rows, self._batches(keys), Collate(rows, training=False, canonical=canonical)

    def _batches(self, keys: list[Key]) -> list[list[Key]]:
        size = self.config["eval_batch_size"]
        return [keys[start : start + size] for start in range(0, len(keys), size)]

    def _keys(self, dataset, rows: PromptRows) -> tuple[list[Key], dict[int, int]]:
        """The phase's rows in the order they are read, and split row -> row of the candidate set."""
        chosen = self.candidate_set = getattr(candidate_sets(self.config), self.phase)
        numbers = match_rows(dataset, chosen)  # candidate-set row -> split row
        candidates = candidate_sets(self.config).internal_items(dataset)[chosen.candidates]  # [n, C]
        size = self.config["valid_sample_size"] if self.phase == "valid" else None
        kept = sample_evaluation_rows(len(numbers), size, self.config["candidate_seed"], self.phase)
        order = kept[np.argsort(-rows.token_lengths(numbers[kept], candidates[kept]), kind="stable")]
        keys = [Key(int(numbers[i]), tuple(candidates[i].tolist()), int(chosen.target_position[i])) for i in order]
        return keys, {int(numbers[i]): int(i) for i in order}


class ValidPromptDataLoader(EvalPromptDataLoader):
    phase = "valid"


class TestPromptDataLoader(EvalPromptDataLoader):
    __test__ = False  # not a pytest class
    phase = "test"

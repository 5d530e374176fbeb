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
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model
from torch.utils.data import DataLoader, Dataset, Sampler

from recbole_llm import registry
from recbole_llm.data.candidate_sets import CandidateSets, candidate_sets
from recbole_llm.data.prompt import parse_template, with_words
from recbole_llm.data.rows import ROW_FIELD, match_rows
from recbole_llm.data.sample import sample_evaluation_rows, sample_rows
from recbole_llm.llm.constrained_vocabulary import rivals
from recbole_llm.llm.packing import LIST_FIELD, SHARED_FIELD, shared_tokens

BUCKET_BATCHES = 32  # rows are sorted by length within windows of this many batches: little padding, much shuffling


@dataclass(frozen=True)
class Example:
    """What a model's ``render`` sees. Item ids are internal; ``history`` is oldest first."""

    history: list[int]
    candidates: list[int]
    target: int
    template: list
    behaviour_tokens: str
    user_token: bool


@dataclass(frozen=True)
class Key:
    """One row of one epoch: everything that its example depends on.

    ``group`` numbers the rows of a batch that share a candidate list (`users_per_list`); ``unseen`` says which of its
    candidates the row may be given (None: all).
    """

    row: int  # index into the split's rows
    candidates: tuple[int, ...]
    target_position: int
    template: int = 0
    _: KW_ONLY  # a subclass adds fields of its own behind these
    hybrid: bool = True
    history: bool = True
    group: int = 0
    unseen: tuple[bool, ...] | None = None


class PromptRows(Dataset):
    """Renders :class:`Key` -> a dictionary of token ids. Titles were tokenised once; here ids are only joined.

    RecBole's own calls (``case_study``, ``Collector``) take a loader's ``dataset`` for the split: whatever is not a prompt's,
    names and row numbers alike, is the split's.
    """

    def __init__(self, config, dataset):
        self.config, self.split = config, dataset
        self.tokens = dataset.prompt_tokenizer
        self.model_class = get_model(config["model"])
        texts = with_words(config["prompt_templates"], config["prompt_words"])
        self.templates = [parse_template(text, self.model_class.template_fields) for text in texts]
        feat = dataset.inter_feat
        self.sequences = feat[dataset.item_id_list_field].numpy()  # [rows, MAX_ITEM_LIST_LENGTH], 0 after the end
        self.lengths = feat[dataset.item_list_length_field].numpy()  # [rows]
        self.targets = feat[dataset.iid_field].numpy()  # [rows]

    def __getattr__(self, name: str):
        if name.startswith("_") or name == "split":  # not there yet while a worker unpickles this
            raise AttributeError(name)
        return getattr(self.split, name)

    @property
    def times(self) -> np.ndarray | None:
        """When each row happened, ``[rows]``; None where a dataset has no times: its rows are in order."""
        feat, name = self.split.inter_feat, self.split.time_field
        return feat[name].numpy() if name in feat else None

    def history(self, row: int) -> list[int]:
        length = int(self.lengths[row])
        return self.sequences[row, max(0, length - self.config["history_max_len"]) : length].tolist()

    def training_candidates(self, rows: np.ndarray, sets: CandidateSets, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Candidate ids ``[n, C]`` (internal) and target positions ``[n]`` of training rows in one epoch."""
        chosen, positions = sets.training_candidates(*self._external(rows), epoch, self._recent(rows))
        return sets.internal_items(self.split)[chosen], positions

    def shared_list(self, rows: np.ndarray, sets: CandidateSets, epoch: int, number: int) -> tuple[np.ndarray, ...]:
        """One candidate list ``[C]`` (internal ids) for training rows, their targets' positions ``[n]`` and ``unseen [n, C]``."""
        chosen, positions, unseen = sets.shared_training_list(*self._external(rows), epoch, number, self._recent(rows))
        return sets.internal_items(self.split)[chosen], positions, unseen

    def _external(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """External users and targets of rows."""
        split = self.split
        users = split.id2token(split.uid_field, split.inter_feat[split.uid_field].numpy()[rows])
        return users, split.id2token(split.iid_field, self.targets[rows])

    def _recent(self, rows: np.ndarray) -> list | None:
        if self.config["train_negatives"] != "recent":
            return None
        return [self.split.id2token(self.split.iid_field, self.history(row)) for row in rows]

    def token_lengths(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Title tokens per row ``[n]``: what sorts rows into buckets (template words are the same for all)."""
        per_title = self.tokens.lengths()
        per_title[0] = 0
        ends = self.lengths[rows][:, None]
        place = np.arange(self.sequences.shape[1])[None]
        shown = (place < ends) & (place >= ends - self.config["history_max_len"])
        return (per_title[self.sequences[rows]] * shown).sum(1) + per_title[candidates].sum(1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: Key) -> dict:
        if not isinstance(key, Key):
            return self.split[key]
        target = int(self.targets[key.row])
        example = Example(
            history=self.history(key.row) if key.history else [],
            candidates=list(key.candidates),
            target=target,
            template=self.templates[key.template],
            behaviour_tokens=self.config["behaviour_tokens"] if key.hybrid else "none",
            user_token=bool(self.config["user_token"]) and key.hybrid,
        )
        ids, items = self.tokens.assemble(self.model_class.render(example))
        answers = [self.model_class.answer(self.tokens, example, place) for place in range(len(key.candidates))]
        return {"key": key, "ids": ids, "items": items, "answer": answers[key.target_position], "answers": answers}


def _pad(rows: list[list[int]], fill: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists -> ``([B, L] ids, [B, L] mask)``."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids, mask


class Collate:
    """Examples -> RecBole :class:`Interaction` (tensors only).

    Adds to the split's own columns: ``prompt_ids, prompt_mask, prompt_items`` [B, P] (left-padded), ``candidates``
    [B, C], ``target_position`` [B]; in training ``answer_ids, answer_mask`` [B, A] (right-padded) and, where
    ``constrained``, ``rival_ids, rival_mask`` [B, A, C] (:mod:`recbole_llm.llm.constrained_vocabulary`); in evaluation
    ``branch_ids, branch_mask`` [B, C, T], every candidate's answer tokens, and ``candidate_row`` [B], the row's number in
    the candidate set.
    """

    def __init__(self, rows: PromptRows, training: bool, canonical: dict[int, int] | None = None):
        self.rows, self.training, self.canonical = rows, training, canonical or {}
        self.constrained = training and rows.config["likelihood_over"] == "candidates"

    def __call__(self, examples: list[dict]) -> Interaction:
        keys = [example["key"] for example in examples]
        tokens = self.rows.tokens
        batch = self.rows.split.inter_feat[np.array([key.row for key in keys])]
        columns: dict[str, torch.Tensor] = dict(batch.interaction)
        columns["prompt_ids"], columns["prompt_mask"] = _pad([e["ids"] for e in examples], tokens.pad_token_id, True)
        columns["prompt_items"], _ = _pad([e["items"] for e in examples], 0, True)
        columns["candidates"] = torch.tensor([key.candidates for key in keys], dtype=torch.long)
        columns["target_position"] = torch.tensor([key.target_position for key in keys])
        columns["hybrid"] = torch.tensor([key.hybrid for key in keys])
        if self.training:
            answers = [example["answer"] for example in examples]
            columns["answer_ids"], columns["answer_mask"] = _pad(answers, tokens.pad_token_id, False)
            if self.rows.config["users_per_list"] > 1:
                columns[LIST_FIELD], columns[SHARED_FIELD] = self._lists(examples)
            if self.constrained:
                columns["rival_ids"], columns["rival_mask"] = self._rivals(examples, columns["answer_ids"].shape[1])
        else:
            columns["branch_ids"], columns["branch_mask"] = self._branches(examples)
            columns[ROW_FIELD] = torch.tensor([self.canonical[key.row] for key in keys])
        return Interaction(columns)

    def _branches(self, examples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """``([B, C, T] ids, [B, C, T] mask)``: the answer tokens of every candidate, right-padded."""
        answers = [answer for example in examples for answer in example["answers"]]
        ids, mask = _pad(answers, self.rows.tokens.pad_token_id, False)
        return ids.view(len(examples), -1, ids.shape[1]), mask.view(len(examples), -1, mask.shape[1])

    def _rivals(self, examples: list[dict], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``([B, length, C] ids, [B, length, C] mask)``: the rivals of the answers' tokens."""
        keys = [example["key"] for example in examples]
        ids, mask = (part[..., :length] for part in self._branches(examples))  # a token's rivals depend on no later one
        if keys[0].unseen is not None:
            mask = mask & torch.tensor([key.unseen for key in keys]).unsqueeze(-1)
        rows, targets = torch.arange(len(keys)), torch.tensor([key.target_position for key in keys])
        return tuple(part[rows, targets] for part in rivals(ids, mask))  # each was [B, C, length, C]


    def _lists(self, examples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B]`` group of each row, and ``[B]`` how many tokens its prompt has in common with the group's others."""
        groups = [example["key"].group for example in examples]
        members: dict[int, list] = {}
        for group, example in zip(groups, examples, strict=True):
            members.setdefault(group, []).append((example["ids"], example["items"]))
        common = {group: shared_tokens(rows) for group, rows in members.items()}
        return torch.tensor(groups), torch.tensor([common[group] for group in groups])


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
        self.sets = candidate_sets(config)
        self.sample = self._sample_rows()

    def _sample_rows(self) -> np.ndarray:
        """Row numbers of the seeded training sample."""
        return sample_rows(len(self.rows), self.config["train_sample_size"], self.seed)

    def __len__(self) -> int:
        return -(-len(self.sample) // self.batch_size)

    def progress(self, batch: int) -> float:
        """The share of all training steps done before this batch, in [0, 1)."""
        return (self.epoch * len(self) + batch) / self.total_batches

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
            drawn = {
                "hybrid": bool(draws[number] < self.rows.model_class.hybrid_probability(self.config, progress)),
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
        """Keys of a batch whose rows share candidate lists, `users_per_list` a list."""
        keys, size = [], self.config["users_per_list"]
        for group, start in enumerate(range(0, len(rows), size)):
            members = rows[start : start + size]
            found = self.rows.shared_list(members, self.sets, self.epoch, number * self.batch_size + group)
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
        rows = PromptRows(config, dataset)
        self.batches = TrainBatches(config, rows)
        super().__init__(
            rows,
            batch_sampler=self.batches,
            collate_fn=Collate(rows, training=True),
            num_workers=config["worker"],
            generator=torch.Generator(),  # its own: iterating leaves torch's global generator alone
        )

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
        self.candidate_set = getattr(candidate_sets(config), self.phase)
        rows = PromptRows(config, dataset)
        keys, canonical = self._keys(dataset, rows)
        size = config["eval_batch_size"]
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        super().__init__(
            rows,
            batch_sampler=batches,
            collate_fn=Collate(rows, training=False, canonical=canonical),
            num_workers=config["worker"],
            generator=torch.Generator(),
        )

    def _keys(self, dataset, rows: PromptRows) -> tuple[list[Key], dict[int, int]]:
        """The phase's rows in the order they are read, and split row -> row of the candidate set."""
        chosen = self.candidate_set
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


def prompt_dataloader(config, phase: str) -> type[DataLoader]:
    """The dataloader class of a plugin model, for RecBole's ``get_dataloader(config, phase)``."""
    loaders = {"train": TrainPromptDataLoader, "valid": ValidPromptDataLoader, "test": TestPromptDataLoader}
    return registry.protocol(config["protocol"]).prompt_loader(phase, get_model(config["model"]).head) or loaders[phase]

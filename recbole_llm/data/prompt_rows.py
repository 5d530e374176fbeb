"""One example of a hybrid prompt: history, candidates and question with behaviour slots, and the tokens of every answer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
from recbole.utils import get_model
from torch.utils.data import Dataset

from recbole_llm.data.candidate_sets import CandidateSets
from recbole_llm.data.columns import history_field
from recbole_llm.data.prompt import parse_template, with_profile, with_words


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

    ``group`` is the number of the candidate list that rows of a batch share (`users_per_list`); ``unseen`` says which of its
    candidates the row may be given (None: all, of a list that is the row's own).
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
        self.sequences = feat[history_field(config)].numpy()  # [rows, MAX_ITEM_LIST_LENGTH], 0 after the end
        self.lengths = feat[dataset.item_list_length_field].numpy()  # [rows]
        self.targets = feat[dataset.iid_field].numpy()  # [rows]
        self.users = feat[dataset.uid_field].numpy()  # [rows]

    def __getattr__(self, name: str):
        if name.startswith("_") or name == "split":  # not there yet while a worker unpickles this
            raise AttributeError(name)
        return getattr(self.split, name)

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

    def template(self, key: Key) -> list:
        """A prompt's template, which says of the row's user what `prompt_fields` asks for."""
        return with_profile(self.templates[key.template], self.split.profiles[self.users[key.row]])

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
            template=self.template(key),
            behaviour_tokens=self.config["behaviour_tokens"] if key.hybrid else "none",
            user_token=bool(self.config["user_token"]) and key.hybrid,
        )
        ids, items = self.tokens.assemble(self.model_class.render(example))
        answers = [self.model_class.answer(self.tokens, example, place) for place in range(len(key.candidates))]
        return {"key": key, "ids": ids, "items": items, "answer": answers[key.target_position], "answers": answers}

"""RecLoRA's questions: "will the user like this item?", answered by one token, Yes or No.

A prompt is a prefix (the history) and a branch (the item's title and the question). In evaluation several items may be
asked about after one and the same history and share its prefix; see `data.click`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from recbole.utils import get_model

from recbole_llm.data.click.retriever import item_vectors, most_relevant
from recbole_llm.data.click.rows import rating_levels
from recbole_llm.data.click.timelines import recent
from recbole_llm.data.click.wording import answer_ids, click_templates, history_notes
from recbole_llm.data.model_kinds import reads_ratings
from recbole_llm.data.prompt import Field, parse_template, with_words
from recbole_llm.data.prompt_rows import Example, Key, PromptRows


@dataclass(frozen=True)
class ClickExample(Example):
    """An `Example` whose history carries notes (" (liked)", " (4 of 5)") and labels, one per item, or None where there are none."""

    notes: list[str] | None = None
    likes: list[bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Question(Key):
    """One prompt: `candidates` are the items asked about after the history at the places `text` of the timelines.

    Attributes:
        label: 1 or 0, in training.
        text: places of the LLM's history; one tuple for all items, or one for each.
        long: places of the CRM's history, likewise.
        rows: numbers of the labelled rows asked about, -1 for padding.
    """

    label: int = 0
    text: tuple[tuple[int, ...], ...] = ((),)
    long: tuple[tuple[int, ...], ...] = ((),)
    rows: tuple[int, ...] = ()


class ClickRows(PromptRows):
    """Renders a `Question` -> token ids of its prefix and branches (in training, of the whole prompt)."""

    def __init__(self, config, dataset, training: bool):
        self.config, self.split, self.training = config, dataset, training
        self.tokens, self.model_class = dataset.prompt_tokenizer, get_model(config["model"])
        texts = with_words(click_templates(config), config["prompt_words"])
        self.templates = [parse_question(text, self.model_class.template_fields) for text in texts]
        self.answers = answer_ids(config, self.tokens.tokenizer, texts[0])
        self.timelines = dataset.timelines
        self.targets = dataset.inter_feat[dataset.iid_field].numpy()  # [rows]
        self.users = dataset.inter_feat[dataset.uid_field].numpy()  # [rows]
        self.start, self.end = (getattr(self.timelines, name)[dataset.numbers] for name in ("start", "end"))  # [rows]
        self.notes = history_notes(config, self.timelines)
        rated = self.model_class.needs_crm(config) and reads_ratings(get_model(config["crm_model"])) and self.timelines.ratings is not None
        self.levels = rating_levels(config, self.timelines.ratings) if rated else None  # [total]
        self._vectors: np.ndarray | None = None

    @property
    def per_item(self) -> bool:
        """Whether a history depends on the item asked about."""
        return "relevant" in (self.config["text_history"], self.config["crm_history"])

    def places(self, kind: str, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Places of the "text" or "crm" histories of rows [n] that are asked about items [n]. int64 [n, k]"""
        k, start, end = self.config[f"{kind}_history_len"], self.start[rows], self.end[rows]
        if self.config[f"{kind}_history"] == "recent":
            return recent(start, end, k)
        if self._vectors is None:
            self._vectors = item_vectors(self.config, self.split.titles, self.tokens.title_ids)
        return most_relevant(self._vectors, self.timelines.items, start, end, np.asarray(items), k)

    def history(self, row: int) -> list[int]:
        """Items of the latest history that a prompt shows, oldest first: what `train_negatives: recent` keeps out."""
        places = recent(self.start[[row]], self.end[[row]], self.config["text_history_len"])[0]
        return self.timelines.items[places[places >= 0]].tolist()

    def histories(self, rows: np.ndarray, items: np.ndarray) -> tuple[list[tuple], list[tuple]]:
        """(text, long) places of n questions, as tuples without padding."""
        return tuple(
            [tuple(line[line >= 0].tolist()) for line in self.places(kind, rows, items)] for kind in ("text", "crm")
        )

    def token_lengths(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Title tokens per prompt [n], with the latest history: what sorts rows into buckets."""
        per_title = self.tokens.lengths()
        per_title[0] = 0
        places = recent(self.start[rows], self.end[rows], self.config["text_history_len"])
        shown = np.where(places >= 0, per_title[self.timelines.items[places]], 0)
        return shown.sum(1) + per_title[candidates].sum(1)

    def __getitem__(self, key: Question) -> dict:
        if not isinstance(key, Key):
            return self.split[key]
        prefixes = [self._prefix(key, places) for places in key.text]
        branches = [self._branch(key, item) for item in key.candidates]
        if self.training:
            (head,), (tail,) = prefixes, branches
            prefixes, branches = [tuple(a + b for a, b in zip(head, tail, strict=True))], []
        return {"key": key, "prompts": prefixes, "branches": branches}

    def _example(self, key: Question, history: list[int], notes, target: int, likes=None) -> ClickExample:
        shown = self.config["behaviour_tokens"] if key.hybrid else "none"
        user = bool(self.config["user_token"]) and key.hybrid
        return ClickExample(history, [], target, self.template(key), shown, user, notes=notes, likes=likes)

    def _prefix(self, key: Question, places: tuple[int, ...]) -> tuple[list[int], list[int]]:
        history = self.timelines.items[list(places)].tolist()
        notes = None if self.notes is None else [self.notes[place] for place in places]
        labels = self.timelines.labels
        likes = None if labels is None else [bool(labels[place]) for place in places]
        example = self._example(key, history, notes, key.candidates[0], likes)
        return self.tokens.assemble(self.model_class.prefix(example))

    def _branch(self, key: Question, item: int) -> tuple[list[int], list[int]]:
        ids, items = self.tokens.assemble(self.model_class.branch(self._example(key, [], None, item)))
        start = len(self.tokens.prefix)
        return ids[start:], items[start:]


def parse_question(text: str, fields) -> list:
    """A question's template as text and fields (:func:`recbole_llm.data.prompt.parse_template`).

    Raises:
        ValueError: a field is unknown, missing or repeated, or stands behind the item asked about.
    """
    template = parse_template(text, fields)
    names = [piece.name for piece in template if isinstance(piece, Field)]
    if late := [name for name in names[names.index("target") + 1 :] if name != "user"]:
        raise ValueError(
            f"click template {text!r}: {{{late[0]}}} must stand before {{target}}: what stands before it is shared by all "
            "items asked about"
        )
    return template

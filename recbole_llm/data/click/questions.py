"""RecLoRA's questions: "will the user like this item?", answered by one token, Yes or No.

A prompt is a prefix (the history) and a branch (the item's title and the question). In evaluation several items may be
asked about after one and the same history and share its prefix; see `data.click`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model

from recbole_llm import registry
from recbole_llm.data.click.retriever import item_vectors, most_relevant
from recbole_llm.data.click.timelines import Timelines, recent
from recbole_llm.data.dataloader import Example, Key, PromptRows, _pad
from recbole_llm.data.prompt import Field, parse_template, with_words
from recbole_llm.data.rows import ROW_FIELD


@dataclass(frozen=True)
class ClickExample(Example):
    """An `Example` whose history carries notes (" (liked)", " (4 of 5)") and labels, one per item, or None where there are none."""

    notes: list[str] | None = None
    likes: list[bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Question(Key):
    """One prompt: `candidates` are the items asked about after the history at the places `text` of the timelines.

    text, long : places of the LLM's and of the CRM's history; one tuple for all items, or one for each.
    label : 1 or 0 in training. rows : numbers of the labelled rows asked about, -1 for padding.
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
        self.templates = [_parse(text, self.model_class.template_fields) for text in texts]
        self.answers = answer_ids(config, self.tokens.tokenizer, texts[0])
        self.timelines = dataset.timelines
        self.targets = dataset.inter_feat[dataset.iid_field].numpy()  # [rows]
        self.start, self.end = (getattr(self.timelines, name)[dataset.numbers] for name in ("start", "end"))  # [rows]
        self.notes = history_notes(config, self.timelines)
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
        return ClickExample(history, [], target, self.templates[key.template], shown, user, notes=notes, likes=likes)

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


def click_templates(config) -> list[str]:
    """The question's templates for the run's protocol: of liking (ctr), or of what comes next (candidates)."""
    return config["click_templates"]["ctr" if registry.protocol(config["protocol"]).labelled else "candidates"]


def _parse(text: str, fields) -> list:
    template = parse_template(text, fields)
    names = [piece.name for piece in template if isinstance(piece, Field)]
    if late := [name for name in names[names.index("target") + 1 :] if name != "user"]:
        raise ValueError(
            f"click template {text!r}: {{{late[0]}}} must stand before {{target}}: what stands before it is shared by all "
            "items asked about"
        )
    return template


def first_token_ids(tokenizer, yes="Yes", no="No", context="Answer:", separator=" "):
    """First tokens of two answers as they follow the prompt's end: (yes_id, no_id).

    Raises:
        ValueError: both answers begin with the same token, or one has no token.
    """
    base = tokenizer(context, add_special_tokens=False)["input_ids"]
    found = []
    for word in (yes, no):
        ids = tokenizer(context + separator + word, add_special_tokens=False)["input_ids"]
        if ids[: len(base)] == base:
            ids = ids[len(base) :]
        else:  # the tokenizer merges across the border: take the answer as fed by itself
            ids = tokenizer(separator + word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the tokenizer gives {word!r} no token after {context!r}; choose another answer word")
        found.append(ids[0])
    if found[0] == found[1]:
        raise ValueError(
            f"{yes!r} and {no!r} begin with the same token ({found[0]}) in this tokenizer; choose other answer words"
        )
    return tuple(found)


def answer_ids(config, tokenizer, text: str) -> tuple[int, int]:
    """First tokens of Yes and No as they follow the end of a template, after a blank, or without one where a tokenizer
    makes the blank a token of its own; ValueError if they are the same both ways."""
    (yes, no), context = config["answer_words"], text.rsplit("}", 1)[-1] or "Answer:"
    try:
        return first_token_ids(tokenizer, yes, no, context)
    except ValueError:
        return first_token_ids(tokenizer, yes, no, context, separator="")


def history_notes(config, timelines: Timelines) -> list[str] | None:
    """What is written behind each item of a history: likes, ratings or nothing (None)."""
    kind = config["history_notes"] or ("likes" if registry.protocol(config["protocol"]).labelled else "none")
    words = config["note_words"]
    if kind == "likes" and timelines.labels is not None:
        return [" " + words["liked" if label else "disliked"] for label in timelines.labels.tolist()]
    if kind == "ratings" and timelines.ratings is not None:
        return [" " + words["rating"].replace("{rating}", f"{value:g}") for value in timelines.ratings.tolist()]
    if kind != "none":
        raise ValueError(f"history_notes: {kind!r} needs {'labels' if kind == 'likes' else 'ratings'}, which "
                         f"{config['dataset']} does not have; set history_notes: none")  # fmt: skip
    return None


class ClickCollate:
    """Questions -> Interaction.

    Columns: user, `item_id` and `label` [B]; `item_id_list` [B, L] and `item_length` [B], the CRM's history;
    `candidates` [B, C]; `prompt_ids, prompt_mask, prompt_items` [B, P]. In training it is whole, with `answer_ids` and
    `answer_mask` [B, 1] (and under `likelihood_over: candidates` both answers as `rival_ids, rival_mask` [B, 1, 2]); in
    evaluation it is the prefix, with `branch_ids, branch_mask, branch_items` [B, C, T] and
    `candidate_row`, [B] or, for labelled rows, [B, C] (-1: padding). With a history per item, prompts are [B, C, P] and
    the CRM's columns [B, C, L] and [B, C].
    """

    def __init__(self, rows: ClickRows, canonical: dict[int, int] | None = None):
        self.rows, self.canonical = rows, canonical or {}

    def __call__(self, examples: list[dict]) -> Interaction:
        rows, keys = self.rows, [example["key"] for example in examples]
        split, pad = rows.split, rows.tokens.pad_token_id
        feat, index = split.inter_feat, torch.tensor([key.row for key in keys])
        columns = {split.uid_field: feat[split.uid_field][index]}
        columns["candidates"] = torch.tensor([key.candidates for key in keys])
        columns["target_position"] = torch.tensor([key.target_position for key in keys])
        columns["hybrid"] = torch.tensor([key.hybrid for key in keys])
        ranked = not rows.training and not keys[0].rows  # a candidate set; else a labelled row, whose item stands first
        columns[split.iid_field] = feat[split.iid_field][index] if ranked else columns["candidates"][:, 0]
        columns[rows.config["LABEL_FIELD"]] = torch.tensor([float(key.label) for key in keys])
        columns |= self._history(keys)
        prompts = [prompt for example in examples for prompt in example["prompts"]]
        columns["prompt_ids"], columns["prompt_mask"] = _pad([ids for ids, _ in prompts], pad, True)
        columns["prompt_items"], _ = _pad([items for _, items in prompts], 0, True)
        if len(keys[0].text) > 1:
            for name in ("prompt_ids", "prompt_mask", "prompt_items"):
                columns[name] = columns[name].view(len(keys), -1, columns[name].shape[1])
        columns |= self._answers(keys) if rows.training else self._branches(keys, examples)
        return Interaction(columns)

    def _history(self, keys: list[Question]) -> dict[str, torch.Tensor]:
        """The CRM's histories; an empty one is one padding item, which no model refuses."""
        split, width, timelines = self.rows.split, self.rows.config["crm_history_len"], self.rows.timelines
        lines = [places for key in keys for places in key.long]
        ids = np.zeros((len(lines), width), dtype=np.int64)
        for line, places in zip(ids, lines, strict=True):
            line[: len(places)] = timelines.items[list(places)]
        lengths = torch.tensor([max(1, len(places)) for places in lines])
        ids, shape = torch.from_numpy(ids), (len(keys), -1) if len(keys[0].long) > 1 else (len(keys),)
        return {split.item_id_list_field: ids.view(*shape, width), split.item_list_length_field: lengths.view(shape)}

    def _answers(self, keys: list[Question]) -> dict[str, torch.Tensor]:
        yes, no = self.rows.answers
        ids = torch.tensor([[yes if key.label else no] for key in keys])
        columns = {"answer_ids": ids, "answer_mask": torch.ones_like(ids, dtype=torch.bool)}
        if self.rows.config["likelihood_over"] == "candidates":
            both = torch.tensor([yes, no]).expand(len(keys), 1, 2)
            columns |= {"rival_ids": both, "rival_mask": torch.ones_like(both, dtype=torch.bool)}
        return columns

    def _branches(self, keys: list[Question], examples: list[dict]) -> dict[str, torch.Tensor]:
        branches = [branch for example in examples for branch in example["branches"]]
        ids, mask = _pad([ids for ids, _ in branches], self.rows.tokens.pad_token_id, False)
        items, _ = _pad([items for _, items in branches], 0, False)
        named = {"branch_ids": ids, "branch_mask": mask, "branch_items": items}
        columns = {name: column.view(len(keys), -1, column.shape[1]) for name, column in named.items()}
        rows = [key.rows if key.rows else self.canonical[key.row] for key in keys]
        return columns | {ROW_FIELD: torch.tensor(rows)}

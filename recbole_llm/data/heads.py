"""What answers a prompt, and with it what prompts ask: a model's ``head`` says which rows, batches and loaders it is given.

| head | an answer | a prompt | scores |
|---|---|---|---|
| ``TITLE`` | a title and the end token | lists the candidates | log-likelihood of each candidate's title |
| ``LETTERS`` | the letter of an option | lists the candidates | log-likelihood of each letter, one forward |
| ``CATALOGUE`` | an item | shows the history alone | a linear layer over all items |
| ``YES_NO`` | Yes or No | asks about one item | P(Yes) of each item, which may share the history's forward |
"""

from __future__ import annotations

import numpy as np

from recbole_llm import registry
from recbole_llm.config.rules import is_words
from recbole_llm.data import dataloader
from recbole_llm.data.click import dataloader as click_dataloader
from recbole_llm.data.click.collate import ClickCollate
from recbole_llm.data.click.dataset import ClickDataset
from recbole_llm.data.click.questions import ClickRows, Question, parse_question
from recbole_llm.data.click.wording import click_templates, kind_asked
from recbole_llm.data.collate import Collate
from recbole_llm.data.dataset import PromptDataset
from recbole_llm.data.prompt import parse_template, with_words
from recbole_llm.data.prompt_rows import Key, PromptRows


class Head:
    """One prompt per row.

    Attributes:
        pointwise: prompts ask about one item at a time.
        whole_catalogue: all items are scored at once, so that `protocol: full` needs no retriever.
        writes: the answer is text that can be generated.
        history_key: the setting that bounds the history which prompts show.
        dataset: class of the rows.
        loaders: class of each phase.
    """

    pointwise = False
    history_key = "history_max_len"
    dataset = PromptDataset
    loaders = {
        "train": dataloader.TrainPromptDataLoader,
        "valid": dataloader.ValidPromptDataLoader,
        "test": dataloader.TestPromptDataLoader,
    }

    def __init__(self, *, whole_catalogue: bool = False, writes: bool = False):
        self.whole_catalogue, self.writes = whole_catalogue, writes

    def templates(self, config) -> list[str]:
        """Prompt templates of a run, words not yet filled in."""
        return config["prompt_templates"]

    def template_problems(self, final: dict, fields: tuple[str, ...]) -> list[str]:
        """Lines for templates without the fields that the model fills; values may still be of a wrong type."""
        return _unreadable("prompt_templates", final.get("prompt_templates"), final, lambda text: parse_template(text, fields))

    def rows(self, config, split) -> PromptRows:
        """Examples of a split's rows for evaluation."""
        return PromptRows(config, split)

    def collate(self, rows, canonical: dict[int, int]):
        """What makes batches of evaluation examples.

        Args:
            rows: what `rows` gave.
            canonical: row of the split -> row of the candidate set.
        """
        return Collate(rows, training=False, canonical=canonical)

    def key(self, rows, line: int, candidates: np.ndarray, position: int = 0, hybrid: bool = True) -> Key:
        """The prompt of a row that ranks ``candidates`` [C], of which the target stands at ``position``."""
        return Key(line, tuple(candidates.tolist()), position, hybrid=hybrid)


class YesNo(Head):
    """A question per item; items asked about after one history share its prompt."""

    pointwise = True
    history_key = "text_history_len"
    dataset = ClickDataset
    loaders = {
        "train": click_dataloader.TrainClickDataLoader,
        "valid": click_dataloader.ValidClickDataLoader,
        "test": click_dataloader.TestClickDataLoader,
    }

    def templates(self, config):
        return click_templates(config)

    def template_problems(self, final, fields):
        given = final.get("click_templates")
        kinds = given.items() if isinstance(given, dict) else ()
        asked = kind_asked(final.get("protocol"))
        rule = f"click_templates: must hold one or more templates for {asked}, which is what this protocol asks"
        missing = [f"{rule}, got {given!r}"] if isinstance(given, dict) and not given.get(asked) else []
        return missing + [
            line
            for kind, texts in kinds
            for line in _unreadable(f"click_templates, {kind}", texts, final, lambda text: parse_question(text, fields))
        ]

    def rows(self, config, split):
        return ClickRows(config, split, training=False)

    def collate(self, rows, canonical):
        return ClickCollate(rows, canonical)

    def key(self, rows, line, candidates, position=0, hybrid=True):
        asked = candidates if rows.per_item else candidates[:1]  # a history for each item, or one for all
        text, long = rows.histories(np.full(len(asked), line), asked)
        return Question(line, tuple(candidates.tolist()), position, hybrid=hybrid, text=tuple(text), long=tuple(long))


def _unreadable(key: str, texts, final: dict, parse) -> list[str]:
    words, problems = final.get("prompt_words"), []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not is_words(words):
        return []  # a line of `config.rules.RULES` says so
    for text in with_words(texts, words):
        try:
            parse(text)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    return problems


TITLE = Head(writes=True)
LETTERS = Head()
CATALOGUE = Head(whole_catalogue=True)
YES_NO = YesNo()


def prompt_dataloader(config, phase: str):
    """The dataloader class of an LLM recommender, for RecBole's ``get_dataloader(config, phase)``."""
    head = registry.head(config["model"])
    return registry.protocol(config["protocol"]).prompt_loader(phase, head) or head.loaders[phase]

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
from recbole_llm.data import dataloader
from recbole_llm.data.click import dataloader as click_dataloader
from recbole_llm.data.click.collate import ClickCollate
from recbole_llm.data.click.dataset import ClickDataset
from recbole_llm.data.click.questions import ClickRows, Question
from recbole_llm.data.click.wording import click_templates
from recbole_llm.data.collate import Collate
from recbole_llm.data.dataset import PromptDataset
from recbole_llm.data.prompt_rows import Key, PromptRows


class Head:
    """One prompt per row.

    Attributes:
        name: one word, which messages show.
        pointwise: prompts ask about one item at a time.
        whole_catalogue: all items are scored at once, so that `protocol: full` needs no retriever.
        writes: the answer is text that can be generated.
        history_key: the setting that bounds the history which prompts show.
        dataset: class of the rows.
        loaders: class of each phase.
    """

    pointwise = whole_catalogue = writes = False
    history_key = "history_max_len"
    dataset = PromptDataset
    loaders = {
        "train": dataloader.TrainPromptDataLoader,
        "valid": dataloader.ValidPromptDataLoader,
        "test": dataloader.TestPromptDataLoader,
    }

    def __init__(self, name: str, **own):
        self.name = name
        self.__dict__.update(own)

    def templates(self, config) -> list[str]:
        """Prompt templates of a run, words not yet filled in."""
        return config["prompt_templates"]

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

    def rows(self, config, split):
        return ClickRows(config, split, training=False)

    def collate(self, rows, canonical):
        return ClickCollate(rows, canonical)

    def key(self, rows, line, candidates, position=0, hybrid=True):
        asked = candidates if rows.per_item else candidates[:1]  # a history for each item, or one for all
        text, long = rows.histories(np.full(len(asked), line), asked)
        return Question(line, tuple(candidates.tolist()), position, hybrid=hybrid, text=tuple(text), long=tuple(long))


TITLE = Head("title", writes=True)
LETTERS = Head("letters")
CATALOGUE = Head("catalogue", whole_catalogue=True)
YES_NO = YesNo("yes_no")


def prompt_dataloader(config, phase: str):
    """The dataloader class of an LLM recommender, for RecBole's ``get_dataloader(config, phase)``."""
    head = registry.head(config["model"])
    return registry.protocol(config["protocol"]).prompt_loader(phase, head) or head.loaders[phase]

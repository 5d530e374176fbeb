"""RecBole's sequential dataset, plus what a prompt needs: titles and their token ids."""

from __future__ import annotations

from functools import cached_property

from recbole.data.dataset import SequentialDataset

from recbole_llm.data.field_text import field_texts
from recbole_llm.data.item_text import load_titles
from recbole_llm.data.tokens import PromptTokenizer
from recbole_llm.llm.tokenizer import load_tokenizer


class PromptDataset(SequentialDataset):
    """A :class:`~recbole.data.dataset.SequentialDataset` whose splits share titles and a :class:`PromptTokenizer`."""

    @cached_property
    def titles(self) -> list[str]:
        """``item_num`` titles by internal item id; index 0 is the padding item."""
        return load_titles(self.config, self)

    @cached_property
    def details(self) -> list[str]:
        """What prompts say of each item behind its title (`prompt_fields`), by internal id."""
        return field_texts(self.config, self, "item")

    @cached_property
    def profiles(self) -> list[str]:
        """What prompts say of each user (`prompt_fields`), by internal id; index 0 is someone who is not in the data."""
        return field_texts(self.config, self, "user")

    @cached_property
    def prompt_tokenizer(self) -> PromptTokenizer:
        config = self.config
        return PromptTokenizer(load_tokenizer(config), self.titles, config["title_max_tokens"], bool(config["answer_bos"]),
                               config["behaviour_token_words"], config["behaviour_token_place"], config["item_separator"],
                               self.details)

    def read_texts(self) -> None:
        """Read and tokenise texts: the cached properties are filled, which splits inherit."""
        self.profiles, self.prompt_tokenizer  # noqa: B018

    def build(self):
        """RecBole's split; texts are read before it, so that the copies share them."""
        self.read_texts()
        return super().build()

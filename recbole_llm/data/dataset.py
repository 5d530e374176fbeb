"""RecBole's sequential dataset, plus what a prompt needs: titles and their token ids."""

from __future__ import annotations

from functools import cached_property

from recbole.data.dataset import SequentialDataset

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
    def prompt_tokenizer(self) -> PromptTokenizer:
        config = self.config
        return PromptTokenizer(load_tokenizer(config), self.titles, config["title_max_tokens"], bool(config["answer_bos"]),
                               config["behaviour_token_words"], config["behaviour_token_place"], config["item_separator"])

    def build(self):
        """RecBole's split; titles are tokenised before it, so that the copies share them."""
        self.prompt_tokenizer  # noqa: B018  (fills the cached property that the splits inherit)
        return super().build()

"""From prompt segments to token ids: every title is tokenised once, prompts are concatenations of ids.

A behaviour slot is one position that holds a placeholder id; which vector belongs there is said by a parallel list
(``items``): 0 for an ordinary token, ``i > 0`` for the behaviour token of item ``i``, ``-1`` for the user token. The
vocabulary is never resized.

Titles are encoded with the blank that stands before them, in prompts and answers alike: an item has the same ids wherever
it stands, also where a slot or a new line is in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_llm.data.prompt import Item, Segment, Separator, UserToken

USER_SLOT = -1
_KEPT = 2**15  # encoded texts


class PromptTokenizer:
    """Token ids of titles, answers and prompts for one tokenizer and one catalogue.

    Args:
        tokenizer: a Hugging Face tokenizer with an end-of-sequence token.
        titles: ``item_num`` titles by internal item id; index 0 is RecBole's padding item.
        title_max_tokens: titles are cut to this many tokens.
        answer_bos: answers begin with the start token, as in LLaRA's released labels (nothing if there is none).
        slot_words: what is written before and after an item's behaviour slot.
        slot_place: the slot, with its words, stands "after" its title (LLaRA, section 3.2) or "before" it.
        separator: what stands between two items.
        details: what prompts say of each item behind its title (``prompt_fields``), by internal id; cut as titles are. Answers are
            titles alone.
    """

    def __init__(
        self, tokenizer, titles: Sequence[str], title_max_tokens: int = 32, answer_bos: bool = False,
        slot_words: Sequence[str] = ("", ""), slot_place: str = "after", separator: str = ",",
        details: Sequence[str] = (),
    ):  # fmt: skip
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token; set eos_token in its tokenizer_config.json")
        self.tokenizer = tokenizer
        self._settings = title_max_tokens, answer_bos, slot_words, slot_place, separator
        self.eos_token_id = tokenizer.eos_token_id
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_token_id
        self.prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._answer_prefix = self.prefix if answer_bos else []
        # Some tokenizers (SentencePiece) put a word start before any text that they see first: encode behind an
        # anchor and cut the anchor off, so that "," stays one "," wherever it is glued.
        self._anchor = "\n"
        # A title that reads "</s>" is text: its characters are encoded, never the special token.
        self._options = {"add_special_tokens": False, "split_special_tokens": True}
        self._anchor_ids = tokenizer(self._anchor, **self._options)["input_ids"]
        self._texts: dict[str, list[int]] = {"": []}
        self.titles = list(titles)
        self._before, self._after = (self.encode(words) for words in slot_words)
        self._slot_first, self._separator = slot_place == "before", self.encode(separator)
        whole = self._encode_all([" " + title for title in titles])
        self.title_ids = [ids[:title_max_tokens] for ids in whole]
        told = self._encode_all(details) if any(details) else [[]] * len(whole)
        self.detail_ids = [ids[:title_max_tokens] for ids in told]
        cut = [item for item, ids in enumerate(whole) if len(ids) > title_max_tokens]
        self._shown = {item: tokenizer.decode(self.title_ids[item]).strip() for item in cut}

    def with_titles(self, titles: Sequence[str], details: Sequence[str] = ()) -> PromptTokenizer:
        """The same for another catalogue."""
        return PromptTokenizer(self.tokenizer, titles, *self._settings, details)

    def _cut(self, ids: list[int], text: str) -> list[int]:
        n = len(self._anchor_ids)
        if ids[:n] == self._anchor_ids:
            return ids[n:]
        return self.tokenizer(text, **self._options)["input_ids"]

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer([self._anchor + text for text in texts], **self._options)["input_ids"]
        return [self._cut(list(ids), text) for ids, text in zip(encoded, texts, strict=True)]

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of template text; the latest are kept (a text that holds a user's profile is that user's alone)."""
        ids = self._texts.get(text)
        if ids is None:
            ids = self._encode_all([text])[0]
            if len(self._texts) >= _KEPT:
                self._texts.clear()
            self._texts[text] = ids
        return ids

    def used(self, texts: Sequence[str]) -> set[int]:
        """Ids that titles and these texts are made of."""
        return set().union(*self.title_ids, *self.detail_ids, *(self.encode(text) for text in texts), self._before, self._after)

    def named(self, item: int) -> str:
        """The title as prompts and answers hold it: cut where it is longer than ``title_max_tokens``."""
        return self._shown.get(item, self.titles[item])

    def lengths(self) -> np.ndarray:
        """Tokens per title with what is said behind it, ``[item_num]``."""
        return np.array([len(ids) + len(more) for ids, more in zip(self.title_ids, self.detail_ids, strict=True)], dtype=np.int64)

    def answer(self, item: int) -> list[int]:
        """The continuation that names ``item``: its title and the end token."""
        return [*self._answer_prefix, *self.title_ids[item], self.eos_token_id]

    def assemble(self, segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
        """Concatenate segments.

        Returns:
            ``(ids, items)``, two lists of the prompt's length; ``items`` names the slot vectors (module docstring).
        """
        ids, items = list(self.prefix), [0] * len(self.prefix)
        for segment in segments:
            piece, named = self._piece(segment)
            ids += piece
            items += named
        return ids, items

    def _piece(self, segment: Segment) -> tuple[list[int], list[int]]:
        """``(ids, items)`` of one segment."""
        if isinstance(segment, UserToken):
            return [self.pad_token_id], [USER_SLOT]
        if not isinstance(segment, Item):
            ids = self._separator if isinstance(segment, Separator) else self.encode(segment)
            return ids, [0] * len(ids)
        title = [*self.title_ids[segment.id], *self.detail_ids[segment.id]] if segment.title else []
        note = self.encode(segment.note)
        slot = [*self._before, self.pad_token_id, *self._after] if segment.slot else []
        named = [0] * len(slot)
        if slot:
            named[len(self._before)] = segment.id
        if self._slot_first:
            return [*slot, *title, *note], named + [0] * (len(title) + len(note))
        return [*title, *slot, *note], [0] * len(title) + named + [0] * len(note)

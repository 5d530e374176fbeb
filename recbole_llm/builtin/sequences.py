"""Token sequences under construction: tokenised title pools, items with slots, answers that are trained, batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_llm.builtin import titles

SKILLS = ("repeat", "number", "lookup", "noisy", "user", "history", "user_real", "words", "both", "conflict", "yes_no")


class Titles:
    """A pool of tokenised made-up titles and of single words (for titles that share a word)."""

    def __init__(self, tokenizer, seed: int, count: int = 20_000):
        rng = np.random.default_rng(seed)
        pool = [" " + title for title in titles.make_titles(seed, count)]
        words = [" " + titles.title_word(rng, 0.4) for _ in range(2_000)]
        self.pool = tokenizer(pool, add_special_tokens=False)["input_ids"]
        self.words = tokenizer(words, add_special_tokens=False)["input_ids"]
        self.lengths = np.array([len(ids) for ids in self.pool])
        self._by_limit: dict[int, np.ndarray] = {}
        self._by_opening: dict[int, tuple[list[list[int]], np.ndarray]] = {}
        self._texts: dict[str, list[int]] = {}
        self._tokenizer = tokenizer

    def text(self, text: str) -> list[int]:
        """Token ids of a phrase (cached)."""
        if text not in self._texts:
            self._texts[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return self._texts[text]

    def draw(self, rng: np.random.Generator, count: int, limit: int) -> list[list[int]]:
        """``count`` titles of at most ``limit`` tokens."""
        if limit not in self._by_limit:
            self._by_limit[limit] = np.flatnonzero(self.lengths <= limit)
        chosen = self._by_limit[limit]
        return [self.pool[i] for i in chosen[rng.integers(len(chosen), size=count)]]

    def alike(self, rng: np.random.Generator, listed: list[list[int]], limit: int, member: int | None = None) -> None:
        """Give a group of the ``listed`` titles the same first piece ("The", "B"), as titles of real lists often have.

        ``member`` is in the group more often than not. Titles are left as they are where too few begin alike.
        """
        if limit not in self._by_opening:
            groups: dict[int, list[int]] = {}
            for i in np.flatnonzero(self.lengths <= limit):
                groups.setdefault(self.pool[i][0], []).append(i)
            groups = {opening: group for opening, group in groups.items() if len(group) >= 12}
            sizes = np.sqrt([len(group) for group in groups.values()])
            self._by_opening[limit] = list(groups.values()), sizes / sizes.sum()
        groups, shares = self._by_opening[limit]
        if not groups:
            return
        group = groups[int(rng.choice(len(groups), p=shares))]
        size = min(len(listed), int(rng.integers(2, 3 + len(listed) // 3)))
        places = rng.permutation(len(listed))[:size].tolist()
        if member is not None and member not in places and rng.random() < 0.7:
            places[0] = member
        for place, i in zip(places, rng.choice(group, size=size, replace=False), strict=True):
            listed[place] = self.pool[i]

    def sharing(self, rng: np.random.Generator, word: list[int], limit: int) -> list[int]:
        """A title that holds ``word``."""
        parts = [word] + [self.words[i] for i in rng.integers(len(self.words), size=int(rng.integers(1, 3)))]
        ids = [token for i in rng.permutation(len(parts)) for token in parts[i]]
        return ids if len(ids) <= max(limit, len(word)) else word + parts[1][: max(1, limit - len(word))]


class Sequence:
    """A token sequence under construction.

    ``answers[t] > 0`` marks token ``t`` as part of that answer; ``rivals[t]`` are then the tokens it competes with
    (:mod:`recbole_llm.rivals`).
    """

    def __init__(self, pool: Titles, bos: int, eos: int, pad: int):
        self.pool, self.eos, self.pad = pool, eos, pad
        self.ids, self.slots, self.answers, self.skills = [bos], [0], [0], []
        self.rivals: dict[int, list[int]] = {}

    def _add(self, ids: list[int], slot: int = 0, answer: int = 0) -> None:
        self.ids += ids
        self.slots += [slot] * len(ids)
        self.answers += [answer] * len(ids)

    def text(self, text: str) -> None:
        self._add(self.pool.text(text))

    def slot(self, row: int) -> None:
        """One position that holds row ``row`` of the batch's vectors."""
        self._add([self.pad], slot=row + 1)

    def items(self, listed: list[list[int]], rows: list[int] | None, apart: tuple[str, str] = ("", ""),
              notes: list[str] | None = None) -> None:
        """``" Title A" [slot] "," " Title B" [slot] ...``; no slots where ``rows`` is None.

        ``apart`` stands before and after each slot, ``notes`` behind the items.
        """
        for position, title in enumerate(listed):
            if position:
                self.text(",")
            self._add(title)
            if rows is not None:
                self.text(apart[0])
                self.slot(rows[position])
                self.text(apart[1])
            if notes is not None:
                self.text(notes[position])

    def answer(self, ids: list[int], skill: str, listed: list[list[int]]) -> None:
        """The title and the end token, trained; ``listed`` are the titles it is chosen from."""
        ids, listed = [*ids, self.eos], [[*title, self.eos] for title in listed]
        for t in range(len(ids)):
            listed = [title for title in listed if len(title) > t and title[:t] == ids[:t]]
            self.rivals[len(self.ids) + t] = sorted({title[t] for title in listed})
        self.skills.append(SKILLS.index(skill))
        self._add(ids, answer=len(self.skills))


@dataclass
class Batch:
    """Right-padded arrays ``[B, S]`` and the vectors ``[M, d]`` that ``slots - 1`` points into."""

    ids: np.ndarray
    slots: np.ndarray
    answers: np.ndarray  # 0, or 1 + the number of the answer in the batch that the token belongs to
    rivals: np.ndarray  # [B, S, R] tokens that the answers' tokens compete with, their own included; -1: none
    skills: np.ndarray  # [answers] index into SKILLS
    vectors: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.ids.size)

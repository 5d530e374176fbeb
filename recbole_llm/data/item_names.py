"""Items as people name them: by id or by title, those without interactions included."""

from __future__ import annotations

import difflib
import unicodedata
from types import SimpleNamespace

import numpy as np

from recbole_llm.data.field_text import field_texts
from recbole_llm.data.item_text import clean_title, load_titles, read_titles

SHOWN = 5  # names in a message


class UnknownNameError(ValueError):
    """Users or items are named whom nobody knows."""


def alike(text: str) -> str:
    """What a title is found by: upper and lower case, and composed and decomposed accents, are one."""
    return unicodedata.normalize("NFC", text.casefold())


class ItemNames:
    """Ids and titles of a dataset's items, and of those that stand in its .item file alone.

    The latter have internal ids from ``item_num`` on; no embedding table has a row for them.

    Args:
        interacted: which of the dataset's items occur in its interactions. bool [item_num]

    Attributes:
        tokens: external ids by internal id, 0 being the padding item.
        titles: by internal id.
        details: what prompts say of each behind its title, by internal id.
        cold: which of them have no interactions. bool
    """

    def __init__(self, config, dataset, interacted: np.ndarray):
        item = dataset.iid_field
        self.tokens = [str(token) for token in dataset.field2id_token[item]]
        file, given = f"{config['data_path']}/{config['dataset']}.item", set(self.tokens)
        written = read_titles(file, item, config["item_text_field"], config["field_separator"], config["encoding"] or "utf-8")
        others = [token for token, title in written.items() if clean_title(title) and token not in given]
        own = SimpleNamespace(iid_field=item, field2id_token={item: ["[PAD]", *others]})
        self.titles = [*dataset.titles, *(load_titles(config, own)[1:] if others else ())]
        self.details = [*dataset.details, *(field_texts(config, own, "item")[1:] if others else ())]
        self.tokens += others
        self.cold = np.concatenate((~interacted, np.ones(len(others), dtype=bool)))
        self._by_token = {token: i for i, token in enumerate(self.tokens) if i}
        self._by_title: dict[str, list[int]] = {}
        for i, title in enumerate(self.titles[1:], start=1):
            self._by_title.setdefault(alike(title), []).append(i)

    def find(self, name) -> int:
        """Internal id of an item named by its id or its title, upper and lower case alike.

        Raises:
            UnknownNameError: nothing is called so; the nearest names are given.
            ValueError: several items share the title.
        """
        name = str(name).strip()
        if name in self._by_token:
            return self._by_token[name]
        same = self._by_title.get(alike(name), [])
        if len(same) > 1:
            raise ValueError(f"{len(same)} items are called {name!r}: name one by its id, {', '.join(self.tokens[i] for i in same)}")
        if not same:
            near = ", ".join(self._near(name))
            raise UnknownNameError(f"no item is called {name!r}, by id or by title{f'; did you mean {near}?' if near else ''}")
        return same[0]

    def find_all(self, names) -> list[int]:
        """`find` of several.

        Raises:
            UnknownNameError: some are not found; tells of the first five.
        """
        found, problems = [], []
        for name in names:
            try:
                found.append(self.find(name))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise UnknownNameError("; ".join(problems[:SHOWN]) + more)
        return found

    def find_known(self, names) -> list[int]:
        """`find_all` of items with interactions.

        Raises:
            ValueError: one has none; names the first.
        """
        found = self.find_all(names)
        for i in found:
            if self.cold[i]:
                raise ValueError(f"item {self.tokens[i]!r} ({self.titles[i]}) has no interactions, so the CRM has no vector for it: it "
                                 "cannot stand in a history, but it can be a candidate")  # fmt: skip
        return found

    def _near(self, name: str) -> list[str]:
        titles = difflib.get_close_matches(alike(name), self._by_title, n=3)
        near = [f"{self.titles[i]!r} ({self.tokens[i]})" for title in titles for i in self._by_title[title][:1]]
        return near or [repr(token) for token in difflib.get_close_matches(name, self._by_token, n=3)]

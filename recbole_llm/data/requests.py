"""Whom to recommend to: users of the dataset with what they did, and histories typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from recbole_llm.data.item_names import ItemNames

TEST = 2  # place of the test split among train, valid, test


@dataclass
class Request:
    """One list to make, in internal ids; the history is oldest first.

    Attributes:
        user: external id or name.
        history: ``[L]`` items, oldest first.
        seen: items that are left out when the catalogue is ranked.
        user_id: 0 for a new user.
        target: the item that came next, of a test row alone; it only seeds the order in which items are shown.
        candidates: what is ranked in the catalogue's place, in the order shown; None for the catalogue.
    """

    user: str
    history: np.ndarray
    seen: np.ndarray
    user_id: int = 0
    target: int = 0
    candidates: np.ndarray | None = None


class _Rows:
    """A split's rows by user, in order of time. sequences [n, L], lengths [n], targets [n]"""

    def __init__(self, split):
        feat = split.inter_feat
        names = (split.uid_field, split.item_id_list_field, split.item_list_length_field, split.iid_field)
        users, self.sequences, self.lengths, self.targets = (feat[name].numpy() for name in names)
        self._order = np.argsort(users, kind="stable")
        self._users = users[self._order]

    def of(self, user: int) -> np.ndarray:
        """Row numbers of a user, oldest first."""
        return self._order[slice(*np.searchsorted(self._users, (user, user + 1)))]


class Requests:
    """Makes requests of a dataset's users and items.

    Args:
        splits: training, validation and test split of an LLM recommender.
    """

    def __init__(self, config, splits):
        self.config, self.dataset = config, splits[0]
        self._rows = [_Rows(split) for split in splits]
        interacted = np.zeros(self.dataset.item_num, dtype=bool)
        for rows in self._rows:
            interacted[rows.targets] = True
            interacted[np.unique(rows.sequences)] = True
        interacted[0] = False  # padding
        self.names = ItemNames(config, self.dataset, interacted)

    def make(self, users=None, history=None, candidates=None, exclude=(), until=None) -> list[Request]:
        """One request for each user and typed history; arguments and errors as of `Recommender.recommend`."""
        if until not in (None, "test"):
            raise ValueError(f"until={until!r}: None for whole histories, or 'test' for what came before the test row")
        histories = history if isinstance(history, Mapping) else {} if history is None else {"new user": history}
        if any(isinstance(items, str) for items in histories.values()):
            raise ValueError("history: a list of items, oldest first, or a mapping of names to such lists")
        users = [users] if isinstance(users, (str, int)) else [] if users is None else users
        found = [self.of_user(str(user), until) for user in users]
        found += [self.of_history(str(user), items) for user, items in histories.items()]
        if not found:
            raise ValueError("nobody to recommend to: give users or a history")
        left_out = np.array([self.names.find(name) for name in exclude], dtype=np.int64)
        for request in found:
            chosen = candidates.get(request.user) if isinstance(candidates, Mapping) else candidates
            if chosen is not None:
                request.candidates = self._candidates(request.user, chosen, left_out)
            request.seen = np.union1d(request.seen, left_out[left_out < self.dataset.item_num])
        return found

    def of_user(self, user: str, until: str | None = None) -> Request:
        """A user of the dataset with all that was done, or ``until="test"`` what came before the latest test row."""
        number = self._number(user)
        rows = [split.of(number) for split in self._rows]
        place = TEST if until else max((n for n, mine in enumerate(rows) if len(mine)), default=TEST)
        if not len(rows[place]):
            lacks = "no test row" if until and any(map(len, rows)) else "no history in the data (one interaction makes no row)"
            raise ValueError(f"user {user!r} has {lacks}; give what is known as history=[...]")
        split, last = self._rows[place], rows[place][-1]
        history, target = split.sequences[last, : split.lengths[last]], int(split.targets[last])
        everything = [column[mine].ravel() for split, mine in zip(self._rows, rows, strict=True)
                      for column in (split.sequences, split.targets)]  # fmt: skip
        seen = np.setdiff1d(np.concatenate(everything), [0])
        if not until:
            return Request(user, np.append(history, target), seen, number)
        return Request(user, history, seen[seen != target], number, target)

    def of_history(self, user: str, names) -> Request:
        """A new user with a history of items by id or title."""
        items = np.array(self.names.find_known(names), dtype=np.int64)
        if not len(items):
            raise ValueError(f"{user!r} has an empty history: name one item at least, by id or by title")
        return Request(user, items, np.unique(items))

    def _number(self, user: str) -> int:
        known = self.dataset.field2token_id[self.dataset.uid_field]
        if user in known and user != "[PAD]":
            return int(known[user])
        near = ", ".join(repr(str(other)) for other in get_close_matches(user, known, n=3))
        raise ValueError(f"no user {user!r} in {self.config['dataset']} as its filters leave it{f' (near: {near})' if near else ''}; a new "
                         "user is recommended to by history=[...]")  # fmt: skip

    def _candidates(self, user: str, chosen, left_out: np.ndarray) -> np.ndarray:
        items = np.array([self.names.find(name) for name in chosen], dtype=np.int64)
        values, counts = np.unique(items, return_counts=True)
        if (counts > 1).any():
            twice = ", ".join(self.names.tokens[i] for i in values[counts > 1])
            raise ValueError(f"candidates of {user!r}: {twice} named twice; name each item once")
        items = items[~np.isin(items, left_out)]
        if not len(items):
            raise ValueError(f"candidates of {user!r}: none is left; name one at least that is not excluded")
        return items

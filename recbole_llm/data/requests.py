"""Whom to recommend to: users of the dataset with what they did, and histories typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from numbers import Number

import numpy as np
from recbole.utils import get_model

from recbole_llm import registry
from recbole_llm.data.click.wording import note_kind
from recbole_llm.data.columns import history_field
from recbole_llm.data.item_names import SHOWN, ItemNames, UnknownNameError
from recbole_llm.data.model_kinds import reads_ratings, reads_users

TYPED = 'history=[...], on the command line --history="ITEM | ITEM"'
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
        labels: ``[L]`` 1 liked, 0 not, of the history's items; None where the data or a typed history do not say.
        ratings: ``[L]`` likewise, as the data have them.
    """

    user: str
    history: np.ndarray
    seen: np.ndarray
    user_id: int = 0
    target: int = 0
    candidates: np.ndarray | None = None
    labels: np.ndarray | None = None
    ratings: np.ndarray | None = None


def unsaid(config) -> list[tuple[str, str]]:
    """What a run reads of a history that a typed one does not say: pairs of what reads it, and the run that does not."""
    labelled, model = registry.protocol(config["protocol"]).labelled, get_model(config["model"])
    notes, found = note_kind(config), []
    if notes != "none":
        where = f"history_notes: {notes}" if config["history_notes"] else f"protocol: {config['protocol']}"
        found.append((f"{where}: this run's prompts say behind each item whether it was liked or how it was rated", "history_notes: none"))
    if {"liked", "disliked"} & set(model.template_fields) and (labelled or notes == "likes"):
        found.append((f"{config['model']}: this run's prompts list liked and disliked items apart", "protocol: candidates"))
    if model.needs_crm(config) and reads_ratings(get_model(config["crm_model"])):
        found.append((f"crm_model: {config['crm_model']}: this run's recommender reads how each item was rated", "another crm_model"))
    return found


def knows_users_by_id(config) -> bool:
    """Whether a run's CRM says nothing of a user that it has not learnt."""
    return get_model(config["model"]).needs_crm(config) and reads_users(get_model(config["crm_model"]))


def _items(given, argument: str, order: str | None = None) -> list:
    """Items that an argument of `Recommender.recommend` lists; ``order`` says what their order means, None where it means nothing.

    Raises:
        ValueError: it is no list of items, or a set where the order counts.
    """
    wanted = f"{argument}: a list of items{f', {order}' if order else ''}"
    if isinstance(given, set | frozenset) and order:
        raise ValueError(f"{wanted}; got a {type(given).__name__}, which has no order: give a list")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{wanted}; got {given!r}")
    return list(given)


class _Rows:
    """A split's rows by user, in order of time. sequences [n, L], lengths [n], targets [n]"""

    def __init__(self, split):
        feat = split.inter_feat
        names = (split.uid_field, history_field(split.config), split.item_list_length_field, split.iid_field)
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
        self.config, self.dataset, self._splits = config, splits[0], splits
        self.unsaid, self.by_id = unsaid(config), knows_users_by_id(config)
        self._rows = [_Rows(split) for split in splits]
        interacted = np.zeros(self.dataset.item_num, dtype=bool)
        for rows in self._rows:
            interacted[rows.targets] = True
            interacted[np.unique(rows.sequences)] = True
        if hasattr(self.dataset, "timelines"):  # which hold the test rows that `test_sample_size` left out, too
            interacted[self.dataset.timelines.items] = True
        interacted[0] = False  # padding
        self.names = ItemNames(config, self.dataset, interacted)
        head = get_model(config["model"]).head
        self._lists_candidates = not (head.pointwise or head.whole_catalogue)  # prompts show them in the order given

    def make(self, users=None, history=None, candidates=None, exclude=(), until=None) -> list[Request]:
        """One request for each user and typed history; arguments and errors as of `Recommender.recommend`."""
        if until not in (None, "test"):
            raise ValueError(f"until={until!r}: None for whole histories, or 'test' for what came before the test row")
        histories = history if isinstance(history, Mapping) else {} if history is None else {"new user": history}
        histories = {str(user): _items(items, "history", "oldest first, or a mapping of names to such lists") for user, items in histories.items()}
        users = [] if users is None else [users] if isinstance(users, str | Number) else users
        users = list(dict.fromkeys(map(str, users)))  # a user who is named twice gets one list
        self._check_names(users, histories, candidates)
        found = [self.of_user(user, until) for user in users]
        found += [self.of_history(user, items) for user, items in histories.items()]
        left_out = np.array(self.names.find_all(_items(() if exclude is None else exclude, "exclude")), dtype=np.int64)
        chosen = self._chosen([request.user for request in found], candidates)
        for request in found:
            if request.user in chosen:
                request.candidates = self._candidates(request.user, chosen[request.user], left_out)
            request.seen = np.union1d(request.seen, left_out[left_out < self.dataset.item_num])
        return found

    def _check_names(self, users: list[str], histories: dict, candidates) -> None:
        """Refuse users whom nobody knows, and names that say two things or that nobody bears."""
        if not users and not histories:
            raise ValueError("nobody to recommend to: give users or a history")
        if both := histories.keys() & set(users):
            raise ValueError(f"history: {', '.join(sorted(both))} is among the users too; call the typed history otherwise")
        known = self.dataset.field2token_id[self.dataset.uid_field]
        if unknown := [user for user in users if user not in known or user == "[PAD]"]:
            shown = ", ".join(map(repr, unknown[:SHOWN])) + (f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else "")
            near = ", ".join(repr(str(other)) for other in get_close_matches(unknown[0], known, n=3))
            raise UnknownNameError(f"no user {shown} in {self.config['dataset']} as its filters leave it{f' (near: {near})' if near else ''}; a new "
                             f"user is recommended to by {TYPED}")  # fmt: skip
        if isinstance(candidates, Mapping) and (other := {*map(str, candidates)} ^ {*users, *histories}):
            raise ValueError(f"candidates: a mapping names each user and history once and nobody else; it differs in "
                             f"{', '.join(map(repr, sorted(other)[:SHOWN]))}")  # fmt: skip

    def of_user(self, user: str, until: str | None = None) -> Request:
        """A user of the dataset with all that was done, or ``until="test"`` what came before the latest test row."""
        number = int(self.dataset.field2token_id[self.dataset.uid_field][user])
        rows = [split.of(number) for split in self._rows]
        place = TEST if until else max((n for n, mine in enumerate(rows) if len(mine)), default=TEST)
        if not len(rows[place]):
            sampled = " (test_sample_size left some out)" if self.config["test_sample_size"] else ""
            lacks = f"no test row{sampled}" if until and any(map(len, rows)) else "no history in the data (one interaction makes no row)"
            raise ValueError(f"user {user!r} has {lacks}; give what is known as {TYPED}")
        own_lists = self.config["benchmark_filename"] is not None and not registry.protocol(self.config["protocol"]).labelled
        if hasattr(self.dataset, "timelines") and not own_lists:
            return self._timeline_user(user, number, place, rows[place][-1], bool(until))
        split, last = self._rows[place], rows[place][-1]
        history, target = split.sequences[last, : split.lengths[last]], int(split.targets[last])
        everything = [column[mine].ravel() for split, mine in zip(self._rows, rows, strict=True)
                      for column in (split.sequences, split.targets)]  # fmt: skip
        seen = np.setdiff1d(np.concatenate(everything), [0])
        if not until:
            return Request(user, np.append(history, target), seen, number)
        return Request(user, history, seen[seen != target], number, target)

    def _timeline_user(self, user: str, number: int, place: int, row: int, until: bool) -> Request:
        """A user's request of the timeline that evaluation reads, where there is one: all of it, or what came strictly before a row."""
        timelines, number_of = self.dataset.timelines, self._splits[place].numbers
        start, end = timelines.start[number_of[row]], timelines.end[number_of[row]]
        whole = slice(start, self._ends[np.searchsorted(self._ends, start, "right")])
        shown = slice(start, end) if until else whole
        if shown.start == shown.stop:
            raise ValueError(f"user {user!r} did nothing before the moment of the latest test row; leave the user out, or leave out until, and all is read")
        target = int(self._rows[place].targets[row]) if until else 0
        labels, ratings = (None if column is None else column[shown] for column in (timelines.labels, timelines.ratings))
        seen = np.setdiff1d(timelines.items[whole], [target])
        return Request(user, timelines.items[shown], seen, number, target, labels=labels, ratings=ratings)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each user's timeline ends, ascending."""
        timelines = self.dataset.timelines
        return np.append(np.unique(timelines.start)[1:], len(timelines.items))

    def of_history(self, user: str, names) -> Request:
        """A new user with a history of items by id or title.

        Raises:
            ValueError: an item is unknown or has no interactions, there is none, or the run reads more of a history (`unsaid`).
        """
        if self.unsaid:
            read, other = zip(*self.unsaid, strict=True)
            raise ValueError(f"{'; '.join(read)}, which a typed history does not say; name users of the dataset, or take a run with "
                             f"{' and '.join(other)}")  # fmt: skip
        if self.by_id:
            raise ValueError(f"crm_model: {self.config['crm_model']} knows users by their ids, and none of a typed history; name users of the "
                             "dataset, or take a run whose crm_model reads histories, such as SASRec")  # fmt: skip
        items = np.array(self.names.find_known(names), dtype=np.int64)
        if not len(items):
            raise ValueError(f"{user!r} has an empty history: name one item at least, by id or by title")
        return Request(user, items, np.unique(items))

    def _chosen(self, users: list[str], candidates) -> dict[str, list[int]]:
        """The items that each user's candidates name; none of a user whom the catalogue is ranked for."""
        if candidates is None:
            return {}
        order = "in the order in which prompts show them" if self._lists_candidates else None
        if isinstance(candidates, Mapping):
            return {str(user): self.names.find_all(_items(items, "candidates", order)) for user, items in candidates.items() if items is not None}
        return dict.fromkeys(users, self.names.find_all(_items(candidates, "candidates", order)))

    def _candidates(self, user: str, chosen: list[int], left_out: np.ndarray) -> np.ndarray:
        items = np.array(chosen, dtype=np.int64)
        values, counts = np.unique(items, return_counts=True)
        if (counts > 1).any():
            twice = ", ".join(self.names.tokens[i] for i in values[counts > 1])
            raise ValueError(f"candidates of {user!r}: {twice} named twice; name each item once")
        items = items[~np.isin(items, left_out)]
        if not len(items):
            raise ValueError(f"candidates of {user!r}: none is left; name one at least that is not excluded")
        return items

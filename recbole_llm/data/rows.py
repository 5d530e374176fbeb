"""Evaluation rows and whole histories, read through RecBole as functions of the config alone.

A (user, target) pair is a row if and only if RecBole's sequential models evaluate it: users with too short a history have
none, for any model.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from recbole_llm.data.candidates import CandidateSet
from recbole_llm.data.columns import history_field
from recbole_llm.data.interactions import load_interactions

# Columns of the batches that evaluation reads

ROW_FIELD = "candidate_row"  # row number in the candidate set
PHASE_FIELD = "candidate_phase"  # index into PHASES
ITEMS_FIELD = "candidate_items"  # [B, C] internal ids, where an interaction holds one line per row
PHASES = ("valid", "test")


class Histories(Mapping):
    """External user -> sorted catalogue indices of everything the user ever interacted with (compressed sparse rows).

    Attributes:
        users: sorted external tokens. str [U]
        indptr: the items of user u are `items[indptr[u]:indptr[u + 1]]`. int64 [U + 1]
        items: catalogue indices. int32 [total]
    """

    def __init__(self, users: np.ndarray, indptr: np.ndarray, items: np.ndarray):
        self.users, self.indptr, self.items = users, indptr, items
        self._place = {user: i for i, user in enumerate(users.tolist())}

    def __getitem__(self, user: str) -> np.ndarray:
        place = self._place[str(user)]
        return self.items[self.indptr[place] : self.indptr[place + 1]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


@dataclass(frozen=True)
class Rows:
    """The rows that are evaluated: pairs (users, targets) of external tokens, sorted by user, then by time.

    Attributes:
        catalogue: sorted external tokens of the items that occur in any split. str [M]
        histories: whole histories, over all splits.
        valid: (users, targets) of the validation rows. str [n] each
        test: (users, targets) of the test rows. str [n] each
    """

    catalogue: np.ndarray
    histories: Histories
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def expected_phases(config) -> tuple[str, ...]:
    """Return the evaluation phases for which the split must yield rows, of ("valid", "test")."""
    if config["benchmark_filename"] is not None:
        return ("valid", "test")
    ((mode, value),) = config["eval_args"]["split"].items()
    if mode == "LS":
        return {"valid_only": ("valid",), "test_only": ("test",)}.get(value, ("valid", "test"))
    return tuple(phase for phase, share in zip(("valid", "test"), value[1:], strict=True) if share > 0)


def _histories(dataset) -> tuple[np.ndarray, Histories]:
    """Return the catalogue and the whole histories of a dataset that is not yet built."""
    feat = dataset.inter_feat
    users, items = (np.asarray(feat[field], dtype=np.int64) for field in (dataset.uid_field, dataset.iid_field))
    list_field = history_field(dataset.config)
    if list_field in feat:  # each row brings its own history
        lists = list(feat[list_field])
        users = np.concatenate([users, np.repeat(users, [len(history) for history in lists])])
        items = np.concatenate([items, *lists]).astype(np.int64)
    names_of, items_of = (
        np.asarray(dataset.field2id_token[f], dtype=str) for f in (dataset.uid_field, dataset.iid_field)
    )
    catalogue, item_index = np.unique(items_of[items], return_inverse=True)
    names, user_index = np.unique(names_of[users], return_inverse=True)
    pairs = np.unique(user_index * len(catalogue) + item_index)
    owners, seen = np.divmod(pairs, len(catalogue))
    indptr = np.searchsorted(owners, np.arange(len(names) + 1))
    return catalogue, Histories(names, indptr, seen.astype(np.int32))


def _row_pairs(split) -> tuple[np.ndarray, np.ndarray]:
    users, items = (
        np.asarray(split.field2id_token[field], dtype=str)[split.inter_feat[field].numpy()]
        for field in (split.uid_field, split.iid_field)
    )
    order = np.argsort(users, kind="stable")
    return users[order], items[order]


def whole_histories(config) -> tuple[np.ndarray, Histories]:
    """The catalogue and everything that each user ever did, read anew: no list is cut at `MAX_ITEM_LIST_LENGTH`."""
    return _histories(load_interactions(config))


def seen_items(dataset, catalogue: np.ndarray, histories: Histories) -> dict[int, np.ndarray]:
    """Whole histories in a dataset's internal ids, by internal user id; 0 stands for an item that it lacks."""
    items, users = (dataset.field2token_id[field] for field in (dataset.iid_field, dataset.uid_field))
    internal = np.array([items.get(name, 0) for name in catalogue.tolist()], dtype=np.int64)
    return {users[user]: internal[histories[user]] for user in histories if user in users}


def evaluation_rows(config) -> Rows:
    """Read a dataset's evaluation rows and whole histories; they do not depend on the model.

    Raises:
        FileNotFoundError, ValueError: a file or column is missing, or the split leaves a phase without rows.
    """
    dataset = load_interactions(config)
    catalogue, histories = _histories(dataset)
    _, valid, test = dataset.build()
    rows = Rows(catalogue, histories, _row_pairs(valid), _row_pairs(test))
    for phase in expected_phases(config):
        users = getattr(rows, phase)[0]
        if not len(users):
            raise ValueError(
                f"{config['dataset']}: no {phase} row. eval_args.split {config['eval_args']['split']} of "
                f"{len(histories)} users and {len(histories.items)} distinct interactions leaves none: a row needs an "
                f"earlier interaction, leave-one-out with valid and test needs four. Use more data or another split"
            )
        if without := len(histories) - len(set(users.tolist())):
            logging.getLogger().info(f"{config['dataset']}: {without} of {len(histories)} users have no {phase} row")
    return rows


def match_rows(dataset, candidates: CandidateSet) -> np.ndarray:
    """Find each row of a candidate set among the rows of a model's own split.

    A pair (user, target) that occurs several times is matched in order of occurrence.

    Returns:
        The row of `dataset.inter_feat` for each row of the set. int64 [n]

    Raises:
        ValueError: the split lacks rows of the set; names the first.
    """
    places: dict[tuple[str, str], list[int]] = {}
    columns = (
        np.asarray(dataset.field2id_token[field])[dataset.inter_feat[field].numpy()].tolist()
        for field in (dataset.uid_field, dataset.iid_field)
    )
    for i, pair in enumerate(zip(*columns, strict=True)):
        places.setdefault(pair, []).append(i)
    pairs = list(zip(candidates.user_ids.tolist(), candidates.item_ids.tolist(), strict=True))
    remaining = {pair: iter(rows) for pair, rows in places.items()}
    index = [next(remaining.get(pair, iter(())), -1) for pair in pairs]
    missing = [pair for pair, row in zip(pairs, index, strict=True) if row < 0]
    if missing:
        phase, (user, target) = candidates.phase, missing[0]
        raise ValueError(
            f"{len(missing)} of the {len(pairs)} {phase} rows are not in this model's own {phase} split, first user "
            f"{user!r} with target {target!r}. The model's data are filtered or ordered otherwise: check eval_args, "
            f"val_interval, filter_inter_by_user_or_item (an incomplete .item file), normalize_all and normalize_field"
        )
    return np.array(index, dtype=np.int64)

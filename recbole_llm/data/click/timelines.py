"""What each user did strictly before a moment: the only source of RecLoRA's histories.

RecBole's own histories end at the row's place in its sorted table, which may stand behind interactions of the very same
second (a third of ml-100k). Here a row's history holds interactions with a smaller timestamp and no other, compared in
full precision; ties are left out whole, so the order of the file cannot matter.
"""

from dataclasses import dataclass

import numpy as np

from recbole_llm.data.click.interactions import Interactions

HISTORY_RATINGS = "history_ratings"  # column [B, L]: ratings of a history, by their places among the data's values, from 1; 0: none


@dataclass(frozen=True)
class Timelines:
    """All users' interactions in order of time, one user after the other.

    Attributes:
        items: internal item ids. int64 [total]
        labels: 1 liked, 0 not. int8 [total], or None.
        ratings: float64 [total], or None.
        start: `items[start[i]:end[i]]` is what the user of interaction number i did strictly before. int64 [n]
        end: see `start`. int64 [n]
    """

    items: np.ndarray
    labels: np.ndarray | None
    ratings: np.ndarray | None
    start: np.ndarray
    end: np.ndarray


def build_timelines(data: Interactions, dataset) -> Timelines:
    """Order a dataset's interactions by user and time. `dataset` gives the internal item ids."""
    _, user = np.unique(data.users, return_inverse=True)
    order = np.lexsort((data.times, user))  # stable: the file's order within a tie, which no history shows in part
    names, index = np.unique(data.items, return_inverse=True)
    known = dataset.field2token_id[dataset.iid_field]
    missing = [name for name in names.tolist() if name not in known]
    if missing:
        raise ValueError(
            f"{len(missing)} items of the interactions are not in the model's dataset, first {missing[0]!r}; a filter "
            f"drops them (filter_inter_by_user_or_item with an incomplete .item file, or val_interval)"
        )
    internal = np.array([known[name] for name in names.tolist()], dtype=np.int64)
    users, times = user[order], data.times[order]
    new_user = np.r_[True, users[1:] != users[:-1]]
    new_time = new_user | np.r_[True, times[1:] != times[:-1]]
    place = np.arange(len(order))
    start, end = np.empty_like(place), np.empty_like(place)
    start[order] = np.maximum.accumulate(np.where(new_user, place, 0))
    end[order] = np.maximum.accumulate(np.where(new_time, place, 0))  # where the tie of this moment begins
    columns = (None if column is None else column[order] for column in (data.labels, data.ratings))
    return Timelines(internal[index][order], *columns, start, end)


def timelines_of_lists(sequences: np.ndarray, lengths: np.ndarray) -> Timelines:
    """Timelines for rows that bring their own history (benchmark files): row n's history is its list.

    Args:
        sequences: internal ids, right-padded. [n, L]
        lengths: of the lists. [n]
    """
    inside = np.arange(sequences.shape[1])[None] < lengths[:, None]
    end = np.cumsum(lengths)
    return Timelines(sequences[inside].astype(np.int64), None, None, end - lengths, end)


def recent(start: np.ndarray, end: np.ndarray, k: int) -> np.ndarray:
    """Places of the latest k of `[start, end)`, oldest first, -1 after the last. int64 [n, k]"""
    places = np.maximum(start, end - k)[:, None] + np.arange(k)
    return np.where(places < end[:, None], places, -1)

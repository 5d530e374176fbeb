"""A split by time compares the file's own numbers."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from recbole.data import create_dataset

from recbole_llm.data.rows import evaluation_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests.data.case_files import HEADER, ITEMS, STEPS, USERS, pairs


def walk(start: float, step: float) -> tuple[str, list[tuple[str, str, float]]]:
    """A file in which the users take turns, lines shuffled, a row each ``step``; and its rows in order of time."""
    turns = np.random.default_rng(3).permutation(np.repeat(np.arange(USERS), STEPS)).tolist()
    rows, done = [], dict.fromkeys(range(USERS), 0)
    for place, user in enumerate(turns):
        rows.append((f"u{user}", f"i{(7 * user + 3 * done[user]) % ITEMS}", start + place * step))
        done[user] += 1
    lines = ["\t".join(map(str, rows[i])) for i in np.random.default_rng(4).permutation(len(rows))]
    return "\n".join([HEADER, *lines]) + "\n", rows


def split_by_time(rows, shares) -> tuple[list, list]:
    """RecBole's rule in fractions: later than the quantile is test; of a user's others the first share is training."""
    times = sorted(Fraction(time) for *_, time in rows)
    place = (len(times) - 1) * (1 - shares[2])
    bound = times[int(place)] + Fraction(place - int(place)) * (times[int(place) + 1] - times[int(place)])
    test = sorted(row[:2] for row in rows if row[2] > bound)
    valid = []
    for user in {row[0] for row in rows}:
        mine = [row[:2] for row in rows if row[0] == user and row[2] <= bound]
        valid += mine[int(len(mine) * (shares[0] / (1 - shares[2]))) :]
    return sorted(valid), test


@pytest.mark.parametrize(
    ("start", "step"),
    [(1_700_000_000, 1), (2**24 - 60, 1), (2**31 - 60, 1), (1_700_000_000_000, 1), (1_700_000_000_000_000, 1), (1_700_000_000, 0.25),
     (1_700_000_000_000_000_000, 1)],
)
def test_a_split_by_time_compares_the_files_own_numbers(case, start, step):
    text, rows = walk(start, step)
    split = {"eval_args": {"split": {"TS": [0.7, 0.1, 0.2]}, "order": "TO", "group_by": "user"}}
    first = {row[0]: row for row in reversed(rows)}
    later = split_by_time([row for row in rows if row != first[row[0]]], [0.7, 0.1, 0.2])  # sequential rows have an earlier one
    found = evaluation_rows(case({"inter": text}, **split))
    assert [sorted(zip(*map(np.ndarray.tolist, phase), strict=True)) for phase in (found.valid, found.test)] == list(later)
    for model, wanted in (("SASRec", later), ("BPR", split_by_time(rows, [0.7, 0.1, 0.2]))):
        splits = create_dataset(case({"inter": text}, model, **split)).build()
        assert [pairs(part) for part in splits[1:]] == list(wanted), f"{model}, as RecBole splits"
        for part in splits:  # as models read them
            times = [part.inter_feat[name] for name in ("timestamp", "timestamp_list") if name in part.inter_feat]
            assert all(held.dtype == torch.float32 and ((held == 0) | (held >= float(np.float32(start)))).all() for held in times)
        assert [pairs(loader._dataset) for loader in prepare_data(case({"inter": text}, model, **split))[2:]] == list(later)


@pytest.mark.parametrize(
    ("split", "order", "complaint"),
    [([0.8, 0.1, 0.1], "RO", "TS with order 'RO'.*set order: TO"), ([0.8, 0.2], "TO", r"TS is \[0.8, 0.2\] and must be"),
     ([0, 0, 1], "TO", "must be the shares"), (0.8, "TO", "must be the shares")],
)  # fmt: skip
def test_splits_by_time_that_recbole_would_get_wrong(case, split, order, complaint):
    config = case({}, "BPR")
    config["eval_args"] = {"split": {"TS": split}, "order": order, "group_by": "user", "mode": "full"}
    with pytest.raises(ValueError, match=complaint):
        create_dataset(config).build()

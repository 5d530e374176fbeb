"""The seeded sample of training rows: its size, its turns among users, its labels."""

import numpy as np
import pytest

from recbole_llm.config import LLMConfig
from recbole_llm.data.preparation import prepare_data
from recbole_llm.data.sample import sample_rows, sample_users
from tests import tiny

USERS = np.repeat([7, 8, 9], [100, 5, 1])


def test_it_is_seeded_sorted_and_of_the_size_asked_for():
    plain, again, other = (sample_rows(1000, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(plain, again) and not np.array_equal(plain, other)
    assert len(set(plain.tolist())) == 50 and (np.diff(plain) > 0).all()
    assert len(sample_rows(1000, 0.25, 0)) == 250 and len(sample_rows(1000, None, 0)) == 1000


@pytest.mark.parametrize("size", [11, 0, 0.01])
def test_more_rows_than_there_are_or_none_is_refused(size):
    with pytest.raises(ValueError, match="use 1 to 10, a share, or null"):
        sample_rows(10, size, 0)


def test_labels_keep_their_shares_on_request():
    labels = (np.arange(1000) % 10 < 3).astype(float)
    assert {labels[sample_rows(1000, 50, seed, labels=labels)].sum() for seed in range(20)} == {15.0}
    assert len({labels[sample_rows(1000, 50, seed)].sum() for seed in range(20)}) > 1


@pytest.mark.parametrize(
    ("size", "counts"), [(3, [1, 1, 1]), (5, [2, 2, 1]), (7, [3, 3, 1]), (11, [5, 5, 1]), (30, [24, 5, 1]), (106, [100, 5, 1])]
)
def test_users_take_turns_while_they_have_rows(size, counts):
    found = sample_rows(len(USERS), size, 3, USERS)
    assert [int((USERS[found] == user).sum()) for user in (7, 8, 9)] == counts


def test_a_smaller_sample_is_part_of_a_larger_one():
    for users in (None, USERS):
        small, large = (set(sample_rows(len(USERS), size, 3, users).tolist()) for size in (9, 40))
        assert small < large


def test_each_row_of_a_user_is_as_likely_as_another():
    drawn = np.concatenate([sample_rows(len(USERS), 5, seed, USERS) for seed in range(2000)])  # two rows each of 7 and 8
    counts = np.bincount(drawn, minlength=len(USERS))
    assert np.abs(counts[:100] - 40).max() < 5 * 40**0.5  # binomial, 2000 of 2 in 100
    assert np.abs(counts[100:105] - 800).max() < 5 * (2000 * 0.4 * 0.6) ** 0.5
    assert counts[105] == 2000


@pytest.mark.parametrize(
    ("model", "protocol", "by", "turns"),
    [("LLaRA", "candidates", "auto", True), ("LLaRA", "candidates", "rows", False), ("RecLoRA", "candidates", "auto", True),
     ("RecLoRA", "ctr", "auto", False), ("RecLoRA", "ctr", "users", True)],
)  # fmt: skip
def test_users_take_turns_where_rows_are_ranked_per_user(model, protocol, by, turns, tiny_data, tiny_llm, tmp_path):
    more = {"protocol": protocol, "train_sample_by": by, "train_sample_size": 30, "crm_epochs": 0}
    if model == "RecLoRA":
        more |= {"crm_config": {"embedding_size": 4, "mlp_hidden_size": [8, 8]}}
    config = LLMConfig(model, "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **more))
    train = prepare_data(config)[1]
    split = train.dataset.split
    users = split.inter_feat[split.uid_field].numpy()
    there, drawn = (np.bincount(found, minlength=users.max() + 1) for found in (users, users[train.batches.sample]))
    assert (sample_users(config, split) is not None) == turns and drawn.sum() == 30
    assert (np.minimum(there, drawn.max()) - drawn <= 1).all() == turns

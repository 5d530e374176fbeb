"""The draw of candidates: what a row may hold, what it depends on, and that it is flat."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from recbole_llm.data.candidate_draw import check_unseen, row_key, sample_candidates
from recbole_llm.data.candidates import build_candidate_set
from tests.data.worlds import build, catalogue_of, worlds


@given(worlds())
def test_rows_are_distinct_unseen_and_hold_the_target(world):
    made = build(world)
    catalogue, histories, (users, targets), width = world
    assert made.candidates.shape == (len(users), width)
    for user, target, row, position in zip(users, targets, made.candidates, made.target_position, strict=True):
        assert len(set(row.tolist())) == width
        assert catalogue[row[position]] == target
        negatives = np.delete(row, position)
        assert not set(negatives.tolist()) & set(histories[user].tolist())


@given(worlds(), st.randoms(use_true_random=False))
def test_rows_depend_on_nothing_but_their_own_user_and_target(world, random):
    catalogue, histories, (users, targets), width = world
    made = build(world)
    order = list(range(len(users)))
    random.shuffle(order)
    order = order[: max(1, len(order) // 2)]  # other rows are missing, too
    shuffled_histories = dict(random.sample(sorted(histories.items()), len(histories)))
    rows = ([users[i] for i in order], [targets[i] for i in order])
    again = build((catalogue, shuffled_histories, rows, width))
    np.testing.assert_array_equal(again.candidates, made.candidates[order])
    np.testing.assert_array_equal(again.target_position, made.target_position[order])


@given(worlds(), st.integers(0, 2**31))
def test_numpy_state_does_not_matter(world, state):
    made = build(world).sha256
    np.random.seed(state)
    assert build(world).sha256 == made


def test_epoch_changes_the_negatives_in_training_and_only_there():
    catalogue, seen = catalogue_of(60), np.array([3, 7])
    world = (catalogue, {"u": seen}, (["u"], [str(catalogue[3])]), 10)
    assert len({build(world, phase="train", epoch=e).sha256 for e in range(5)}) == 5
    assert build(world, phase="train", epoch=2).sha256 == build(world, phase="train", epoch=2).sha256
    with pytest.raises(ValueError, match="need an epoch"):
        build(world, phase="train")
    with pytest.raises(ValueError, match="only training candidates take an epoch"):
        build(world, phase="test", epoch=0)
    with pytest.raises(ValueError, match="phase must be one of"):
        build(world, phase="tset")


def test_seed_phase_user_and_target_each_change_the_draw():
    catalogue, seen = catalogue_of(60), np.array([3, 7])

    def draw(user="u", target=3, seed=1, phase="test"):
        return tuple(sample_candidates(user, str(catalogue[target]), target, seen, 60, 10, seed, phase)[0])

    assert len({draw(), draw(user="v"), draw(target=7), draw(seed=2), draw(phase="valid")}) == 5


@given(st.lists(st.text(max_size=4), min_size=2, max_size=2), st.lists(st.text(max_size=4), min_size=2, max_size=2))
def test_keys_of_different_rows_differ(one, other):
    assert (row_key(1, "test", *one) == row_key(1, "test", *other)) == (one == other)


def test_target_position_and_negatives_are_uniform():
    n_items, width, n_rows = 30, 6, 12_000
    seen, rng = np.array([0, 4, 5, 17, 29]), np.zeros(n_items)
    positions, first, pairs = np.zeros(width), np.zeros(n_items), np.zeros((n_items, n_items))
    for i in range(n_rows):
        row, position = sample_candidates(f"user {i}", "item", 4, seen, n_items, width, 0, "test")
        positions[position] += 1
        negatives = np.delete(row, position)
        rng[negatives] += 1
        first[negatives[0]] += 1
        pairs[negatives[0], negatives[1]] += 1
    unseen = np.setdiff1d(np.arange(n_items), seen)
    assert rng[seen].sum() == 0
    assert chisquare(positions).pvalue > 1e-3
    assert chisquare(rng[unseen]).pvalue > 1e-3
    assert chisquare(first[unseen]).pvalue > 1e-3  # also by place, so that the order tells nothing
    off = pairs[np.ix_(unseen, unseen)][~np.eye(len(unseen), dtype=bool)]
    assert chisquare(off).pvalue > 1e-3


@given(worlds())
def test_against_a_plain_shuffle(world):
    """The definition, written out: shuffle the list of unseen items from its front with SHAKE-128 words."""
    made = build(world, seed=5)
    catalogue, histories, (users, targets), width = world
    for user, target, row, position in zip(users, targets, made.candidates, made.target_position, strict=True):
        parts = ["5", "test", user, target, ""]
        key = b"recbole_llm.candidates.1"
        for part in parts:
            key += len(part.encode()).to_bytes(4, "little") + part.encode()
        stream = hashlib.shake_128(key).digest(8 * width)
        words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(width)]
        unseen = [item for item in range(len(catalogue)) if item not in set(histories[user].tolist())]
        for i, word in enumerate(words[1:]):
            j = i + word * (len(unseen) - i) // 2**64
            unseen[i], unseen[j] = unseen[j], unseen[i]
        expected = unseen[: width - 1]
        expected.insert(words[0] * width // 2**64, catalogue.tolist().index(target))
        assert row.tolist() == expected and expected[position] == catalogue.tolist().index(target)


def test_all_unseen_items_can_be_needed():
    seen = np.array([1, 3])
    row, position = sample_candidates("u", "item", 3, seen, 6, 5, 0, "test")
    assert sorted(np.delete(row, position)) == [0, 2, 4, 5]


def test_users_with_too_few_unseen_items_are_all_named():
    catalogue = catalogue_of(10)
    histories = {"ann": np.arange(8), "bob": np.arange(3), "eve": np.arange(9)}
    rows = (["ann", "bob", "eve"], [str(catalogue[0])] * 3)
    with pytest.raises(ValueError, match=r"n_candidates: 5 needs 4 .*2 user\(s\).*ann \(2\), eve \(1\)"):
        build_candidate_set(rows, histories, catalogue, 5, 0, "test")
    check_unseen(["bob"], histories, 10, 5)
    with pytest.raises(ValueError, match="n_candidates must be at least 2"):
        check_unseen(["bob"], histories, 10, 1)

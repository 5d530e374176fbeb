"""The seeded sample of training rows."""

import numpy as np
import pytest

from recbole_llm.data.sample import sample_evaluation_rows, sample_rows


def test_it_is_seeded_sorted_and_of_the_size_asked_for():
    plain, again, other = (sample_rows(1000, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(plain, again) and not np.array_equal(plain, other)
    assert len(set(plain.tolist())) == 50 and (np.diff(plain) > 0).all()
    assert len(sample_rows(1000, 0.25, 0)) == 250 and len(sample_rows(1000, None, 0)) == 1000


def test_labels_keep_their_shares_on_request():
    labels = (np.arange(1000) % 10 < 3).astype(float)
    assert {labels[sample_rows(1000, 50, seed, labels)].sum() for seed in range(20)} == {15.0}
    assert len({labels[sample_rows(1000, 50, seed)].sum() for seed in range(20)}) > 1


def test_a_smaller_sample_is_part_of_a_larger_one():
    for labels in (None, np.arange(106) % 2):
        small, large = (set(sample_rows(106, size, 3, labels).tolist()) for size in (10, 40))
        assert small < large


def test_more_rows_than_there_are_is_all_of_them_with_a_warning(caplog):
    assert sample_rows(10, 11, 0).tolist() == list(range(10))
    assert "train_sample_size=11, but there are 10 training rows" in caplog.text


@pytest.mark.parametrize("size", [0, 0.01])
def test_no_row_at_all_is_refused(size):
    with pytest.raises(ValueError, match=f"train_sample_size={size} leaves no training row of 10"):
        sample_rows(10, size, 0)


def test_evaluation_rows_are_sampled_by_seed_and_phase():
    few, more, all_rows = (sample_evaluation_rows(100, size, 7, "test").tolist() for size in (10, 30, None))
    assert set(few) < set(more) < set(all_rows) and (len(few), len(more)) == (10, 30)
    assert few == sorted(few) and all_rows == list(range(100)) == sample_evaluation_rows(100, 101, 7, "test").tolist()
    assert few != sample_evaluation_rows(100, 10, 8, "test").tolist()
    assert few != sample_evaluation_rows(100, 10, 7, "valid").tolist()

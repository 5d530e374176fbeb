"""What rows of `protocol: full` rank, and the ranks of their targets."""

import numpy as np
import pytest
from scipy.stats import chisquare

from recbole_llm.evaluation.full_rows import catalogue_ranks, shuffled
from tests.evaluation.full import full_rows_of


def test_ranks_against_a_slow_independent_way():
    rows = full_rows_of(60)
    scores = np.random.default_rng(1).integers(0, 8, (60, 50)).astype(float)  # many ties
    strict, average, length = catalogue_ranks(scores, rows, np.arange(60))
    keys = rows.tie_keys(np.arange(60))
    for i in range(60):
        target = rows.target[i]
        known = set(rows.sets.histories[rows.users[i]].tolist()) - {target}
        listed = sorted((j for j in range(50) if j not in known), key=lambda j: (-scores[i, j], keys[i, j]))
        assert strict[i] == 1 + listed.index(target) and length[i] == len(listed) == 46
        equal = [1 + place for place, j in enumerate(listed) if scores[i, j] == scores[i, target]]
        assert average[i] == np.mean(equal)


def test_a_model_that_scores_all_alike_gets_uniform_ranks():
    rows = full_rows_of()
    strict, _, length = catalogue_ranks(np.zeros((2000, 50)), rows, np.arange(2000))
    counts = np.bincount(strict, minlength=47)[1:]
    assert length.min() == length.max() == 46 and counts.sum() == 2000
    assert chisquare(counts).pvalue > 0.001


def test_scores_that_are_not_finite_are_refused_where_they_count():
    rows = full_rows_of(3)
    scores = np.random.default_rng(0).random((3, 50))
    hidden = next(j for j in rows.sets.histories["u00001"].tolist() if j != rows.target[1])
    scores[1, hidden] = -np.inf  # an item of the history: not ranked
    catalogue_ranks(scores, rows, np.arange(3))
    scores[2, rows.target[2]] = np.nan
    with pytest.raises(ValueError, match="not finite in 1 test rows.*u00002"):
        catalogue_ranks(scores, rows, np.arange(3))


def test_the_order_shown_is_pure_and_says_nothing_of_the_rank():
    rows = full_rows_of(4000)
    items = np.arange(10)
    first = [int(np.flatnonzero(shuffled(rows, i, items) == 0)[0]) for i in range(4000)]
    assert np.array_equal(shuffled(rows, 7, items), shuffled(rows, 7, items))
    assert chisquare(np.bincount(first, minlength=10)).pvalue > 0.001

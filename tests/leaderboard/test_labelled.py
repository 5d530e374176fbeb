"""The AUC is scikit-learn's, and its error that of resampling users."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recbole_llm.leaderboard import labelled


def test_one_users_auc_says_nothing_of_others():
    one = labelled.auc(np.array([1, 0, 1]), np.array([0.9, 0.1, 0.2]), np.zeros(3, dtype=int))
    assert one.interval() == (0.0, 1.0) and labelled.normal_p(0.3, one.error) == 1.0


def test_auc_is_sklearns_and_its_error_that_of_resampling_users():
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(150), 8)
    taste = rng.normal(size=150)[user]  # users who like more are also scored higher: their rows stand and fall together
    label = (rng.random(1200) < 1 / (1 + np.exp(-2 * taste))).astype(int)
    score = np.round(label * 0.3 + rng.normal(size=1200) * 0.5 + taste, 1)  # with ties
    found = labelled.auc(label, score, user)
    assert found.value == pytest.approx(roc_auc_score(label, score))
    assert found.influence.sum() == pytest.approx(0, abs=1e-12)
    again = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(user == u) for u in rng.integers(0, 150, 150)])
        again.append(roc_auc_score(label[rows], score[rows]))
    assert found.error == pytest.approx(np.std(again), rel=0.12)
    assert labelled.auc(label, score, np.arange(1200)).error < 0.8 * found.error  # as if every row were another user
    with pytest.raises(ValueError, match="one label"):
        labelled.auc(np.ones(5), np.arange(5), np.arange(5))

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score

from recbole_llm import run_recbole_llm
from recbole_llm.evaluation.click_metrics import ACC, Platt, user_ranks
from tests import tiny


def test_platt_finds_the_odds_that_scores_were_drawn_from():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 20, size=20_000)
    truth = expit(0.15 * scores - 0.7)
    labels = rng.random(len(scores)) < truth
    found = Platt(scores, labels)(scores)
    assert np.abs(logit(found) - logit(truth)).max() < 0.6 and np.abs(found - truth).mean() < 0.01
    assert log_loss(labels, found) <= log_loss(labels, truth) + 1e-4  # a maximum-likelihood fit
    assert roc_auc_score(labels, found) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("scores, labels, complaint", [
    ([0.1, np.nan], [0, 1], "a validation score is not finite"), ([0.1, 0.2], [1, 1], "all validation rows have one"),
])  # fmt: skip
def test_platt_refuses_what_it_cannot_fit(scores, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        Platt(np.array(scores), np.array(labels))


def test_acc_counts_the_likelier_label():
    assert ACC({"metric_decimal_place": 4}).metric_info(np.array([0.5, 0.49, 0.9, 0.1]), np.array([1, 1, 0, 0])) == 0.5


def run(model, tiny_data, out, **more):
    settings = tiny.settings(tiny_data, Path("none"), out, protocol="ctr", **more)
    settings = {k: v for k, v in settings.items() if not k.startswith(("crm", "llm", "train_sample"))}
    outcome = run_recbole_llm(model, "tiny", config_dict=settings)
    return json.loads(Path(outcome["result_file"]).read_text()), Path(outcome["result_file"])


def test_scores_that_are_no_probabilities_are_calibrated_and_marked(tiny_data, tmp_path):
    record, path = run("SASRec", tiny_data, tmp_path)
    assert record["calibrated"] == "platt" and {"auc", "logloss", "acc"} <= record["metrics"].keys()
    lines = [line.split(",") for line in path.with_name(record["rows"]).read_text().splitlines()]
    assert lines[0] == ["user_id", "item_id", "label", "score"]
    labels, scores = (np.array([float(line[column]) for line in lines[1:]]) for column in (2, 3))
    assert ((scores > 0) & (scores < 1)).all()
    assert record["metrics"]["logloss"] == pytest.approx(log_loss(labels, scores), abs=1e-3)
    assert record["metrics"]["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)
    assert record["metrics"]["acc"] == pytest.approx(((scores >= 0.5) == labels).mean(), abs=1e-3)
    plain, _ = run("SASRec", tiny_data, tmp_path, calibration="none")
    assert plain["calibrated"] is None and "auc" in plain["metrics"]
    assert not {"logloss", "acc"} & plain["metrics"].keys()
    assert plain["candidates"]["sha256"] == record["candidates"]["sha256"]


def test_probabilities_are_left_as_they_are(tiny_data, tmp_path):
    record, _ = run("AutoInt", tiny_data, tmp_path)
    assert record["calibrated"] is None and "logloss" in record["metrics"] and record["protocol"] == "ctr"


def test_gauc_is_the_users_auc_weighted_by_their_liked_rows():
    from recbole.evaluator.collector import DataStruct
    from recbole.evaluator.metrics import GAUC

    rng = np.random.default_rng(0)
    users, labels = rng.integers(12, size=200).astype(str), rng.integers(2, size=200)
    scores = np.round(rng.random(200), 1)  # with ties
    users[:5], labels[:5] = "one class", 1
    expected = total = 0
    for user in set(users.tolist()) - {"one class"}:
        mine = users == user
        expected += labels[mine].sum() * roc_auc_score(labels[mine], scores[mine])
        total += labels[mine].sum()
    struct = DataStruct()
    struct.set("rec.meanrank", user_ranks(users, scores, labels))
    result = GAUC({"metric_decimal_place": 8}).calculate_metric(struct)
    assert result["gauc"] == pytest.approx(expected / total, abs=1e-7)


def test_gauc_is_left_out_where_no_user_has_both_classes():
    assert user_ranks(np.array(["a", "b"]), np.array([0.1, 0.2]), np.array([1, 0])) is None

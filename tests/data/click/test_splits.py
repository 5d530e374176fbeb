import numpy as np
import pytest

from recbole_llm.data.click import rows as click_rows
from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests.clicks import MODELS, pairs, write


@pytest.mark.parametrize("split", [{"RS": [8, 1, 1]}, {"LS": "valid_and_test"}], ids=str)
def test_all_models_are_tested_on_the_same_labelled_rows(make, split):
    found, digests = {}, set()
    for model in MODELS:
        config = make(model, eval_args={"split": split})
        _, train, valid, test = prepare_data(config)
        found[model] = pairs(valid._dataset), pairs(test._dataset)
        digests.add(labelled_rows(config).sha256)
        trained = pairs(train._dataset)
        expected = list(zip(*labelled_rows(config).columns("train"), strict=True))
        if model in ("SASRec", "BPR"):  # their losses read no labels
            expected = [row for row in expected if row[2] == 1]
        assert trained == [(str(u), str(i), float(y)) for u, i, y in expected]
    assert len(digests) == 1 and all(rows == found["DIN"] for rows in found.values())
    assert len(found["DIN"][0]) and {y for *_, y in found["DIN"][1]} == {0.0, 1.0}


def test_neither_time_nor_rating_reaches_a_context_model(make):
    dataset, *_ = prepare_data(make("DeepFM"))
    split = prepare_data(make("DeepFM"))[3]._dataset
    assert not {"timestamp", "rating"} & set(split.inter_feat.columns)


def test_repeated_pairs_keep_their_own_labels(make, tmp_path):
    rng = np.random.default_rng(1)
    lines = [f"u{k % 5}\ti{rng.integers(6)}\t{rng.integers(1, 6)}\t{k}" for k in range(120)]
    own = write(tmp_path / "d", lines)
    config = make("DeepFM", **own)
    splits = [loader._dataset for loader in prepare_data(config)[1:]]
    rows = labelled_rows(config)
    for phase, split in zip(click_rows.PHASES, splits, strict=True):
        assert pairs(split) == [(str(u), str(i), float(y)) for u, i, y in zip(*rows.columns(phase), strict=True)]

"""Gradient similarity: each step against another way of computing it, and the whole on planted gradients."""

import itertools
import json

import numpy as np
import pytest
import torch

from recbole_llm.analysis import gradients
from recbole_llm.analysis.__main__ import analyse
from recbole_llm.analysis.common import Case, Request
from recbole_llm.config.values import ConfigError


@pytest.fixture
def planted():
    """Cosines of 12 gradients in 3 clusters, those of one cluster alike."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 4)
    points = rng.normal(size=(3, 50))[labels] + 0.5 * rng.normal(size=(12, 50))
    return points, labels


def test_cosines_are_torchs(planted):
    points, _ = planted
    found = gradients.cosines(points)
    each = torch.from_numpy(points)
    np.testing.assert_allclose(found, torch.cosine_similarity(each[:, None], each[None], dim=-1).numpy(), atol=1e-12)
    assert gradients.cosines(np.vstack([points, np.zeros(50)]))[12].tolist() == [0.0] * 13


def test_clusters_and_pairs_by_hand(planted):
    points, labels = planted
    similarity = gradients.cosines(points)
    for c, d in itertools.product(range(3), repeat=2):
        pairs = [similarity[i, j] for i in np.flatnonzero(labels == c) for j in np.flatnonzero(labels == d) if i != j]
        assert gradients.by_cluster(similarity, labels)[c, d] == pytest.approx(np.mean(pairs))
    found = gradients.compare(similarity, labels)
    pairs = list(itertools.combinations(range(12), 2))
    within = np.mean([similarity[i, j] for i, j in pairs if labels[i] == labels[j]])
    between = np.mean([similarity[i, j] for i, j in pairs if labels[i] != labels[j]])
    assert (found["within"], found["between"]) == (pytest.approx(within), pytest.approx(between))
    assert found["low"] < found["difference"] == pytest.approx(within - between) and found["low"] > 0.3


def test_the_interval_holds_zero_where_clusters_say_nothing(planted):
    points = np.random.default_rng(1).normal(size=(32, 400))
    found = gradients.compare(gradients.cosines(points), np.repeat(np.arange(8), 4))
    assert found["low"] < 0 < found["high"] and abs(found["difference"]) < 0.02
    alone = gradients.by_cluster(gradients.cosines(points[:3]), np.array([0, 0, 1]))
    assert np.isnan(alone[1, 1]) and not np.isnan(alone[0, 0])


def test_like_clusters_stand_side_by_side():
    centres = np.array([[0.0], [100.0], [1.0], [101.0], [50.0]])
    points = np.repeat(centres, 20, axis=0) + np.random.default_rng(0).normal(size=(100, 1)) * 0.01
    labels = gradients.cluster(points, 5, seed=0)
    order = [int(labels[20 * i]) for i in range(5)]
    assert len(set(order)) == 5 and all((labels[20 * i : 20 * i + 20] == order[i]).all() for i in range(5))
    assert abs(order[0] - order[2]) == abs(order[1] - order[3]) == 1 and order[4] == 2


def test_batches_are_a_clusters_rows_once_each():
    rows, labels = np.arange(100, 130), np.array([0] * 20 + [1] * 9 + [2])
    groups = gradients.cut(rows, labels, 4, seed=3)
    assert [label for label, _ in groups] == [0] * 4 + [1] * 4 + [2]
    assert sorted(np.concatenate([part for _, part in groups]).tolist()) == rows.tolist()
    assert all(set(labels[part - 100]) == {label} for label, part in groups)


def test_a_gradient_is_that_of_the_models_own_loss(settings):
    """Summed over micro-batches of unlike length, it is the gradient of one batch's mean loss per answer token."""
    given = settings(train_batch_size=3)
    config, model, _, train, _, _ = Request("tiny", settings=given).trained(Case("iLoRA", "iLoRA"), 2020)
    rows = np.array([1, 5, 9, 12, 30])
    found = gradients.gradient(model, train, config, rows)
    weights = {name: weight for name, weight in model.named_parameters() if "lora_" in name and weight.requires_grad}
    candidates, places = train.dataset.training_candidates(rows, gradients.candidate_sets(config), epoch=0)
    keys = [gradients.Key(int(r), tuple(c.tolist()), int(p)) for r, c, p in zip(rows, candidates, places, strict=True)]
    expected = torch.autograd.grad(model.calculate_loss(train.batch(keys)), list(weights.values()))
    np.testing.assert_allclose(found, torch.cat([g.flatten() for g in expected]).numpy(), rtol=1e-3, atol=1e-6)
    assert np.abs(found).max() > 1e-3 and all(weight.grad is None for weight in model.parameters())


def test_both_models_are_asked_about_the_same_batches(settings, monkeypatch):
    asked = {}
    whole = gradients.gradient
    monkeypatch.setattr(gradients, "gradient", lambda model, *rest: asked.setdefault(type(model).__name__, []).append(rest[2].tolist())
                        or whole(model, *rest))  # fmt: skip
    report = analyse("gradients", Request("tiny", settings=settings()), clusters=3, rows=48, batches=3)
    assert asked["LLaRA"] == asked["iLoRA"] and sum(map(len, asked["LLaRA"])) == 48
    assert [row["model"] for row in report.rows] == ["LLaRA", "iLoRA"] and len(report.figures) == 3
    for row in report.rows:
        assert row["difference"] == pytest.approx(row["within"] - row["between"]) and row["low"] <= row["difference"] <= row["high"]
    shown = [view["data"][0]["z"] for view in (figure["views"][0] for figure in report.figures[:2])]
    assert shown == list(report.data["similarity"].values()) and json.dumps(report.data)


def test_what_it_cannot_do_is_said(settings):
    with pytest.raises(ConfigError, match="must be 2 or more"):
        analyse("gradients", Request("tiny", settings=settings()), clusters=1)
    with pytest.raises(ConfigError, match="5 training rows cannot make 8 clusters"):
        analyse("gradients", Request("tiny", ["iLoRA"], settings=settings()), rows=5)


@pytest.mark.parametrize("model", ["LlamaRec", "E4SRec", "RecLoRA"])
def test_models_that_write_no_title_are_refused_before_anything_trains(model, monkeypatch):
    monkeypatch.setattr(Request, "result", lambda *given, **more: pytest.fail("it trains"))
    with pytest.raises(ConfigError, match=f"gradients: {model} answers with no title"):
        gradients.run(Request("tiny", ["LLaRA", model], seeds=[2020]), clusters=2, rows=8, batches=2)

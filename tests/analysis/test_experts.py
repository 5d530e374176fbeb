"""Gate weights as the analysis reports them, against the router's own weights and scipy's entropy."""

import csv
import json

import numpy as np
import pytest
import torch
from scipy import stats

from recbole_llm.analysis.__main__ import analyse, main
from recbole_llm.analysis.common import Case, Request
from recbole_llm.analysis.experts import entropy, gates, short, spaced
from recbole_llm.config.values import ConfigError
from tests.analysis.conftest import CLICK


def test_entropy_is_scipys():
    weights = np.random.default_rng(0).dirichlet([0.3] * 4, size=(50, 3))
    weights[0, 0] = [1, 0, 0, 0]
    np.testing.assert_allclose(entropy(weights), stats.entropy(weights, axis=-1), atol=1e-12)
    assert entropy(weights)[0, 0] == 0.0


def test_rows_are_spaced_evenly():
    assert spaced(5, None).tolist() == spaced(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spaced(101, 3).tolist() == [0, 50, 100]
    assert short("base_model.model.model.layers.11.self_attn.q_proj") == "11.q_proj"


def test_ilora_weights_are_the_routers(settings):
    report = analyse("experts", Request("tiny", ["iLoRA"], settings=settings()), rows=None)
    _, model, _, _, _, test = Request("tiny", ["iLoRA"], settings=settings()).trained(Case("iLoRA", "iLoRA"), 2020)
    found = {(line["user_id"], line["item_id"]): line for line in report.long_table}
    assert len(found) == 40 == len(report.long_table)
    matrix = model.router.out.weight.double()
    for batch in test:
        vectors = model.crm.user_vectors(batch).double()
        vectors = (vectors - vectors.mean(1, keepdim=True)) / vectors.std(1, keepdim=True, unbiased=False)
        expected = torch.softmax(vectors @ matrix.T, -1).tolist()
        users = test._dataset.id2token("user_id", batch["user_id"].numpy())
        items = test._dataset.id2token("item_id", batch["item_id"].numpy())
        for user, item, weights in zip(users, items, expected, strict=True):
            line = found[user, item]
            assert [line[f"expert_{i + 1}"] for i in range(4)] == pytest.approx(weights, abs=1e-4)
            assert line["entropy"] == pytest.approx(stats.entropy(weights), abs=1e-4)
    (row,) = report.rows
    assert row["entropy"] == pytest.approx(np.mean([line["entropy"] for line in report.long_table]))
    assert row["expert 2"] == pytest.approx(np.mean([line["expert_2"] for line in report.long_table]))
    _, start, _, _, _, _ = Request("tiny", ["iLoRA"], settings=settings(epochs=0)).trained(Case("iLoRA", "iLoRA"), 2020)
    before = gates(start, test)[2][:, 0]  # weights that no step has changed
    assert row["entropy before"] == pytest.approx(stats.entropy(before, axis=1).mean(), abs=1e-6)
    weights = np.array([[line[f"expert_{i + 1}"] for i in range(4)] for line in report.long_table])
    assert row["moved"] == pytest.approx(np.abs(weights - before).mean(), abs=1e-6) and row["moved"] > 1e-4
    shown = report.figures[0]["views"][0]["data"][0]
    assert np.array(shown["z"]).shape == (4, 10) and np.array(shown["z"]).sum(0) == pytest.approx(np.ones(10))


def test_reclora_has_a_gate_for_each_projection_and_writes_all_files(settings, capsys):
    arguments = [f"--{key}={value}" for key, value in settings(**CLICK).items()]
    assert main(["experts", "--dataset=tiny", "--model=RecLoRA", "--rows=6", *arguments]) == 0
    assert "Entropy" in capsys.readouterr().out
    (path,) = settings.folder.glob("tiny.ctr.experts.RecLoRA-*.csv")
    lines = list(csv.DictReader(path.open()))
    assert len(lines) == 6 * 4 and {line["module"] for line in lines} == {"0.q_proj", "0.v_proj", "1.q_proj", "1.v_proj"}
    assert all(float(line["expert_1"]) + float(line["expert_2"]) == pytest.approx(1) for line in lines)
    plain = json.loads(path.with_suffix(".json").read_text())
    assert [row["module"] for row in plain["rows"]] == ["0.q_proj", "0.v_proj", "1.q_proj", "1.v_proj"]
    page = path.with_suffix(".html").read_text()
    assert "Plotly" in page and 'src="http' not in page and '"type": "heatmap"' in page
    assert "<p>Gates of " in page and '<td class="name">' in page and "&lt;div" not in page, "the page shows its markup"


def test_a_model_without_a_gate_is_refused(settings):
    with pytest.raises(ConfigError, match="LLaRA has no gate"):
        analyse("experts", Request("tiny", ["LLaRA"], settings=settings()))
    with pytest.raises(ConfigError, match="one model and one seed"):
        analyse("experts", Request("tiny", ["iLoRA"], (1, 2), settings=settings()))

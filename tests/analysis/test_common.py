"""Runs are found again by a hash of their settings, and no two of different settings share a file."""

import json

import pytest

from recbole_llm.analysis import common
from recbole_llm.analysis.common import Case, Request, as_values, run_all, settings_key
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError


def request(settings, **more):
    return Request("tiny", ["LLaRA"], settings=settings(**more))


def test_a_key_is_of_all_settings_that_change_a_result(settings):
    def key(**more):
        return settings_key(LLMConfig("LLaRA", "tiny", command_line=settings(**more)))

    assert key() == key(seed=7) == key(variant="x") == key(result_dir="elsewhere")
    others = [key(**more) for more in ({"lora_r": 4}, {"epochs": 2}, {"test_sample_size": 20}, {"n_candidates": 7}, {"train_sample_size": 31})]
    assert len({key(), *others}) == 6


def test_a_setting_for_every_run_reaches_the_models_that_know_it(settings, tmp_path):
    (tmp_path / "shared.yaml").write_text("num_experts: 2\nlora_r: 16\n")
    in_file = Request("tiny", ["LLaRA"], config_files=[str(tmp_path / "shared.yaml")], settings=settings(lora_r=4))
    for shared in (request(settings, num_experts=2), in_file):
        assert shared.config(Case("iLoRA@a", "iLoRA"), 2020)["num_experts"] == 2
        assert shared.config(Case("LLaRA@a", "LLaRA"), 2020)["num_experts"] is None
    assert in_file.config(Case("LLaRA@a", "LLaRA"), 2020)["lora_r"] == 4
    with pytest.raises(ConfigError, match="num_expert: unknown key"):
        request(settings, num_expert=2).config(Case("iLoRA@a", "iLoRA"), 2020)


def test_a_run_is_used_again_and_one_of_other_settings_keeps_its_own_file(settings, monkeypatch):
    case = Case("LLaRA@a", "LLaRA")
    first = request(settings).result(case, 2020)
    other = request(settings, lora_r=4).result(case, 2020)
    seed = request(settings).result(case, 2021)
    assert len({first, other, seed}) == 3 and all(path.parent == settings.folder for path in (first, other, seed))
    assert first.name.startswith("tiny.candidates.LLaRA@a-") and first.name.endswith(".seed2020.json")
    assert [json.loads(path.read_text())["config"]["lora_r"] for path in (first, other)] == [8, 4]
    before = first.read_bytes()
    monkeypatch.setattr(common, "run_recbole_llm", lambda *_, **__: pytest.fail("trained again"))
    assert request(settings).result(case, 2020) == first and first.read_bytes() == before
    asked = []
    monkeypatch.setattr(common, "run_recbole_llm", lambda *given, **more: asked.append(given) or {"result_file": str(first)})
    checkpoint = first.parent / json.loads(before)["checkpoint"]
    checkpoint.rename(checkpoint.with_name("gone"))
    try:
        request(settings).result(case, 2020)
        assert not asked  # weights are not needed
        request(settings).result(case, 2020, weights=True)
        assert len(asked) == 1
    finally:
        checkpoint.with_name("gone").rename(checkpoint)


def test_rows_are_means_over_seeds_with_paired_differences(settings):
    cases = [Case("a", "LLaRA", {}, 1), Case("b", "LLaRA", {"learning_rate": 1e-4}, 2)]
    found = run_all(Request("tiny", ["LLaRA"], (2020, 2021), settings=settings()), cases, against=0)
    assert found.metric == "hit@1" and len(found.files) == 4
    records = [json.loads(path.read_text()) for path in found.files]
    for i, row in enumerate(found.rows):
        mine = [record["metrics"]["hit@1"] for record in records[2 * i : 2 * i + 2]]
        assert row["hit@1"] == pytest.approx(sum(mine) / 2, abs=1e-4)  # RecBole rounds to four places
        assert row["sd"] == pytest.approx(abs(mine[0] - mine[1]) / 2**0.5, abs=1e-4)
        assert row["low"] <= row["hit@1"] <= row["high"] and row["n"] == 40 and row["seeds"] == 2
        per_row = [record["seconds"]["evaluate"] / 40 for record in records[2 * i : 2 * i + 2]]
        assert row["seconds_per_row"] == pytest.approx(sum(per_row) / 2)
    assert found.rows[1]["difference"] == pytest.approx(found.rows[1]["hit@1"] - found.rows[0]["hit@1"])


def test_all_that_is_wrong_is_said_before_anything_trains(settings, monkeypatch):
    monkeypatch.setattr(common, "run_recbole_llm", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=r"(?s)a: lora_r: must be.*b: epochs: must be"):
        run_all(request(settings), [Case("a", "LLaRA", {"lora_r": 0}), Case("b", "LLaRA", {"epochs": -1})])


def test_values_of_the_command_line():
    assert as_values((1, 2, 4), "values") == [1, 2, 4] and as_values(8, "values") == [8]
    assert as_values("250, 0.1,null", "values") == [250, 0.1, None]
    with pytest.raises(ConfigError, match="each once"):
        as_values("4,4", "values")

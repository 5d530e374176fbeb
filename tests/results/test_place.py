"""The place of a result, before a run and when it is taken."""

import json

import pytest

from recbole_llm.results.place import place_problems, replaced

CONFIG = {"dataset": "tiny", "protocol": "candidates", "model": "LLaRA", "seed": 7, "variant": None}


@pytest.mark.parametrize("variant", [None, "LLaRA", "LLaRA@r=4", "é" * 90])
def test_a_place_that_can_be_written_is_no_problem(tmp_path, variant):
    assert not place_problems({**CONFIG, "result_dir": str(tmp_path / "new" / "folder"), "variant": variant})


def test_all_that_is_wrong_with_a_place_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    first, second = place_problems({**CONFIG, "result_dir": str(tmp_path / "file" / "results"), "variant": "é" * 110})
    assert first == f"result_dir: {tmp_path / 'file'} is a file, not a folder; give another"
    assert second == "variant: file names made with it would have 264 bytes, file systems take 255; make it 9 bytes shorter"


@pytest.mark.parametrize("variant, model", [("SASRec", "SASRec"), ("ilora", "iLoRA"), ("RatedDIN", "RatedDIN")])
def test_a_variant_is_no_other_models_name(tmp_path, variant, model):
    (problem,) = place_problems({**CONFIG, "result_dir": str(tmp_path), "variant": variant})
    assert f"{variant!r} names the model {model}," in problem and f"e.g. LLaRA@{variant}" in problem


def test_a_result_that_is_replaced_is_named_where_settings_differ(tmp_path):
    path = tmp_path / "a.json"
    new = {"config": {"epochs": 3, "test_sample_size": 9, "metrics": ("Hit",), "result_dir": "b"}}
    assert replaced(path, new) is None
    path.write_text(json.dumps({"schema": 1, "config": {"epochs": 3, "metrics": ["Hit"], "result_dir": "a"}}))
    assert f"{path} is replaced, its settings against this run's: test_sample_size None against 9;" in replaced(path, new)
    path.write_text(json.dumps({"schema": 1, **new}))
    assert replaced(path, new) is None
    path.write_text("{")
    assert replaced(path, new) is None

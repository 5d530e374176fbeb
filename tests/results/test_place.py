"""The place of a result, before a run."""

import pytest

from recbole_llm.results.place import place_problems

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

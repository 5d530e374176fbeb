"""The GPU benchmark at its tiny shape: every way of training and of scoring runs, and the file says what was measured."""

import json

from benchmarks import gpu, readme
from recbole_llm.provenance import weights_hash


def test_the_gpu_benchmark_runs_on_a_cpu_at_the_tiny_shape(tmp_path, capsys):
    assert gpu.main(["--shape=tiny", "--repeats=1", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    record = json.loads(file.read_text())
    assert record["training"].keys() == {"frozen forward", "straightforward", "LLaRA", "iLoRA", "RecLoRA"}
    assert record["prompts_per_second"].keys() == {"tree", "cache", "generate"}
    assert record["ratios"].keys() == gpu.AIMS.keys()
    assert all(way["tokens_per_second"] > 0 and way["peak_memory_gb"] > 0 for way in record["training"].values())
    assert all(value > 0 for value in (*record["prompts_per_second"].values(), *record["ratios"].values()))
    assert str(file) in capsys.readouterr().out


def test_readme_marks_results_of_another_built_in_llm():
    now = weights_hash("builtin")
    for name, sha256, earlier in (("builtin", now, False), ("builtin", "0" * 64, True), ("builtin", None, True), ("some/hub-name", None, False)):
        assert readme.is_earlier({"llm": {"name": name, "sha256": sha256}}) is earlier
    assert readme.is_earlier({"llm": None}) is False


def test_readme_keeps_the_tables_of_boards_without_files():
    tables = ["**ml-100k, `candidates`**: 9 rows.\n\n| a |\n|---|\n| **b**: c |", "**games, `ctr`**: 3 rows.\n\n| d |"]
    found = readme.stored_tables("\n" + "\n\n".join(tables) + "\n")
    assert found == {("ml-100k", "candidates"): tables[0], ("games", "ctr"): tables[1]}
    assert readme.stored_tables("\n") == {}

"""The GPU benchmark at its tiny shape: every way of training and of scoring runs, and the file says what was measured."""

import json

from benchmarks import gpu


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

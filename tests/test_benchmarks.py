"""The GPU benchmark at its tiny shape: every way of training and of scoring runs, and the file says what was measured."""

import json

import numpy as np
import pytest

from benchmarks import gpu, readme
from recbole_llm.leaderboard.board import Options, build_board
from recbole_llm.provenance import weights_hash
from tests.leaderboard import fake


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


def test_readme_shows_a_failed_row_whole_and_refuses_lost_markers(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("SASRec", "Pop"):
        fake.write_run(tmp_path, name, fake.ranks(rng, 60, 1.0))
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=50))
    board["failed"] = [{"name": "a|b", "seed": 7, "reason": "no memory\nleft | gone"}]
    lines = readme.table(tmp_path, board, every_row=True).splitlines()[2:]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1  # as many cells in every line
    assert lines[-1].startswith(r"| – | a\|b | failed (seed 7): no memory left \| gone |")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "PAGES", tmp_path)
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}\nno end")
    with pytest.raises(ValueError, match="results:end --> once each"):
        readme.main(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == f"{readme.BEGIN}\nno end" and not list(tmp_path.glob("*.md.tmp"))

"""Benchmarks at tiny shapes: every way of training and of scoring runs, and what they write is what was measured."""

import json
import re

import numpy as np
import pytest
import yaml

from benchmarks import cpu, data, draws, gpu, readme, recommend
from recbole_llm import run_recbole_llm
from recbole_llm.leaderboard.board import Options
from recbole_llm.recommend.ranking import Ranker
from tests import tiny
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


@pytest.mark.parametrize("experts, likelihood, peak", [(4, "candidates", 1.25), (1, "vocabulary", 3.5)])
def test_the_cpu_benchmark_compares_pairs(tiny_data, tiny_llm, tmp_path, capsys, monkeypatch, experts, likelihood, peak):
    monkeypatch.setattr(cpu, "peak_of", lambda work, arguments: peak)
    monkeypatch.setattr(cpu, "DATASET", "tiny")
    short = {"users_per_list": 2, "user_token": True, "curriculum": "none"}
    monkeypatch.setattr(cpu, "SETTINGS", {**tiny.settings(tiny_data, tiny_llm, tmp_path), **cpu.SETTINGS, **short})
    arguments = [f"--llm_path={tiny_llm}", "--batch=3", "--length=40", "--micro_batch=2", "--repeats=2", "--dtype=float32"]
    status = cpu.main([*arguments, f"--experts={experts}", f"--likelihood_over={likelihood}", "--dropout=0.1"])
    lines = capsys.readouterr().out.splitlines()
    ratios = []
    for work in cpu.WORK:
        (line,) = [line for line in lines if line.startswith(work)]
        ratios.append(float(line.split("ratio ")[1].split()[0]))
        assert f"peak memory {peak:.2f} GB" in line
    assert min(ratios) > 0 and status == int(min(ratios) < 0.9 or peak > 3)


def test_pairs_take_turns_after_a_warm_up(monkeypatch):
    order, clock = [], iter(range(100))
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: next(clock))
    ours, plain = cpu.pairs(lambda: order.append("ours"), lambda: order.append("plain"), repeats=2)
    assert order == ["plain", "ours", "ours", "plain", "plain", "ours"] and ours == plain == [1, 1]


def test_a_peak_is_that_of_a_fresh_process(tiny_llm):
    small, large = (
        cpu.peak_of("scoring", [f"--llm_path={tiny_llm}", "--dtype=float32", f"--batch={rows}", f"--micro_batch={rows}"])
        for rows in (1, 24)
    )
    assert 0.1 < small < large < 8


def test_the_benchmark_of_data_reads_the_rows_that_recbole_reads(tmp_path):
    folder = data.write_rows(tmp_path, "rows", users=12, items=40)
    theirs, ours = (data.in_a_process(work, "rows", folder) for work in data.WORK)
    assert theirs["rows"] == 12 * 7 and ours["rows"] == 2 * 12  # all but a user's first; a validation and a test row of each
    assert min(found[key] for found in (theirs, ours) for key in ("seconds", "memory")) > 0


@pytest.fixture
def readme_copy(tmp_path, monkeypatch):
    """benchmarks.readme writing to a README and pages of this folder."""
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(readme, "stored_options", lambda *board: Options(resamples=200))
    (tmp_path / "README.md").write_text(f"# Title\n{readme.BEGIN}\nNo table yet.\n{readme.END}\nThe end.\n")
    return tmp_path


def test_readme_gets_ten_rows_with_one_interval_each(readme_copy):
    fake.write_table(readme_copy, n=80, seeds=(2020, 2021), dataset="ml-100k")  # ten models
    rng = np.random.default_rng(0)
    for name, seeds in (("iLoRA@K=2", (2020, 2021)), ("a|b", (2020,))):
        for seed in seeds:
            fake.write_run(readme_copy, name, fake.ranks(rng, 80, 3.0), seed, dataset="ml-100k")
    readme.main(str(readme_copy))
    text = (readme_copy / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10 and {line.split(" | ")[1] for line in rows} == fake.SKILLS.keys()
    assert all(line.count("[") == 1 and line.count(" | ") == 6 for line in rows)
    assert "2 more rows" in text and "No table yet" not in text and text.startswith("# Title\n") and text.endswith("\nThe end.\n")
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 160
    page = (readme_copy / "pages/ml-100k.candidates.md").read_text()
    assert "iLoRA@K=2" in page and "ndcg@10" in page


def test_names_with_marks_of_markdown_are_cells_of_their_own(readme_copy, monkeypatch):
    rng, name = np.random.default_rng(0), "a|b*c*`d`[e](f)<i>"
    monkeypatch.setattr(readme, "stored_options", lambda *board: Options(resamples=50, reference=name))
    for row, skill in ((name, 3.0), ("Pop", 1.0)):
        fake.write_run(readme_copy, row, fake.ranks(rng, 80, skill), dataset="ml-100k")
    readme.main(str(readme_copy))
    for file in (readme_copy / "README.md", readme_copy / "pages/ml-100k.candidates.md"):
        table = [line for line in file.read_text().splitlines() if line.startswith("|")][:4]
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1
        assert r"a\|b\*c\*\`d\`\[e](f)&lt;i>" in table[0] and sum(r"a\|b\*c" in line for line in table[2:]) == 1


def test_readme_stays_where_its_board_has_no_files(readme_copy):
    fake.write_run(readme_copy, "Pop", fake.ranks(np.random.default_rng(0), 60, 1.0))
    before = (readme_copy / "README.md").read_text()
    readme.main(str(readme_copy))
    assert (readme_copy / "README.md").read_text() == before and (readme_copy / "pages/made-up.candidates.md").is_file()


def test_boards_with_a_name_are_kept_beside_those_that_readme_shows(readme_copy):
    fake.write_run(readme_copy, "Pop", fake.ranks(np.random.default_rng(0), 60, 1.0), dataset="ml-100k")
    before = (readme_copy / "README.md").read_text()
    readme.main(str(readme_copy), "small")
    assert (readme_copy / "README.md").read_text() == before
    assert sorted(file.name for file in (readme_copy / "pages").iterdir()) == ["ml-100k.candidates.small.json", "ml-100k.candidates.small.md"]
    assert readme.main("--check") == 0


def test_readme_and_pages_here_are_what_their_boards_give():
    assert readme.PAGES / "ml-100k.candidates.md" in readme.texts() and readme.ROOT / "README.md" in readme.texts()
    assert not readme.differing() and readme.main("--check") == 0


def test_a_table_that_differs_from_its_board_fails(readme_copy, capsys):
    fake.write_table(readme_copy, n=80, seeds=(2020, 2021), dataset="ml-100k")
    assert readme.main(str(readme_copy)) == 0 == readme.main("--check")
    for name in ("README.md", "pages/ml-100k.candidates.md"):
        file = readme_copy / name
        right = file.read_text()
        figure = re.search(r"0\.\d{4} \[", right)[0]
        file.write_text(right.replace(figure, "0.9999 [", 1))
        assert readme.main("--check") == 1 and name in capsys.readouterr().out
        file.write_text(right)
    (readme_copy / "pages/ml-1m.full.md").write_text("By hand.")
    assert readme.main("--check") == 1 and "ml-1m.full.md" in capsys.readouterr().out


def test_a_board_whose_runs_all_failed_has_a_page(readme_copy):
    failure = {"dataset": "ml-100k", "protocol": "candidates", "name": "iLoRA", "model": "iLoRA", "seed": 2020, "reason": "RuntimeError: full"}
    (readme_copy / "ml-100k.candidates.iLoRA.seed2020.failed.json").write_text(json.dumps(failure))
    before = (readme_copy / "README.md").read_text()
    assert readme.main(str(readme_copy)) == 0 == readme.main("--check")
    assert (readme_copy / "README.md").read_text() == before and "failed" in (readme_copy / "pages/ml-100k.candidates.md").read_text()


def test_readme_refuses_lost_markers_and_empty_folders(readme_copy):
    with pytest.raises(FileNotFoundError, match="no result file"):
        readme.main(str(readme_copy))
    fake.write_run(readme_copy, "Pop", fake.ranks(np.random.default_rng(0), 60, 1.0), dataset="ml-100k")
    (readme_copy / "README.md").write_text(f"{readme.BEGIN}\nno end")
    with pytest.raises(ValueError, match="results:end --> once each"):
        readme.main(str(readme_copy))
    assert (readme_copy / "README.md").read_text() == f"{readme.BEGIN}\nno end" and not (readme_copy / "pages").exists()


def test_a_draw_of_candidates_has_the_ranks_of_a_run_with_it(tiny_data, tiny_llm, tmp_path, capsys):
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, candidate_seed=2)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["--model=LLaRA", "--dataset=tiny", f"--config_files={tmp_path / 'tiny.yaml'}"]
    record = draws.main([*arguments, "--draws=2", "--seeds=[2021]", f"--out={tmp_path / 'draws.json'}"])
    assert json.loads((tmp_path / "draws.json").read_text())["metrics"]["hit@1"]["model"] == record["metrics"]["hit@1"]["model"]
    shown = capsys.readouterr().out.splitlines()[1]
    classical = {key: value for key, value in settings.items() if not key.startswith(("crm", "llm", "train_sample"))}
    classical |= {**settings["crm_config"], "epochs": settings["crm_epochs"]}
    for model, config in (("LLaRA", settings), ("SASRec", classical)):
        run = run_recbole_llm(model, "tiny", config_dict={**config, "seed": 2021, "state": "ERROR"})
        assert f"{run['test_result']['hit@1']:.4f}" in shown
    assert shown.startswith("seed 2021, draw 2: hit@1 ") and shown.endswith(" (SASRec)")


def test_draws_need_a_model_with_a_crm():
    for wrong in (["--model=SASRec"], ["--model=LLaRA", "--protocol=full"], ["--model=LLaRA", "--draws=0"]):
        with pytest.raises(ValueError, match="compare an LLM recommender"):
            draws.main([*wrong, "--dataset=ml-100k", "--state=ERROR"])


def test_draws_are_compared_by_users_over_seeds_and_draws():
    model = np.array([[[1, 2, 1, 5], [1, 1, 9, 5]], [[1, 1, 1, 5], [1, 2, 1, 5]]])  # [2 seeds, 2 draws, 4 rows]
    reference = np.array([[[1, 1, 2, 5], [2, 1, 2, 5]], [[1, 1, 2, 5], [1, 1, 1, 5]]])
    found = draws.compared(model, reference, np.array(["a", "a", "b", "c"]), "hit@1")
    assert found["model"] == pytest.approx((4 + 2 + 3) / 16) and found["crm"] == pytest.approx((3 + 4 + 1) / 16)
    assert found["difference"] == pytest.approx(1 / 16)
    assert (found["won"], found["lost"]) == (1, 1)  # a: 6 of 8 against 7 of 8, b: 3 of 4 against 1 of 4, c: never
    assert found["interval"][0] < found["difference"] < found["interval"][1] and found["p"] > 0.3


def test_recommend_is_compared_with_evaluation_on_the_same_users(tiny_data, tiny_llm, tmp_path, capsys, monkeypatch):
    run = run_recbole_llm("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path))["result_file"]
    scored, score = [], Ranker.score
    monkeypatch.setattr("recbole_llm.recommend.ranking.Ranker.score", lambda self, batch: scored.append(len(batch)) or score(self, batch))
    monkeypatch.setattr(recommend, "TURN", 16)  # one batch
    status = recommend.main([run, "--users=40", "--repeats=1"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("recommend ")]
    ratio = float(line.split("ratio ")[1].split(",")[0])
    error = float(line.split("error ")[1].split()[0])
    assert scored[::2] == scored[1::2] == [16, 16, 8]
    assert ratio > 0 and error > 0 and status in (0, 1)
    monkeypatch.setattr(recommend, "measure", lambda *_: (0.9, 1.0, 0.04))
    assert recommend.main([run]) == 1
    monkeypatch.setattr(recommend, "measure", lambda *_: (0.9, 1.0, 0.06))
    assert recommend.main([run]) == 0

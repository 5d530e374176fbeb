"""The runner with runs that are made up: reuse, failures, killing and going on, progress. One real board at the end."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

import recbole_llm
from recbole_llm.cli.main import main
from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard import reuse, run, runner
from recbole_llm.leaderboard.run import run_leaderboard
from recbole_llm.results import result_file
from tests import tiny
from tests.leaderboard import fake

NAMES = "Random,Pop,BPR"


@pytest.fixture
def shared(tiny_data, tiny_llm, tmp_path):
    return tiny.settings(tiny_data, tiny_llm, tmp_path)


class Runs:
    """Stands in for `run_recbole_llm`: writes a plausible result file, counts, fails where told to."""

    def __init__(self, fail=(), kill=None):
        self.seen, self.fail, self.kill, self.seconds = [], set(fail), kill, 0.0

    def __call__(self, model, dataset, command_line):
        config = recbole_llm.LLMConfig(model, dataset, command_line=command_line)
        start = time.perf_counter()
        name = config["variant"] or model
        if len(self.seen) == self.kill:
            raise KeyboardInterrupt
        self.seen.append((name, config["seed"]))
        if name in self.fail:
            raise FloatingPointError("the training loss is not finite")
        wanted = reuse.expected(config)
        from recbole_llm.data.candidate_sets import candidate_sets

        test = candidate_sets(config).test
        rank = fake.ranks(np.random.default_rng(config["seed"]), len(test), 1.0, count=8)
        from recbole_llm.config.values import plain_values

        fake.write_run(
            config["result_dir"],
            name,
            rank,
            config["seed"],
            count=8,
            sha256=wanted["candidates"],
            dataset=dataset,
            users=test.user_ids.tolist(),
            items=test.item_ids.tolist(),
            code=wanted["code"],
            data=wanted["data"],
            versions=result_file.versions(),
            config=plain_values(config),
            llm=False,
            checks=None,
        )
        self.seconds += time.perf_counter() - start
        return {"result_file": str(result_file.result_path(config))}


def board(shared, runs, monkeypatch, models=NAMES, **more):
    monkeypatch.setattr(runner, "run_recbole_llm", runs)
    return run.run_leaderboard(models, "tiny", settings=shared, resamples=200, **more)


def test_finished_runs_are_reused_and_rerun_forces(shared, monkeypatch):
    first = Runs()
    frame = board(shared, first, monkeypatch, seeds=2)
    assert len(first.seen) == 6 and len(frame) == 3 and frame.attrs["failed"] == []
    second = Runs()
    again = board(shared, second, monkeypatch, seeds=2)
    assert second.seen == [] and again.equals(frame)
    third = Runs()
    board(shared, third, monkeypatch, seeds=3)
    assert [seed for _, seed in third.seen] == [2022] * 3
    forced = Runs()
    board(shared, forced, monkeypatch, seeds=2, rerun=True)
    assert len(forced.seen) == 6


def test_a_killed_leaderboard_goes_on_where_it_stopped(shared, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        board(shared, Runs(kill=4), monkeypatch, seeds=2)
    rest = Runs()
    frame = board(shared, rest, monkeypatch, seeds=2)
    assert rest.seen == [("BPR", 2020), ("BPR", 2021)] and len(frame) == 3


def test_one_failing_row_is_shown_with_its_reason_while_the_others_go_on(shared, monkeypatch, capsys):
    frame = board(shared, Runs(fail=["Pop"]), monkeypatch)
    assert [entry["name"] for entry in frame.attrs["failed"]] == ["Pop"] and len(frame) == 3
    (failed,) = frame[frame["failed"].notna()].to_dict("records")
    assert (
        failed["name"] == "Pop" and "seed 2020: FloatingPointError: the training loss is not finite" in failed["failed"]
    )
    text = Path(shared["result_dir"], "tiny.candidates.leaderboard.md").read_text()
    assert "failed (seed 2020): FloatingPointError" in text
    monkeypatch.setattr(runner, "run_recbole_llm", Runs(fail=["Pop"]))
    arguments = [f"--{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in shared.items()]
    assert main([f"--model={NAMES}", "--dataset=tiny", "--resamples=50", *arguments]) == 1
    assert "failed (seed 2020)" in capsys.readouterr().out
    mended = Runs()
    frame = board(shared, mended, monkeypatch)
    assert mended.seen == [("Pop", 2020)] and frame["failed"].isna().all()


def test_a_failed_reference_does_not_cost_the_page(shared, monkeypatch):
    frame = board(shared, Runs(fail=["BPR"]), monkeypatch, reference="BPR")
    (found,) = frame.attrs["boards"]
    assert len(frame.attrs["failed"]) == 1 and found["reference"] in ("Pop", "Random")
    assert f"the reference BPR failed; rows are compared with {found['reference']} instead" in found["warnings"]


def test_a_good_run_of_its_own_ends_a_failure(shared, monkeypatch):
    board(shared, Runs(fail=["Pop"]), monkeypatch)
    failure = Path(shared["result_dir"], "tiny.candidates.Pop.seed2020.failed.json")
    assert failure.is_file()
    Runs()("Pop", "tiny", {**shared, "protocol": "candidates", "seed": 2020})  # as `--model=Pop` alone would
    assert not failure.exists()


def test_a_row_that_cannot_be_tuned_is_shown_as_failed(shared, monkeypatch, tmp_path):
    from recbole_llm import fit

    space = tmp_path / "space.yaml"
    space.write_text("algorithm: exhaustive\nbudget: 1\nspaces: {Pop: {}, BPR: {choice: {embedding_size: [8]}}}\n")
    monkeypatch.setattr(fit, "fit", lambda config, saved=True: {}["no such key"])
    runs = Runs()
    frame = board(shared, runs, monkeypatch, models="Pop,BPR", tune=space)
    assert runs.seen == [("Pop", 2020)] and len(frame) == 2
    (failed,) = frame.attrs["failed"]
    assert failed["name"] == "BPR" and "every trial of BPR failed, the last with: 'no such key'" in failed["reason"]


def test_models_pick_rows_of_a_yaml_by_their_names_or_their_models(shared, monkeypatch, tmp_path):
    spec = {"models": ["Random", "BPR", {"name": "BPR@wide", "model": "BPR", "embedding_size": 32}], "reference": "Random"}
    runs = Runs()
    frame = board(shared, runs, monkeypatch, models="BPR,Pop", spec=spec)  # its reference is not among them
    assert [name for name, _ in runs.seen] == ["BPR", "BPR@wide", "Pop"] and len(frame) == 3
    assert frame.attrs["boards"][0]["options"]["reference"] is None
    runs = Runs()
    board(shared, runs, monkeypatch, models="BPR@wide", spec=spec, rerun=True)
    assert [name for name, _ in runs.seen] == ["BPR@wide"]
    with pytest.raises(ConfigError, match="reference: 'Random' is not among the rows"):
        board(shared, Runs(), monkeypatch, models="BPR", spec=spec, reference="Random")
    with pytest.raises(ConfigError, match="reference: 'Rendom' is not among the rows"):
        board(shared, Runs(), monkeypatch, models=None, spec={"models": ["Random"], "reference": "Rendom"})


def test_a_yamls_reference_may_be_a_row_of_an_earlier_call(shared, monkeypatch):
    spec = {"models": ["Random", "BPR", "Pop"], "reference": "Random"}
    board(shared, Runs(), monkeypatch, models="Random", spec=spec)
    (found,) = board(shared, Runs(), monkeypatch, models="BPR,Pop", spec=spec).attrs["boards"]
    assert found["reference"] == found["options"]["reference"] == "Random" and len(found["rows"]) == 3
    stored = json.loads((Path(shared["result_dir"]) / "tiny.candidates.leaderboard.json").read_text())
    assert stored["options"]["reference"] == "Random"


def test_what_is_given_goes_over_a_yamls_groups_but_not_over_a_rows_own_settings(shared):
    rows = ["BPR", {"name": "BPR@long", "model": "BPR", "epochs": 30}, "LLaRA"]
    spec = {"models": rows, "settings": {"epochs": 2, "seed": 5}, "llm": {"epochs": 3}, "baselines": {"epochs": 8}}
    chosen = run._merge(spec, datasets="tiny")
    shared.pop("epochs")
    for given, wanted in ({}, [8, 30, 3]), ({"epochs": 1}, [1, 30, 1]):
        groups = run._settings(chosen, shared | given)
        runs = run.make_plan(chosen["models"], "tiny", None, 1, *groups)
        assert [one.config["epochs"] for one in runs] == wanted
        assert {one.seed for one in runs} == {5 if "seed" not in shared else shared["seed"]}


def test_permutations_are_wanted_of_candidates_alone(shared):
    for protocol, wanted in ("candidates", 3), ("full", 0):
        more = {"protocol": protocol, "permutations": 3, "n_candidates": 8, "rerank_n": 5}
        config = recbole_llm.LLMConfig("iLoRA", "tiny", config_dict={**shared, **more})
        assert reuse.expected(config)["permutations"] == wanted


def test_other_candidates_in_the_folder_are_refused(shared, monkeypatch):
    board(shared, Runs(), monkeypatch)
    fake.write_run(
        shared["result_dir"], "FPMC", fake.ranks(np.random.default_rng(0), 40, 1.0, count=8), count=8, dataset="tiny"
    )
    frame = board(shared, Runs(), monkeypatch)
    assert sorted(frame["name"]) == ["BPR", "Pop", "Random"]
    (left_out,) = frame.attrs["boards"][0]["left_out"]
    assert "FPMC" in left_out["file"] and "other candidates" in left_out["reason"]


def test_nothing_runs_where_a_name_is_wrong(shared, monkeypatch):
    runs = Runs()
    with pytest.raises(ConfigError, match="Unknown model 'SASRek'"):
        board(shared, runs, monkeypatch, models="Random,Pop,SASRek")
    with pytest.raises(ConfigError, match="reference: 'SASRec' is not among the rows"):
        board(shared, runs, monkeypatch, reference="SASRec")
    assert runs.seen == [] and not Path(shared["result_dir"]).exists()


def test_variants_are_rows_of_their_own(shared, monkeypatch):
    frame = board(
        shared, Runs(), monkeypatch, models=["BPR", "BPR@embedding_size=8", {"BPR@wide": {"embedding_size": 128}}]
    )
    assert sorted(frame["name"]) == ["BPR", "BPR@embedding_size=8", "BPR@wide"] and set(frame["model"]) == {"BPR"}


def test_the_time_left_comes_from_like_runs(shared):
    runs = run.make_plan(NAMES, "tiny", None, 2, shared)
    progress = runner.Progress(runs)
    assert progress.left() is None
    progress.done(runs[0], seconds=10.0)
    assert progress.left() == 50.0
    progress.done(runs[1], seconds=20.0)
    progress.done(runs[2], seconds=100.0)
    assert progress.left() == pytest.approx(100 + 2 * (130 / 3))


@pytest.mark.parametrize(
    ("protocol", "metric", "complaint"),
    [("candidates", "recall@10", "use hit@k, ndcg@k or mrr@k"), ("candidates", "Hit@1", "does not follow from ranks"),
     ("ctr", "hit@1", "none of auc, gauc")],
)  # fmt: skip
def test_a_metric_that_rows_do_not_have_is_refused_before_anything_runs(protocol, metric, complaint, shared, monkeypatch):
    runs = Runs()
    monkeypatch.setattr(runner, "run_recbole_llm", runs)
    more = {"threshold": {"rating": 3}} if protocol == "ctr" else {}
    with pytest.raises(ConfigError, match=complaint):
        run.run_leaderboard("SASRec", "tiny", protocol, settings=shared | more, metric=metric)
    assert not runs.seen


def test_a_real_board_of_a_baseline_and_an_llm_and_its_reuse(tiny_data, tiny_llm, tmp_path, capsys):
    shared = tiny.settings(tiny_data, tiny_llm, tmp_path, train_sample_size=16, crm_epochs=1, permutations=2)
    arguments = [f"--{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in shared.items()]
    command = ["--model=Pop,iLoRA@K=2", "--dataset=tiny", "--resamples=200", *arguments]
    assert main(command) == 0
    record = json.loads((tmp_path / "results/tiny.candidates.iLoRA@K=2.seed2020.json").read_text())
    assert record["variant"] == "iLoRA@K=2" and record["config"]["num_experts"] == 2
    assert record["cost"]["latency_ms"]["p95"] >= record["cost"]["latency_ms"]["p50"] > 0
    assert record["checks"]["permutations"]["k"] == 2 and record["checks"]["leaks"] == {
        "rows": 40,
        "id_outside": 0,
        "title_outside": 0,
        "examples": [],
    }
    assert sum(record["checks"]["position"]["rows"]) == 40
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*seed*")}
    capsys.readouterr()
    assert main(command) == 0
    assert stamps == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*seed*")}
    assert "Bias checks" in capsys.readouterr().out


def test_config_files_name_protocol_and_dataset_over_a_spec(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "make_plan", lambda *given, **_: asked.append(given[:3]) or 1 / 0)
    file = tmp_path / "mine.yaml"
    file.write_text("protocol: full\ndataset: tiny\n")
    spec = {"models": ["Pop", "BPR"], "datasets": ["ml-100k"], "protocols": ["candidates"]}
    for given in ({"config_file_list": [file]}, {"settings": {"protocol": "full", "dataset": "tiny"}}):
        with pytest.raises(ZeroDivisionError):
            run_leaderboard(spec=spec, **given)
    with pytest.raises(ZeroDivisionError):
        run_leaderboard(spec=spec, protocols="ctr", config_file_list=[file])
    assert asked == [(["Pop", "BPR"], "tiny", "full")] * 2 + [(["Pop", "BPR"], "tiny", "ctr")]


def test_rows_that_would_be_tested_on_other_rows_are_refused_before_anything_trains(tiny_data, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_all", lambda *_: pytest.fail("trained"))
    rows = ["Pop", {"name": "BPR@few", "model": "BPR", "test_sample_size": 10}]
    with pytest.raises(ConfigError, match=r"tiny, candidates: rows would be tested on different rows or candidates \(.*: Pop; .*: BPR@few\)"):
        run_leaderboard(rows, "tiny", settings=tiny.settings(tiny_data, tiny_llm, tmp_path))

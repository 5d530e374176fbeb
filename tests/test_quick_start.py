import csv
import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.utils import get_model

from recbole_llm import ConfigError, LLMConfig, run_recbole_llm
from recbole_llm.cli.main import main
from recbole_llm.config.properties import properties_dir
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.training.checkpoint_files import read_state
from tests import gguf_files, tiny

MODELS = ["LLaRA", "iLoRA", "SASRec", "BPR", "Pop"]


@pytest.fixture(scope="module")
def results(tiny_data, tiny_llm, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    found = {}
    for model in MODELS:
        settings = tiny.settings(tiny_data, tiny_llm, out, epochs=1)
        if model in ("LLaRA", "iLoRA"):
            settings["llm_eval"] = "generate"
        else:
            settings = {k: v for k, v in settings.items() if not k.startswith(("crm", "llm", "train_sample"))}
        found[model] = run_recbole_llm(model, "tiny", config_dict=settings)
    return found


def record(outcome):
    return json.loads(Path(outcome["result_file"]).read_text())


def rows(outcome):
    path = Path(outcome["result_file"])
    with open(path.with_name(record(outcome)["rows"]), newline="") as file:
        return list(csv.DictReader(file))


def test_every_model_ranks_the_same_rows_and_candidates(results):
    records = [record(outcome) for outcome in results.values()]
    assert len({r["candidates"]["sha256"] for r in records}) == 1
    keys = [[(r["user_id"], r["item_id"], r["target_position"]) for r in rows(outcome)] for outcome in results.values()]
    assert all(k == keys[0] for k in keys) and len(keys[0]) == 40


@pytest.mark.parametrize("protocol", ["candidates", "full", "ctr"])
def test_a_sample_of_test_rows_is_the_same_for_baselines_and_llm_rows(protocol, tiny_data, tiny_llm, tmp_path, capsys):
    keys, hashes = [], set()
    for model in ("RecLoRA", "DIN", "BPR" if protocol == "ctr" else "LLaRA"):
        settings = tiny.settings(tiny_data, tiny_llm, tmp_path, protocol=protocol, test_sample_size=17, epochs=0, crm_epochs=0)
        settings |= {"rerank_n": 12, "crm_model": "SASRec", "latency_rows": 2}
        if protocol == "ctr":
            settings["eval_args"] = {"split": {"RS": [0.6, 0.2, 0.2]}}
            settings["load_col"] = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
        outcome = run_recbole_llm(model, "tiny", config_dict=settings)
        found = record(outcome)
        n = found["n_test_rows"]
        assert found["n_rows"] == 17 < n and f", 17 of {n} test rows" in capsys.readouterr().out
        hashes.add(found["candidates"]["sha256"])
        keys.append([(row["user_id"], row["item_id"]) for row in rows(outcome)])
    assert len(hashes) == 1 and all(key == keys[0] for key in keys) and len(set(keys[0])) == 17


def test_metrics_follow_from_the_stored_ranks(results):
    for outcome in results.values():
        ranks = np.array([int(row["rank"]) for row in rows(outcome)])
        metrics = record(outcome)["metrics"]
        assert metrics["hit@1"] == pytest.approx((ranks <= 1).mean(), abs=1e-4)
        assert metrics["hit@5"] == pytest.approx((ranks <= 5).mean(), abs=1e-4)
        assert metrics["ndcg@5"] == pytest.approx(np.where(ranks <= 5, 1 / np.log2(ranks + 1), 0).mean(), abs=1e-4)
        assert metrics["mrr@3"] == pytest.approx(np.where(ranks <= 3, 1 / ranks, 0).mean(), abs=1e-4)


def test_result_files_hold_schema_1(results):
    for model, outcome in results.items():
        found = record(outcome)
        assert found["schema"] == 1 and found["model"] == model and found["protocol"] == "candidates"
        assert found["n_rows"] == found["n_test_rows"] == 40 and found["candidates"]["count"] == 8
        assert set(found["seconds"]) == {"crm", "train", "evaluate"} and found["peak_memory_mb"] > 0
        plugin = model in ("LLaRA", "iLoRA")
        assert bool(found["llm"]) == bool(found["crm"]) == bool(found["generation"]) == plugin
        if plugin:
            assert 0 < found["llm"]["trainable_parameters"] and found["crm"]["model"] == "SASRec"
            assert set(found["generation"]) == {"valid_ratio", "hit@1_valid", "hit@1_all", "n"}
        assert {"versions", "commit", "config", "device"} <= found.keys()


def test_the_outcome_is_recboles_and_names_the_file(results):
    for outcome in results.values():
        assert {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"} <= outcome.keys()
        assert outcome["test_result"]["hit@1"] == record(outcome)["metrics"]["hit@1"]


def test_two_runs_with_one_seed_are_equal(results, tiny_data, tiny_llm, tmp_path):
    again = run_recbole_llm(
        "iLoRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, epochs=1, llm_eval="generate")
    )
    assert rows(again) == rows(results["iLoRA"]) and again["test_result"] == results["iLoRA"]["test_result"]


@pytest.mark.parametrize("model, protocol", [("LLaRA", "candidates"), ("RecLoRA", "ctr")])
def test_columns_of_other_names_give_the_same_rows(model, protocol, tiny_llm, tmp_path):
    found = []
    for names in ({}, {"user_id": "uid", "item_id": "movie", "rating": "stars", "timestamp": "when"}):
        data = tiny.write_dataset(tmp_path / f"data{len(names)}")
        for file in data.glob("tiny/*"):
            head, _, lines = file.read_text().partition("\n")
            for name, other in names.items():
                head = head.replace(f"{name}:", f"{other}:")
            file.write_text(f"{head}\n{lines}")
        keys = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "RATING_FIELD": "rating", "TIME_FIELD": "timestamp"}
        more = {key: names.get(name, name) for key, name in keys.items()} | {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}, "protocol": protocol}
        settings = tiny.settings(data, tiny_llm, tmp_path / f"out{len(names)}", train_sample_size=16, **more)
        settings |= {"load_col": {"inter": [more[key] for key in keys]}, "crm_config": {} if protocol == "ctr" else settings["crm_config"]}
        found.append(rows(run_recbole_llm(model, "tiny", config_dict=settings)))
    assert found[0] == found[1] and len(found[0]) >= 40


def test_plain_recbole_runs_and_reloads_a_plugin_model(tiny_data, tiny_llm, tmp_path, monkeypatch):
    from recbole.quick_start import load_data_and_model, run_recbole

    monkeypatch.setattr("sys.argv", ["script.py"])
    monkeypatch.chdir(tmp_path)
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path)
    outcome = run_recbole(model="iLoRA", dataset="tiny", config_dict=settings)
    (folder,) = (p for p in Path(settings["checkpoint_dir"]).iterdir() if p.name.startswith("iLoRA"))
    config, model, dataset, train, valid, test = load_data_and_model(str(folder))
    from recbole_llm.training.trainer import LLMTrainer

    trainer = LLMTrainer(config, model)
    assert trainer.evaluate(test, load_best_model=False) == outcome["test_result"]


def test_the_command_line_prints_the_table_last_and_errors_without_a_traceback(tiny_data, tiny_llm, tmp_path, capsys):
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path)
    arguments = [f"--{k}={v}" for k, v in settings.items() if k in ("data_path", "checkpoint_dir", "result_dir", "state")]
    arguments += ["--load_col={inter: [user_id, item_id, timestamp]}", "--n_candidates=8", "--show_progress=False"]
    assert main(["--model=Pop", "--dataset=tiny", "--epochs=1", *arguments]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("result file: ") and any(line.startswith("hit@1") for line in lines)
    assert main(["--model=iLora", "--dataset=tiny", *arguments]) == 2
    assert "Unknown model 'iLora'. Did you mean iLoRA" in capsys.readouterr().err
    assert main(["--model=Pop", "--dataset=tiny", "--epoch=1", "--seeed=3", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert "epoch: unknown key" in complaint and "'epochs'" in complaint and "seeed" in complaint


def test_a_non_finite_loss_stops_and_names_the_rows(tiny_data, tiny_llm, tmp_path, monkeypatch):
    from recbole_llm.model.llara import LLaRA

    monkeypatch.setattr(LLaRA, "forward", lambda self, batch: (torch.full((len(batch),), torch.nan), batch["answer_mask"].sum(1)))
    with pytest.raises(FloatingPointError, match=r"not finite at \(user, item\) rows \[\("):
        run_recbole_llm("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path))
    assert not (tmp_path / "results").exists()


def test_a_prompt_longer_than_the_context_names_the_settings(tiny_data, tmp_path):
    short = tiny.write_llm(tmp_path / "short", max_position_embeddings=64)
    with pytest.raises(ValueError, match="does not fit the LLM's context of 64; lower history_max_len"):
        run_recbole_llm("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, short, tmp_path))


def test_wrong_values_of_the_recommender_are_found_before_data_are_read(tiny_data, tiny_llm, tmp_path):
    wrong = {"crm_config": {"epochs": -1, "train_batch_size": 0}}
    with pytest.raises(ConfigError, match=r"2 problems(.|\n)*crm_config \(SASRec\): epochs: must be") as raised:
        run_recbole_llm("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **wrong))
    assert "crm_config (SASRec): train_batch_size: must be" in str(raised.value) and not (tmp_path / "saved").exists()


def test_a_run_that_cannot_go_on_is_told_before_a_recommender_is_trained(results, tiny_data, tiny_llm, tmp_path):
    result = Path(results["iLoRA"]["result_file"])
    run = (result.parent / record(results["iLoRA"])["checkpoint"]).resolve().parent
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, epochs=1, llm_eval="generate")
    for resume, more, error, words in (
        (tmp_path / "none", {}, FileNotFoundError, "no run of recbole_llm"),
        (run, {"learning_rate": 0.5}, ValueError, "learning_rate: run .*, here 0.5"),
    ):
        with pytest.raises(error, match=words):
            run_recbole_llm("iLoRA", "tiny", config_dict={**settings, "resume": str(resume), **more})
        assert not (tmp_path / "saved").exists()
    again = run_recbole_llm("iLoRA", "tiny", config_dict={**settings, "resume": str(run)})
    assert again["test_result"] == results["iLoRA"]["test_result"]


def test_the_answer_must_fit_too(tiny_data, tiny_llm, tmp_path):
    """The context is that of the longest prompt: nothing is left for its answer."""
    config = LLMConfig("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path))
    _, train, _, test = prepare_data(config)
    model = get_model("LLaRA")(config, train._dataset).eval()
    batch = next(iter(test))
    model.context_length = batch["prompt_ids"].shape[1] + batch["branch_ids"].shape[2] - 1
    assert torch.isfinite(model.score_candidates(batch)).all()
    model.context_length -= 1
    for work in model.score_candidates, model.generate:
        with pytest.raises(ValueError, match=r"a prompt of \d+ tokens, with \d+ of an answer, does not fit"):
            work(batch)
    train.set_epoch(0)
    batch = next(iter(train))
    model.context_length = batch["prompt_ids"].shape[1] + batch["answer_ids"].shape[1] - 2
    with pytest.raises(ValueError, match="of an answer, does not fit"):
        model.calculate_loss(batch)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"protocol": None}, "protocol: null .*choose candidates, full or ctr"),
        ({"eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user"}}, "has no test rows to report"),
        ({"eval_args": {"split": {"RS": [0.8, 0.2, 0]}, "order": "TO", "group_by": "user"}}, "has no test rows to report"),
    ],
)
def test_a_run_that_could_not_report_is_refused_before_it_trains(more, complaint, tiny_data, tiny_llm, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        run_recbole_llm("BPR", "tiny", config_dict={"data_path": str(tiny_data), "checkpoint_dir": str(tmp_path), **more})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_before_it_trains(tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    more = {"protocol": None, "result_dir": str(tmp_path / "file"), "variant": "SASRec"}
    with pytest.raises(ConfigError) as caught:
        run_recbole_llm("BPR", "tiny", config_dict={"data_path": str(tiny_data), "checkpoint_dir": str(tmp_path / "saved"), **more})
    assert [line.partition(":")[0] for line in caught.value.problems] == ["result_dir", "variant", "protocol"]
    assert not (tmp_path / "saved").exists()


def test_a_gguf_file_is_known_by_its_sha256_in_results_and_checkpoints(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_CACHE", str(tmp_path / "cache"))
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(tie=True, max_position_embeddings=1024), kind="Q8_0")
    outcome = run_recbole_llm("iLoRA", "tiny", config_dict=tiny.settings(tiny_data, file, tmp_path))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record(outcome)["llm"]["name"] == str(file) and record(outcome)["llm"]["sha256"] == sha256
    (best,) = (tmp_path / "saved").glob("*/best-*")
    assert read_state(best)["identity"]["llm_sha256"] == sha256


def test_what_an_llm_s_yaml_sets_is_said_once(tiny_data, tiny_llm, tmp_path, monkeypatch, caplog):
    root = shutil.copytree(properties_dir(), tmp_path / "properties")
    (root / "llm/small.yaml").write_text(f"llm_source: {{hub: {tiny_llm}}}\nlora_r: 4\nmodels: {{LLaRA: {{lora_alpha: 12}}}}\nepochs: 7\n")
    monkeypatch.setattr("recbole_llm.config.properties.properties_dir", lambda: root)
    with caplog.at_level(logging.INFO):
        outcome = run_recbole_llm("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, "small", tmp_path, epochs=0))
    lines = [line for line in caplog.messages if "small sets" in line]
    assert len(lines) == 1 and lines[0].strip().endswith("small sets lora_r=4, lora_alpha=12"), lines
    assert record(outcome)["config"]["lora_r"] == 4 and record(outcome)["config"]["epochs"] == 0


def test_a_result_of_other_settings_is_named_when_it_is_replaced(tiny_data, tiny_llm, tmp_path, caplog):
    settings = {key: value for key, value in tiny.settings(tiny_data, tiny_llm, tmp_path).items() if not key.startswith(("crm", "llm", "train_sample"))}
    warned = []
    for size in None, None, 9:
        caplog.clear()
        outcome = run_recbole_llm("Pop", "tiny", config_dict=settings | {"test_sample_size": size})
        warned.append([line for line in caplog.messages if "is replaced" in line])
    assert warned[:2] == [[], []]
    (line,) = warned[2]
    assert line.startswith(f"{outcome['result_file']} is replaced, its settings against this run's: test_sample_size None against 9;")

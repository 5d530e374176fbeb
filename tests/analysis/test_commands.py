"""Each analysis that trains again and again, by its command, against the result files of its runs."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_llm import fit
from recbole_llm.analysis import common
from recbole_llm.analysis.__main__ import NAMES, analyse, main
from recbole_llm.analysis.common import Request
from recbole_llm.analysis.shots import alone
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError
from recbole_llm.crm.settings import crm_config, crm_hash
from recbole_llm.crm.training import load_or_train, with_vectors
from recbole_llm.evaluation.preparation import prepare_data
from tests.analysis.conftest import CLICK


def command(name, *options, without=(), **settings):
    return [name, "--dataset=tiny", *options, *(f"--{key}={value}" for key, value in settings.items() if key not in without)]


def written(folder, pattern):
    """(JSON, CSV rows, page) of the one report that fits a pattern."""
    (path,) = folder.glob(pattern + "-*.html")
    with open(path.with_suffix(".csv"), newline="") as file:
        return json.loads(path.with_suffix(".json").read_text()), list(csv.DictReader(file)), path.read_text()


def records(folder, report):
    return [json.loads((folder / name).read_text()) for name in report["runs"]]


def test_shots_gives_a_table_a_plot_and_the_recommenders_line(settings, monkeypatch, capsys):
    trained, original = [], fit.fit
    monkeypatch.setattr(fit, "fit", lambda config, **more: trained.append(config["model"]) or original(config, **more))
    given = {key: value for key, value in settings(**CLICK).items() if key not in ("train_sample_size", "protocol")}
    arguments = command("shots", "--values=32,16,0.25", **given)
    assert main(arguments) == 0
    assert "DIN, alone: auc" in capsys.readouterr().out
    report, rows, page = written(settings.folder, "tiny.ctr.shots.RecLoRA")
    assert [int(row["x"]) for row in rows] == [16, 32, 64] and trained.count("RecLoRA") == 3 and trained.count("DIN") <= 1
    found = records(settings.folder, report)
    assert [record["train_sample"]["count"] for record in found] == [16, 32, 64]
    assert [float(row["auc"]) for row in rows] == pytest.approx([record["metrics"]["auc"] for record in found], abs=1e-4)
    assert len({record["crm"]["sha256"] for record in found}) == 1
    assert "Plotly" in page and 'src="http' not in page
    assert report["origin"]["training_rows"] == [16, 32, 64] and report["origin"]["seeds"] == [2020]
    assert f"Runs: 16, 32, 64 training rows, {found[0]['n_rows']} test rows, seed 2020, " in page
    monkeypatch.setattr(common, "run_recbole_llm", lambda *_, **__: pytest.fail("trained again"))
    assert main(arguments) == 0 and len(trained) == 4


@pytest.mark.parametrize("size", [None, 10])
def test_the_recommenders_line_is_what_it_gives_as_a_row_of_its_own(settings, size):
    """SASRec behind LLaRA, on LLaRA's test rows, against SASRec trained and tested by itself."""
    given = settings(train_sample_size=32, test_sample_size=size)
    report = analyse("shots", Request("tiny", ["LLaRA"], settings=given), values=[16, 32])
    own = crm_config(LLMConfig("LLaRA", "tiny", command_line=given))
    own["test_sample_size"] = size
    fitted = fit.fit(own)
    expected = fitted.trainer.evaluate(fitted.data[3], load_best_model=True)
    assert [record["n_rows"] for record in records(settings.folder, {"runs": report.runs})] == [len(fitted.trainer.eval_collector.rows().rank)] * 2
    assert report.data["lines"]["SASRec"] == pytest.approx(expected["hit@1"], abs=1e-4)
    assert report.protocol == "candidates" and [row["x"] for row in report.rows] == [16, 32]


@pytest.mark.parametrize("values, complaint", [
    ("99999", "99999 asks for 99999 of"), ("8,8", "each once"), ("x", "'x' is no count"), ("1.5", "1.5 is no count"), ("0", "0 asks for 0 of"),
])  # fmt: skip
def test_bad_sizes_are_named_before_anything_trains(values, complaint, settings, capsys, monkeypatch):
    monkeypatch.setattr(common, "run_recbole_llm", lambda *_, **__: pytest.fail("trained"))
    assert main(command("shots", f"--values={values}", **settings(**CLICK))) == 2
    assert complaint in capsys.readouterr().err


def test_experts_sweep_is_a_curve_over_k(settings):
    assert main(command("experts-sweep", "--values=4,1", "--seeds=2", **settings())) == 0
    report, rows, _ = written(settings.folder, "tiny.candidates.experts-sweep.iLoRA")
    found = records(settings.folder, report)
    assert [record["config"]["num_experts"] for record in found] == [1, 1, 4, 4] and {record["seed"] for record in found} == {2020, 2021}
    hits = [np.mean([record["metrics"]["hit@1"] for record in found[i : i + 2]]) for i in (0, 2)]
    assert [float(row["hit@1"]) for row in rows] == pytest.approx(hits, abs=1e-4) and [row["x"] for row in rows] == ["1", "4"]


def test_gate_has_figure_5s_rows(settings):
    report = analyse("gate", Request("tiny", settings=settings()))
    assert [row["label"].partition("@")[2] for row in report.rows] == [
        "sequence", "item_mean", "token_embedding", "random_embedding", "random", "uniform"]  # fmt: skip
    found = records(settings.folder, {"runs": report.runs})
    assert [record["config"]["gate_input"] for record in found] == [row["label"].partition("@")[2] for row in report.rows]
    for row, record in zip(report.rows, found, strict=True):
        assert row["hit@1"] == pytest.approx(record["metrics"]["hit@1"], abs=1e-4)
        assert row["difference"] == pytest.approx(row["hit@1"] - report.rows[0]["hit@1"])


def test_epochs_follows_every_validation(settings):
    report = analyse("epochs", Request("tiny", settings=settings(epochs=3, stopping_step=0)))
    assert [(row["model"], row["epoch"]) for row in report.rows] == [(m, e) for m in ("LLaRA", "iLoRA") for e in (1, 2, 3)]
    for record, rows in zip(records(settings.folder, {"runs": report.runs}), (report.rows[:3], report.rows[3:]), strict=True):
        assert [v["epoch"] for v in record["validations"]] == [1, 2, 3] and record["config"]["selection"] == "generation"
        assert [row["hit@1"] for row in rows] == [v["hit@1"] for v in record["validations"]]
        assert [row["valid_ratio"] for row in rows] == [v["valid_ratio"] for v in record["validations"]]
    clicks = analyse("epochs", Request("tiny", ["RecLoRA"], settings=settings(**CLICK, epochs=2)))
    assert [row["epoch"] for row in clicks.rows] == [1, 2] and all(0 <= row["auc"] <= 1 for row in clicks.rows)


def test_what_is_generated_after_epochs_is_trained_over_the_vocabulary(settings, monkeypatch):
    asked = []

    def result(self, case, seed):
        asked.append(case.settings)
        raise InterruptedError

    monkeypatch.setattr(Request, "result", result)
    for given in (settings(), settings(likelihood_over="candidates"), settings(**CLICK)):
        with pytest.raises(InterruptedError):
            analyse("epochs", Request("tiny", ["RecLoRA" if "crm_history_len" in given else "iLoRA"], settings=given))
    assert [case.get("likelihood_over") for case in asked] == ["vocabulary", None, None]


def test_history_changes_what_the_prompt_shows(settings):
    given = {key: value for key, value in settings(**CLICK).items() if key != "text_history_len"}
    report = analyse("history", Request("tiny", settings=given), values=(1, 3))
    found = records(settings.folder, {"runs": report.runs})
    assert [record["config"]["text_history_len"] for record in found] == [1, 3] and len(report.figures) == 2
    seconds = report.figures[1]["views"][0]["data"][0]
    assert seconds["y"] == pytest.approx([record["seconds"]["evaluate"] / record["n_rows"] for record in found])
    with pytest.raises(ConfigError, match="'epochs' is no length"):
        analyse("history", Request("tiny", settings=given), key="epochs")


def test_components_takes_one_part_away_at_a_time(settings):
    report = analyse("components", Request("tiny", settings=settings(**CLICK)))
    whole, lora, retriever, few = (record["config"] for record in records(settings.folder, {"runs": report.runs}))
    aside = {"variant", "MAX_ITEM_LIST_LENGTH"}
    for other, changed in ((lora, {"lora_mixing"}), (retriever, {"crm_history_len"}), (few, {"crm_rows"})):
        assert {key for key in whole if whole[key] != other[key]} - aside == changed
    assert retriever["crm_history_len"] == whole["text_history_len"] == 3
    assert report.rows[0]["p"] is None and all(0 <= row["p"] <= 1 for row in report.rows[1:])


def test_without_few2many_the_recommender_learns_from_the_llms_sample(settings):
    config = LLMConfig("RecLoRA", "tiny", command_line=settings(**CLICK, crm_rows="sample"))
    sample = prepare_data(config)[1]
    rows, feat = sample.batches.sample, sample._dataset.inter_feat
    own = prepare_data(crm_config(config))[1]._dataset.inter_feat
    assert len(own) == 32 < len(feat)
    assert own["item_id"].tolist() == feat["item_id"][rows].tolist() and own["label"].tolist() == feat["label"][rows].tolist()
    usual = LLMConfig("RecLoRA", "tiny", command_line=settings(**CLICK))
    assert len(prepare_data(crm_config(usual))[1]._dataset.inter_feat) == len(feat)
    assert crm_hash(crm_config(usual)) != crm_hash(crm_config(config))
    with pytest.raises(ConfigError, match="crm_rows: sample is for protocol 'ctr'"):
        LLMConfig("RecLoRA", "tiny", command_line=settings(**{**CLICK, "protocol": "candidates"}, crm_rows="sample"))


def test_the_command_names_what_is_wrong(capsys, settings):
    assert main([]) == 2 and "experts-sweep" in capsys.readouterr().out
    assert main(["expert", "--dataset=tiny"]) == 2 and "no analysis; choose experts" in capsys.readouterr().err
    assert main(["gate"]) == 2 and "dataset: give one" in capsys.readouterr().err
    assert main(["shots", "--dataset=tiny", *(f"--{k}={v}" for k, v in settings(**CLICK).items())]) == 2
    assert "give the sample sizes" in capsys.readouterr().err
    assert main(command("gate", "--model=SASRec", **settings())) == 2 and "SASRec is no LLM recommender" in capsys.readouterr().err
    assert main(command("gate", "--clusters=3", **settings())) == 2 and "clusters: unknown key" in capsys.readouterr().err
    for name in NAMES:
        assert main([name, "--help"]) == 0 and "Cost:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["experts", "experts-sweep", "gate"])
def test_models_without_a_gate_are_refused_before_anything_trains(name, monkeypatch, capsys):
    monkeypatch.setattr("recbole_llm.analysis.common.Request.result", lambda *_, **__: pytest.fail("it trained"))
    assert main([name, "--dataset=ml-100k", "--model=E4SRec"]) == 2
    assert f"{name}: E4SRec has no gate" in capsys.readouterr().err


def test_a_part_that_a_model_does_not_have_is_said_and_not_compared(settings, monkeypatch):
    asked = []
    monkeypatch.setattr("recbole_llm.analysis.components.beside", lambda name, request, cases: asked.extend(cases) or SimpleNamespace(head=[]))
    report = analyse("components", Request("tiny", ["LLaRA"], settings=settings(curriculum="none")))
    assert [case.label for case in asked] == ["LLaRA", "LLaRA@without behaviour tokens", "LLaRA@without tuning"]
    assert report.head == ["LLaRA has no curriculum with these settings (curriculum: none)."]
    with pytest.raises(ConfigError, match="nothing to take away"):
        analyse("components", Request("tiny", ["LLaRA"], settings=settings(curriculum="none", behaviour_tokens="none", epochs=0)))


def test_the_line_of_a_recommender_that_reads_retrieved_histories_is_that_of_the_runs(settings):
    """The DIN behind RecLoRA with `crm_history: relevant`, found again and tested on what it learnt to read."""
    given = settings(**CLICK, crm_history="relevant")
    line = alone(Request("tiny", ["RecLoRA"], settings=given), SimpleNamespace(metric="auc"))
    config = LLMConfig("RecLoRA", "tiny", command_line=given)
    dataset = prepare_data(config)[1]._dataset
    own = with_vectors(crm_config(config), config, dataset)
    trainer, data = fit.build(own)
    trainer.model.load_state_dict(load_or_train(config, dataset).model.state_dict())
    expected = trainer.evaluate(data[3], load_best_model=False)["auc"]  # calibration moves no rank
    assert line == {"DIN": pytest.approx(expected, abs=1e-4)}


def test_a_model_that_reads_no_recommender_has_no_line(settings):
    assert alone(Request("tiny", ["TALLRec"], settings=settings(protocol="ctr")), SimpleNamespace(metric="auc")) == {}

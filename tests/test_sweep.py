import csv
import json

import pytest

from recbole_llm import recommender, sweep
from tests import tiny


def settings(tiny_data, tiny_llm, out):
    return tiny.settings(
        tiny_data, tiny_llm, out, num_experts=2, crm_history_len=6, text_history_len=3, crm_epochs=1, latency_rows=0,
        crm_config={"train_batch_size": 64, "embedding_size": 4, "mlp_hidden_size": [8, 8]},
    )  # fmt: skip


def test_one_command_gives_a_table_and_a_plot(tiny_data, tiny_llm, tmp_path, capsys, monkeypatch):
    given = settings(tiny_data, tiny_llm, tmp_path)
    arguments = [f"--{key}={value}" for key, value in given.items() if key != "train_sample_size"]
    command = ["--dataset=tiny", "--sizes=32,16,0.25", *arguments]
    trained, fit = [], recommender.fit
    monkeypatch.setattr(recommender, "fit", lambda config, **more: trained.append(config["model"]) or fit(config, **more))
    assert sweep.main(command) == 0
    shown = capsys.readouterr().out
    assert "DIN alone, on all rows: AUC" in shown
    stem = tmp_path / "results" / "tiny.ctr.RecLoRA.sweep.seed2020"
    with open(f"{stem}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["sample"]) for row in rows] == [16, 32, 64]
    records = [
        json.loads((tmp_path / "results" / f"tiny.ctr.RecLoRA@n={n}.seed2020.json").read_text()) for n in (16, 32)
    ]
    assert [float(row["auc"]) for row in rows[:2]] == [record["metrics"]["auc"] for record in records]
    assert [record["train_sample"]["count"] for record in records] == [16, 32]
    assert len(records[0]["train_sample"]["rows"].split()) == 16
    assert len({record["crm"]["sha256"] for record in records}) == 1 and trained == ["DIN"] + ["RecLoRA"] * 3
    page = open(f"{stem}.html").read()
    assert "Plotly" in page and 'src="http' not in page
    monkeypatch.setattr(sweep, "run_recbole_llm", lambda *_: pytest.fail("trained again"))
    assert sweep.main(command) == 0 and len(trained) == 4


@pytest.mark.parametrize("sizes, complaint", [
    ("99999", "99999 asks for 99999 of"), ("8,8", "each once"), ("x", "'x' is no count"), ("1.5", "must lie between 0"),
    ("0", "0 asks for 0 of"),
])  # fmt: skip
def test_bad_sizes_are_named_before_anything_trains(sizes, complaint, tiny_data, tiny_llm, tmp_path, capsys):
    arguments = [
        f"--{key}={value}"
        for key, value in settings(tiny_data, tiny_llm, tmp_path).items()
        if key != "train_sample_size"
    ]
    assert sweep.main(["--dataset=tiny", f"--sizes={sizes}", *arguments]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "saved" / "crm").exists()


def test_the_sizes_must_be_given(capsys):
    assert sweep.main(["--dataset=tiny"]) == 2
    assert "give --dataset=NAME and --sizes=" in capsys.readouterr().err

"""Boards from files: what may stand in one table, planted differences found, outputs, rebuilding."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recbole_llm.leaderboard import __main__ as command
from recbole_llm.leaderboard.board import Options, build_board
from recbole_llm.leaderboard.files import boards, read_stored
from recbole_llm.leaderboard.render.latex import latex
from recbole_llm.leaderboard.render.markdown import markdown
from recbole_llm.leaderboard.report import FORMATS, data_frame, write_report
from tests.leaderboard import fake

QUICK = Options(resamples=500)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    fake.write_table(folder, n=600)
    return folder


@pytest.fixture(scope="module")
def board(table):
    return build_board(table, "ml-100k", "candidates", QUICK)


def test_a_planted_better_row_is_found_and_planted_equals_are_tied(board):
    rank = {row["name"]: row["rank"] for row in board["rows"]}
    assert rank["RecLoRA"] == 1 and rank["SASRec"] == rank["GRU4Rec"] == rank["LLaRA"] == 2
    assert rank["Random"] == 10 and rank["Pop"] == 9
    row = next(row for row in board["rows"] if row["name"] == "RecLoRA")
    assert (row["wins"], row["ties"], row["losses"]) == (9, 0, 0)
    assert row["vs_reference"]["hit@1"]["p_holm"] < 0.05 and row["vs_reference"]["hit@1"]["difference"] > 0
    assert row["vs_next"]["hit@1"]["p_holm"] < 0.05 and sum(row["users_against_reference"].values()) == 600


def test_a_sample_of_the_test_rows_says_of_how_many(board, tmp_path):
    assert "600 test rows of 600 users" in markdown(board) and "600 test rows." in latex(board)
    rng = np.random.default_rng(0)
    for name in ("SASRec", "BPR"):
        fake.write_run(tmp_path, name, fake.ranks(rng, 50, 1.0), n_test_rows=943)
    sampled = build_board(tmp_path, "made-up", "candidates", QUICK)
    assert (sampled["n_rows"], sampled["n_test_rows"]) == (50, 943)
    assert "50 of 943 test rows of 50 users" in markdown(sampled) and "50 of 943 test rows." in latex(sampled)
    fake.write_run(tmp_path, "Pop", fake.ranks(rng, 50, 1.0), n_test_rows=943, sha256="e" * 64)
    with pytest.raises(ValueError, match="different candidates and cannot stand in one table"):
        build_board(tmp_path, "made-up", "candidates", QUICK)


def test_means_are_over_seeds_with_their_deviation(board, table):
    row = next(row for row in board["rows"] if row["name"] == "BPR")
    seeds = [
        json.loads((table / f"ml-100k.candidates.BPR.seed{s}.json").read_text())["metrics"]["hit@1"]
        for s in row["seeds"]
    ]
    cell = row["metrics"]["hit@1"]
    assert cell["mean"] == pytest.approx(np.mean(seeds), abs=1e-4) and cell["sd"] == pytest.approx(
        np.std(seeds, ddof=1), abs=1e-4
    )
    assert cell["low"] < cell["mean"] < cell["high"] and cell["interval"] == "bootstrap"


def test_one_seed_uses_mcnemar_and_wilson_for_hits_and_the_bootstrap_for_the_rest(tmp_path):
    rng = np.random.default_rng(0)
    for name, skill in (("BPR", 1.0), ("SASRec", 1.5)):
        fake.write_run(tmp_path, name, fake.ranks(rng, 300, skill))
    (first, second) = build_board(tmp_path, "made-up", "candidates", QUICK)["rows"]
    assert first["metrics"]["hit@1"]["interval"] == "wilson" and first["metrics"]["ndcg@5"]["interval"] == "bootstrap"
    assert (
        second["vs_reference"]["hit@1"]["test"] == "mcnemar" and second["vs_reference"]["ndcg@5"]["test"] == "bootstrap"
    )


def test_few_rows_are_warned_about_with_the_smallest_detectable_difference(board, tmp_path):
    assert (
        board["warnings"] and "only 600 test rows" in board["warnings"][0] and "below about 0.0" in board["warnings"][0]
    )
    rng = np.random.default_rng(0)
    for name in ("BPR", "Pop"):
        fake.write_run(tmp_path, name, fake.ranks(rng, 1000, 1.0))
    assert build_board(tmp_path, "made-up", "candidates", QUICK)["warnings"] == []


def test_rows_that_read_different_weights_of_one_crm_are_warned_about(tmp_path):
    rng = np.random.default_rng(0)
    fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 1000, 1.0))
    for name, sha in (("LLaRA", "a"), ("iLoRA@K=2", "b"), ("iLoRA@K=8", "b")):
        fake.write_run(tmp_path, name, fake.ranks(rng, 1000, 1.0), llm=True, crm={"model": "SASRec", "sha256": sha * 64})
    (warning,) = build_board(tmp_path, "made-up", "candidates", QUICK)["warnings"]
    assert "SASRec of seed 2020: aaaaaaaaaaaa read by LLaRA; bbbbbbbbbbbb read by iLoRA@K=2, iLoRA@K=8" in warning
    # another seed has a CRM of its own, and another model is another CRM: neither is a mixture
    other = tmp_path / "other"
    for seed, sha in ((2020, "a"), (2021, "b")):
        for name, model in (("LLaRA", "SASRec"), ("iLoRA", "SASRec"), ("RecLoRA", "DIN")):
            read = {"model": model, "sha256": (sha if model == "SASRec" else "d") * 64}
            fake.write_run(other, name, fake.ranks(rng, 1000, 1.0), seed, llm=True, crm=read)
    assert build_board(other, "made-up", "candidates", QUICK)["warnings"] == []


def test_a_report_rebuilt_from_files_alone_equals_the_first(table, tmp_path, capsys):
    folder = tmp_path / "results"
    shutil.copytree(table, folder)
    write_report(folder, options=Options(resamples=200, metric="ndcg@10", reference="BPR"))
    written = {suffix: (folder / f"ml-100k.candidates.leaderboard.{suffix}").read_bytes() for suffix in FORMATS}
    for suffix in FORMATS:
        if suffix != "json":
            (folder / f"ml-100k.candidates.leaderboard.{suffix}").unlink()
    assert command.main(["report", str(folder)]) == 0
    assert "Δ ndcg@10 vs BPR" in capsys.readouterr().out
    assert {s: (folder / f"ml-100k.candidates.leaderboard.{s}").read_bytes() for s in FORMATS} == written


def test_several_boards_share_a_page(tmp_path):
    rng = np.random.default_rng(0)
    for dataset in ("one", "two"):
        for name in ("BPR", "SASRec"):
            fake.write_run(tmp_path, name, fake.ranks(rng, 40, 1.0), dataset=dataset)
    fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 40, 1.0, count=500), dataset="one", protocol="full", count=500)
    assert boards(tmp_path) == [("one", "candidates"), ("one", "full"), ("two", "candidates")]
    made = write_report(tmp_path, options=QUICK)
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count('<table class="board">') == 3 and len(data_frame(made)) == 5


def click_metrics(users, label, score):
    """AUC, LogLoss, ACC, and GAUC with users weighed by their liked rows, by scikit-learn."""
    own = [np.array(users) == user for user in dict.fromkeys(users)]
    own = [mine for mine in own if 0 < label[mine].sum() < mine.sum()]
    liked = np.array([label[mine].sum() for mine in own])
    values = {
        "auc": roc_auc_score(label, score),
        "gauc": np.average([roc_auc_score(label[mine], score[mine]) for mine in own], weights=liked),
        "logloss": log_loss(label, score),
        "acc": ((score >= 0.5) == label).mean(),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def test_ctr_boards_rank_by_auc_with_delong(tmp_path):
    from recbole_llm.results.result_file import write_result

    rng = np.random.default_rng(0)
    users = [f"u{i // 10}" for i in range(800)]
    label = rng.integers(0, 2, 800)
    for name, signal in (("DIN", 1.0), ("DeepFM", 0.2), ("SASRec", 0.9)):
        score = 1 / (1 + np.exp(-(signal * (2 * label - 1) + rng.normal(size=800))))
        metrics = click_metrics(users, label, score)
        if name == "SASRec":  # its scores are no probabilities
            metrics = {key: metrics[key] for key in ("auc", "gauc")}
        record = {
            "model": name,
            "dataset": "d",
            "protocol": "ctr",
            "seed": 1,
            "metrics": metrics,
            "candidates": {"count": None, "sha256": "a"},
        }
        rows = list(zip(users, [f"i{i}" for i in range(800)], label.tolist(), score.tolist(), strict=True))
        write_result(tmp_path / f"d.ctr.{name}.seed1.json", record, rows, ("user_id", "item_id", "label", "score"))
    board = build_board(tmp_path, "d", "ctr", QUICK)
    assert board["main"] == "auc" and [row["name"] for row in board["rows"]][-1] == "DeepFM"
    rows = {row["name"]: row for row in board["rows"]}
    assert rows["DeepFM"]["rank"] == 3 and rows["SASRec"]["metrics"]["logloss"]["mean"] is None
    assert (
        rows["DeepFM"]["vs_reference"]["auc"]["test"] == "delong"
        and rows["DIN"]["metrics"]["auc"]["interval"] == "delong"
    )
    for name, row in rows.items():
        there = json.loads((tmp_path / f"d.ctr.{name}.seed1.json").read_text())["metrics"]
        found = {key: metric["mean"] for key, metric in row["metrics"].items() if metric["mean"] is not None}
        assert found == pytest.approx(there, abs=1e-4)
    assert "–" in markdown(board)
    file = tmp_path / "d.ctr.DIN.seed1.json"
    record = json.loads(file.read_text())
    for metric in record["metrics"]:
        edited = {**record, "metrics": record["metrics"] | {metric: record["metrics"][metric] + 0.001}}
        file.write_text(json.dumps(edited))
        with pytest.raises(ValueError, match=f"{metric} is .* but its rows give"):
            read_stored(file)


def test_tables_hold_every_row_and_escape_what_they_print(table, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(table, folder)
    fake.write_run(
        folder, "iLoRA@a|b_&%<b>", fake.ranks(np.random.default_rng(0), 600, 1.0), dataset="ml-100k", llm=True
    )
    failure = {
        "schema": 1,
        "name": "FPMC",
        "model": "FPMC",
        "dataset": "ml-100k",
        "protocol": "candidates",
        "seed": 9,
        "reason": "ValueError: a | b",
    }
    (folder / "ml-100k.candidates.FPMC.seed9.failed.json").write_text(json.dumps(failure))
    board = build_board(folder, "ml-100k", "candidates", Options(resamples=50))
    text = markdown(board)
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| rank")]
    table_lines = [line for line in lines if line.count(" | ") > 5]
    assert len(table_lines) == 12 and "iLoRA@a\\|b_&%&lt;b>" in text and "failed (seed 9): ValueError: a \\| b" in text
    assert "not our protocol" in text and "0.4421" in text
    tex = latex(board)
    assert r"\toprule" in tex and r"iLoRA@a|b\_\&\%<b>" in tex and tex.count(r"\\") == 13
    caption = tex[tex.index(r"\caption") :]  # says what the table shows, and against which row its differences are
    assert "95" not in caption and "W/T/L" not in caption and rf"against {board['reference']}" in caption
    frame = data_frame([board])
    assert len(frame) == 12 and frame["failed"].notna().sum() == 1 and frame.loc[0, "hit@1_low"] < frame.loc[0, "hit@1"]
    from recbole_llm.leaderboard.report import comma_separated

    rows = list(csv.DictReader(io.StringIO(comma_separated(board))))
    assert len(rows) == 12 and rows[0]["name"] == "RecLoRA" and rows[0]["candidates_sha256"] == fake.SHA


def test_compare_prints_paired_tests_and_refuses_other_candidates(table, tmp_path, capsys):
    a, b = (str(table / f"ml-100k.candidates.{name}.seed2020.json") for name in ("RecLoRA", "BPR"))
    assert command.main(["compare", a, b, "--resamples=200"]) == 0
    out = capsys.readouterr().out
    assert "600 common test rows" in out and "mcnemar" in out and "hit@1" in out
    rng = np.random.default_rng(0)
    other = fake.write_run(tmp_path, "BPR", fake.ranks(rng, 600, 1.0), dataset="ml-100k", sha256="e" * 64)
    assert command.main(["compare", a, str(other)]) == 2
    assert "ranked different candidates" in capsys.readouterr().err


def test_an_unknown_metric_or_reference_is_an_error(table):
    with pytest.raises(ValueError, match="'SASREC' is not a row"):
        build_board(table, "ml-100k", "candidates", Options(resamples=50, reference="SASREC"))
    with pytest.raises(ValueError, match="'auc' does not follow from ranks"):
        build_board(table, "ml-100k", "candidates", Options(resamples=50, metric="auc"))
    assert build_board(table, "ml-100k", "candidates", Options(resamples=50, metric="mrr@5"))["main"] == "mrr@5"


def test_calibration_and_validation_are_said_in_every_format(tmp_path):
    rng = np.random.default_rng(0)
    more = {"calibrated": "platt", "valid": {"hit@1": 0.375}}
    fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 50, 1.0), **more)
    fake.write_run(tmp_path, "Pop", fake.ranks(rng, 50, 1.0))
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=50))
    tex, (frame,) = latex(board), [data_frame([board]).set_index("name")]
    assert "SASRec (platt-calibrated)" in markdown(board) and "SASRec (platt-calibrated)" in tex
    assert frame.loc["SASRec", "calibrated"] == "platt" and frame.loc["SASRec", "valid_hit@1"] == 0.375
    validation = tex.split(r"\end{table}")[1]
    assert "SASRec & 0.3750" in validation and "Pop & --" in validation and tex.count(r"\begin{table}") == 2


def test_histories_of_different_lengths_are_warned_about(tmp_path):
    rng = np.random.default_rng(0)
    for name, length in (("SASRec", 10), ("E4SRec", 50)):
        fake.write_run(tmp_path, name, fake.ranks(rng, 50, 1.0), config={"MAX_ITEM_LIST_LENGTH": length})
    board = build_board(tmp_path, "made-up", "candidates", QUICK)
    assert any("different lengths (10 by SASRec; 50 by E4SRec)" in warning for warning in board["warnings"])

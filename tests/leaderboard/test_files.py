"""Which result files may stand in one table: others are refused or left out, with the reason."""

import json

import numpy as np
import pytest

from recbole_llm.leaderboard import __main__ as command
from recbole_llm.leaderboard.board import Options, build_board
from recbole_llm.leaderboard.compare import compare_files
from recbole_llm.leaderboard.contents import load_board
from recbole_llm.leaderboard.files import read_stored
from tests.leaderboard import fake

QUICK = Options(resamples=500)


def test_another_candidate_hash_is_refused_not_mixed(tmp_path):
    rng = np.random.default_rng(0)
    fake.write_run(tmp_path, "BPR", fake.ranks(rng, 50, 1.0))
    other = fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 50, 1.0), sha256="f" * 64)
    with pytest.raises(ValueError, match="different candidates.*BPR.*ffffffffffff: .*SASRec"):
        build_board(tmp_path, "made-up", "candidates", QUICK)
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=50, candidates=fake.SHA[:8]))
    assert [row["name"] for row in board["rows"]] == ["BPR"]
    assert board["left_out"] == [
        {"file": other.name, "reason": f"other candidates: sha256 ffffffffffff, the table's is {fake.SHA[:8]}"}
    ]
    with pytest.raises(ValueError, match="no result file has candidates of sha256 123"):
        build_board(tmp_path, "made-up", "candidates", Options(candidates="123"))


@pytest.mark.parametrize("digits", ["a", ""])
def test_digits_that_several_candidate_hashes_begin_with_are_refused(tmp_path, digits):
    rng = np.random.default_rng(0)
    for name, sha256 in (("BPR", "a1" * 32), ("Pop", "a1" * 32), ("SASRec", "a2" * 32)):
        fake.write_run(tmp_path, name, fake.ranks(rng, 50, 1.0), sha256=sha256)
    with pytest.raises(ValueError, match=rf"--candidates={digits} is .*several.*: a1a1a1a1a1a1, a2a2a2a2a2a2; give more digits"):
        load_board(tmp_path, "made-up", "candidates", digits)
    assert set(load_board(tmp_path, "made-up", "candidates", "a1").kept) == {"BPR", "Pop"}


def test_results_of_an_earlier_version_are_refused_with_the_reason(tmp_path):
    rng = np.random.default_rng(0)
    fake.write_run(tmp_path, "BPR", fake.ranks(rng, 50, 1.0))
    fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 50, 1.0), sha256="f" * 64, rows=None)
    reason = r"\(made by an earlier version, which put interactions in order by times of 32 bits: run it again\)"
    with pytest.raises(ValueError, match=rf"BPR.seed2020.json; ffffffffffff: .*SASRec.seed2020.json {reason}"):
        build_board(tmp_path, "made-up", "candidates", QUICK)
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=50, candidates=fake.SHA[:8]))
    assert "times of 32 bits" in board["left_out"][0]["reason"]


def test_another_row_set_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("BPR", "Pop"):
        fake.write_run(tmp_path, name, fake.ranks(rng, 50, 1.0))
    fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 50, 1.0), users=[f"v{i}" for i in range(50)])
    board = build_board(tmp_path, "made-up", "candidates", QUICK)
    assert [item["file"] for item in board["left_out"]] == ["made-up.candidates.SASRec.seed2020.json"]
    assert "other test rows" in board["left_out"][0]["reason"] and len(board["rows"]) == 2


def test_no_common_rows_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    a = fake.write_run(tmp_path, "BPR", fake.ranks(rng, 20, 1.0))
    b = fake.write_run(tmp_path, "Pop", fake.ranks(rng, 20, 1.0), users=[f"v{i}" for i in range(20)])
    with pytest.raises(ValueError, match="nothing to compare"):
        build_board(tmp_path, "made-up", "candidates", QUICK)
    with pytest.raises(ValueError, match="no common test row"):
        compare_files(a, b)


def test_seeds_of_a_row_must_agree_in_configuration(tmp_path):
    rng = np.random.default_rng(0)
    for seed, epochs in ((1, 1), (2, 1), (3, 5)):
        fake.write_run(tmp_path, "BPR", fake.ranks(rng, 50, 1.0), seed, config={"epochs": epochs})
    contents = load_board(tmp_path, "made-up", "candidates")
    assert [entry.record["seed"] for entry in contents.kept["BPR"]] == [1, 2]
    assert "epochs 5 against 1" in contents.left_out[0]["reason"]
    preferred = load_board(tmp_path, "made-up", "candidates", prefer=["made-up.candidates.BPR.seed3.json"])
    assert [entry.record["seed"] for entry in preferred.kept["BPR"]] == [3]


def test_a_copied_file_is_no_second_seed(tmp_path):
    path = fake.write_run(tmp_path, "BPR", fake.ranks(np.random.default_rng(0), 50, 1.0))
    copy = path.with_name(path.name.replace(".json", ".copy.json"))  # before the run's own name in the alphabet
    copy.write_bytes(path.read_bytes())
    contents = load_board(tmp_path, "made-up", "candidates")
    assert [entry.path for entry in contents.kept["BPR"]] == [path]
    reason = f"seed 2020 of BPR a second time, beside {path.name}: remove one of the two"
    assert contents.left_out == [{"file": copy.name, "reason": reason}]
    preferred = load_board(tmp_path, "made-up", "candidates", prefer=[copy.name])
    assert [entry.path for entry in preferred.kept["BPR"]] == [copy] and preferred.left_out[0]["file"] == path.name


def test_seeds_of_a_row_must_agree_in_data(tmp_path):
    rng = np.random.default_rng(0)
    for seed, data in (1, "a" * 64), (2, "b" * 64), (3, "b" * 64):
        fake.write_run(tmp_path, "BPR", fake.ranks(rng, 50, 1.0), seed, data=data)
    contents = load_board(tmp_path, "made-up", "candidates")
    assert [entry.record["seed"] for entry in contents.kept["BPR"]] == [2, 3]
    (left,) = contents.left_out
    assert left["file"].endswith("BPR.seed1.json") and "data hash 'aaaaaaaaaaaa' against 'bbbbbbbbbbbb'" in left["reason"]


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"schema": 2}, "schema 2"),
        ({"n_rows": 9}, "50 rows, .* says 9"),
        ({"metrics": {"hit@1": 0.99}}, "hit@1 is 0.99 but its rows give"),
        ({"protocol": "other"}, "protocol 'other' is unknown"),
        ({"rows": "gone.csv"}, "gone.csv are not beside it"),
        ({"rows_sha256": "0" * 64}, "rows.csv beside it was edited, or is of another run"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, complaint):
    path = fake.write_run(tmp_path, "BPR", fake.ranks(np.random.default_rng(0), 50, 1.0))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=complaint):
        read_stored(path)


def test_a_folder_without_results_says_so(tmp_path, capsys):
    assert command.main(["report", str(tmp_path)]) == 2
    assert "holds no result file" in capsys.readouterr().err
    assert command.main(["report", str(tmp_path / "none")]) == 2
    (tmp_path / "a.json").write_text('{"schema": 7}')
    assert command.main(["report", str(tmp_path)]) == 2
    assert "schema 7" in capsys.readouterr().err


def test_seeds_of_one_row_may_carry_what_the_row_never_reads(tmp_path):
    """A run of its own that was given an LLM's setting is reused by a board, and so it stands in the board's row."""
    rng = np.random.default_rng(0)
    for seed, more in ((2020, {"train_sample_size": 1000, "val_interval": None}), (2021, {})):
        config = {"model": "BPR", "seed": seed, "epochs": 1, **more}
        fake.write_run(tmp_path, "BPR", fake.ranks(rng, 40, 1.0), seed=seed, config=config)
    fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 40, 2.0), seed=2020)
    (row,) = [row for row in build_board(tmp_path, "made-up", "candidates", QUICK)["rows"] if row["name"] == "BPR"]
    assert row["seeds"] == [2020, 2021]


def test_seeds_that_were_resumed_or_ran_elsewhere_stay_in_their_row(tmp_path):
    rng = np.random.default_rng(0)
    for seed, more in (1, {"resume": None, "nproc": 1}), (2, {"resume": "auto", "nproc": 2}):
        fake.write_run(tmp_path, "LLaRA", fake.ranks(rng, 50, 1.0), seed, config={"model": "LLaRA", "seed": seed, **more})
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=50))
    assert board["rows"][0]["seeds"] == [1, 2] and board["left_out"] == []


def test_a_sample_of_the_test_rows_beside_all_of_them_is_named(tmp_path):
    rng = np.random.default_rng(0)
    whole = fake.write_run(tmp_path, "BPR", fake.ranks(rng, 50, 1.0))
    part = fake.write_run(tmp_path, "SASRec", fake.ranks(rng, 50, 1.0), sha256="f" * 64, config={"test_sample_size": 50})
    reason = r"\(test_sample_size: 50, which files of one table share\)"
    with pytest.raises(ValueError, match=rf"different candidates.*SASRec.seed2020.json {reason}"):
        build_board(tmp_path, "made-up", "candidates", QUICK)
    with pytest.raises(ValueError, match=rf"SASRec.*{reason} ranked different candidates"):
        compare_files(whole, part)


def test_metrics_are_compared_with_their_rows_to_the_places_that_recbole_rounds_to(tmp_path):
    ranks = np.array([1] * 512 + [2] * 488 + [3] * 7)
    path = fake.write_run(tmp_path, "BPR", ranks, config={"metric_decimal_place": 2})
    record = json.loads(path.read_text())
    record["metrics"] = {name: round(value, 2) for name, value in record["metrics"].items()}
    path.write_text(json.dumps(record))
    assert read_stored(path).record["metrics"]["hit@1"] == 0.51
    path.write_text(json.dumps({**record, "config": {}}))
    with pytest.raises(ValueError, match="but its rows give"):
        read_stored(path)

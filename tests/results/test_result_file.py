import csv
import errno
import hashlib
import json
import os

import pytest

from recbole_llm.results import result_file

CONFIG = {"dataset": "tiny", "protocol": "candidates", "model": "LLaRA", "seed": 7}
ROWS = [("u1", "i3", 1, 4), ("u2", "Beyoncé, \"live\"", 20, 0)]


def record(**more):
    return {**CONFIG, "metrics": {"hit@1": 0.5}, **more}


def test_result_files_are_named_by_dataset_protocol_model_and_seed(tmp_path):
    path = result_file.result_path({**CONFIG, "result_dir": str(tmp_path)})
    assert path == tmp_path / "tiny.candidates.LLaRA.seed7.json"


def test_a_result_reads_back_with_its_rows(tmp_path):
    path = result_file.write_result(tmp_path / "new" / "a.json", record(), ROWS)
    back = result_file.read_result(path)
    digest = hashlib.sha256(path.with_name("a.rows.csv").read_bytes()).hexdigest()
    assert back == {"schema": 1, **record(), "n_rows": 2, "rows": "a.rows.csv", "rows_sha256": digest}
    with open(path.with_name("a.rows.csv"), encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["user_id", "item_id", "rank", "target_position"]
    assert [tuple(line) for line in lines[1:]] == [tuple(map(str, row)) for row in ROWS]


def test_a_full_disk_leaves_the_earlier_files_and_names_the_remedy(tmp_path, monkeypatch):
    path = result_file.write_result(tmp_path / "a.json", record(), ROWS)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(result_file.os, "replace", full)
    with pytest.raises(OSError, match="No space left on device while writing .*a.json; free some space"):
        result_file.write_result(path, record(metrics={"hit@1": 0.9}), ROWS)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_rows_of_another_run_beside_a_record_are_named(tmp_path):
    path = result_file.write_result(tmp_path / "a.json", record(), ROWS)
    assert result_file.check_rows(path, result_file.read_result(path)) == tmp_path / "a.rows.csv"
    newer = result_file.write_result(tmp_path / "new" / "a.json", record(), ROWS[::-1])  # as many rows, the same metrics
    os.replace(newer.with_name("a.rows.csv"), tmp_path / "a.rows.csv")  # and a kill before its record came
    with pytest.raises(ValueError, match="a.json: a.rows.csv beside it was edited, or is of another run"):
        result_file.check_rows(path, result_file.read_result(path))
    of_earlier_version = {key: value for key, value in result_file.read_result(path).items() if key != "rows_sha256"}
    assert result_file.check_rows(path, of_earlier_version).name == "a.rows.csv"


def test_metrics_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="metrics are not finite"):
        result_file.write_result(tmp_path / "a.json", record(metrics={"hit@1": float("nan")}), ROWS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text, complaint", [("{", "not a result file"), (json.dumps({"schema": 9}), "schema 9")])
def test_other_files_are_refused(tmp_path, text, complaint):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        result_file.read_result(tmp_path / "a.json")


def test_a_file_that_is_not_there_names_those_most_like_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"a.json is no result file \(<dataset>.*{tmp_path}/ holds none: run a model first"):
        result_file.read_result(tmp_path / "a.json")
    for name in ("SASRec.seed1", "LLaRA.seed1", "LLaRA.seed2", "iLoRA.seed1", "iLoRA.seed2.failed", "iLoRA.seed.tuning"):
        (tmp_path / f"tiny.candidates.{name}.json").write_text("{}")
    near = ", ".join(f"tiny.candidates.{name}.json" for name in ("iLoRA.seed1", "LLaRA.seed1", "LLaRA.seed2"))
    for path in (tmp_path / "tiny.candidates.iLora.seed1.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path.name} is no result file .*; of 4 in {tmp_path}/: .*") as caught:
            result_file.read_result(path)
        assert path == tmp_path or str(caught.value).endswith(near)


def test_versions_name_what_shapes_a_result():
    found = result_file.versions()
    assert found["recbole"] == "1.2.1" and all(found[name] for name in ("python", "torch", "transformers", "peft"))
    assert result_file.peak_memory_mb() > 50

"""When an earlier result stands for a run that is asked for: everything that decides its rows must agree."""

import re

import pytest

from recbole_llm.data.fingerprint import ROWS
from recbole_llm.leaderboard import reuse

CONFIG = {"model": "iLoRA", "epochs": 1, "seed": 1}
WANTED = {
    "config": CONFIG,
    "versions": {"torch": "2"},
    "code": "c",
    "data": "d",
    "candidates": "s",
    "llm": "w",
    "crm": "f",
    "permutations": 2,
    "latency_rows": 0,
}
RECORD = {
    "config": CONFIG | {"result_dir": "/elsewhere", "show_progress": True, "gpu_id": "3", "save_steps": 5},
    "versions": {"torch": "2", "python": "3"},
    "code": "c",
    "data": "d",
    "candidates": {"sha256": "s"},
    "llm": {"sha256": "w"},
    "crm": {"sha256": "f"},
    "checks": {"permutations": {"k": 3}},
}


def test_a_record_that_agrees_in_everything_is_reused():
    assert reuse.differences(RECORD, WANTED) == []


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"config": CONFIG | {"epochs": 2}}, "epochs was 2, is 1"),
        ({"config": {"model": "iLoRA", "seed": 1}}, "epochs was None, is 1"),
        ({"config": CONFIG | {"seed": 2}}, "seed was 2, is 1"),
        ({"config": CONFIG | {"encoding": "latin-1"}}, "encoding was 'latin-1', is None"),  # it changes titles
        ({"versions": {"torch": "1"}}, "torch was 1, is 2"),
        ({"code": "other"}, "code is another"),
        ({"data": "other"}, "dataset's files are others"),
        ({"candidates": {"sha256": "other"}}, r"candidates \(sha256\) are others"),
        ({"llm": {"sha256": "other"}}, "LLM's weights are others"),
        ({"crm": {"sha256": "other"}}, "crm_path is another"),
        ({"checks": {"permutations": {"k": 1}}}, "permutations: 1 done, 2 wanted"),
        ({"checks": None}, "permutations: 0 done, 2 wanted"),
    ],
)
def test_each_ingredient_that_differs_is_a_reason_to_run_again(change, reason):
    (found,) = reuse.differences(RECORD | change, WANTED)
    assert re.search(reason, found)


def test_a_result_of_a_given_crm_is_not_one_of_a_crm_trained_here():
    record = RECORD | {"config": CONFIG | {"crm_path": "sasrec.safetensors"}}
    assert reuse.differences(record, WANTED | {"crm": None}) == ["crm_path was 'sasrec.safetensors', is None"]


def test_what_a_baseline_never_reads_does_not_make_its_result_stale():
    assert "lora_r" in reuse.llm_keys() and "epochs" not in reuse.llm_keys() and "n_candidates" not in reuse.llm_keys()
    assert reuse.comparable({"epochs": 1, "lora_r": 4}, plugin=False) == {"epochs": 1}
    assert reuse.comparable({"epochs": 1, "lora_r": 4, "variant": "x"}, plugin=True) == {"epochs": 1, "lora_r": 4}


def test_more_latency_rows_than_were_measured_are_measured():
    wanted = {"config": {}, "versions": {}, "code": 1, "data": 1, "candidates": "a", "llm": None, "crm": None, "permutations": 0, "latency_rows": 32}
    record = {"code": 1, "data": 1, "candidates": {"sha256": "a", "rows": ROWS}, "config": {"latency_rows": 0}}
    assert reuse.differences(record, wanted) == ["latency_rows was 0, is 32"]
    assert not reuse.differences({**record, "config": {"latency_rows": 64}}, wanted)

"""Rows by their names and from YAML."""

import pytest

from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard.entries import Entry, parse_entries


def test_variants_from_names_and_from_yaml():
    entries = parse_entries(
        [
            "SASRec",
            "iLoRA@K=8",
            "LLaRA@behaviour_tokens=none+lora_r=4",
            {"iLoRA@small": {"lora_r": 4}},
            {"name": "LLaRA@other", "model": "LLaRA", "llm_path": "some/llm"},
        ]
    )
    assert entries == [
        Entry("SASRec", "SASRec"),
        Entry("iLoRA@K=8", "iLoRA", {"num_experts": 8}),
        Entry("LLaRA@behaviour_tokens=none+lora_r=4", "LLaRA", {"behaviour_tokens": "none", "lora_r": 4}),
        Entry("iLoRA@small", "iLoRA", {"lora_r": 4}),
        Entry("LLaRA@other", "LLaRA", {"llm_path": "some/llm"}),
    ]


def test_one_unknown_model_among_ten_is_named_with_the_duplicates_and_bad_variants():
    names = "Random,Pop,ItemKNN,BPR,FPMC,GRU4Rec,SASRek,LLaRA,iLoRA@K,Pop".split(",")
    with pytest.raises(ConfigError) as caught:
        parse_entries(names)
    text = str(caught.value)
    assert (
        "Unknown model 'SASRek'. Did you mean SASRec" in text
        and "'Pop' is listed twice" in text
        and "key=value" in text
    )
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="listed twice"):
        parse_entries(["iLoRA@llm_path=a/b", "iLoRA@llm_path=a_b"])  # one file name


@pytest.mark.parametrize("key, remedy", [
    ("seed", "give --seed or --seeds"), ("protocol", "give --protocol"), ("dataset", "give --dataset"), ("result_dir", "give --result_dir"),
    ("variant", "{name: ..., model: ...}"), ("model", "what stands before '@'"),
])  # fmt: skip
def test_what_a_table_has_for_all_rows_is_refused_as_a_rows_own(key, remedy):
    with pytest.raises(ConfigError) as caught:
        parse_entries([f"SASRec@{key}=5", {"BPR@other": {key: "x", "epochs": 3}}, "Pop"])
    first, second = caught.value.problems
    assert first.startswith(f"SASRec@{key}=5: {key}: is ") and second.startswith(f"BPR@other: {key}: is ") and remedy in first

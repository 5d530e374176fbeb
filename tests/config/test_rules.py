"""Every key of ours has a rule; values that keep it pass, and values that break it are named."""

import pytest
import yaml

from recbole_llm.config.checks import value_problems
from recbole_llm.config.known_keys import known_keys, recbole_keys
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.rules import RULES
from recbole_llm.config.values import SafeLoader, read_yaml

MODELS = ("LLaRA", "iLoRA", "PointwiseLLM", "RecLoRA", "TALLRec", "CoLLM", "E4SRec", "LlamaRec", "RatedDIN")

BAD = {
    "behaviour_tokens": ["none "], "llm_eval": [None], "recipe": ["papers"], "curriculum": [1],
    "gate_form": ["softmax"], "gate_init": ["zero", None], "gate_input": [None], "llm_dtype": ["fp16"], "attn_implementation": ["flash"],
    "protocol": ["rank"],
    "n_candidates": [1, 2.0, True], "lora_r": [0, 8.0, True], "lora_alpha": [0, "16"], "lora_dropout": [1, -0.1],
    "learning_rate": [0, -1, "fast", float("inf"), float("nan")], "train_sample_size": [0, -5, 0.0, 1.5], "history_max_len": [0], "seed": [-1, 1.5],
    "test_sample_size": [0, -1, 0.5], "projector_form": ["MLP", None], "slot_scale": [0, -1, "8x", float("inf")], "behaviour_token_place": ["first", None], "item_separator": ["", ", ", None, 3, "\\n"],
    "user_token": ["yes", 1], "crm_config": [[1]], "llm_path": [3], "settings_of": ["smollm2", 3, ["smollm2-135m"]], "warmup_ratio": [1.1], "epochs": [-1, "3 "],
    "user_inter_num_interval": [5, "5", "[5,)", "[9,5]", "5,inf"], "item_inter_num_interval": ["[5,inf"],
    "prompt_templates": ["{history}", [], [1]], "click_templates": [["{history}"], {"ctr": "{history}"}], "note_words": ["liked"], "prompt_words": [[], {"verb": "watch"}, {"verb": 1, "verbed": "b", "item": "c", "items": "d"}],
    "prompt_fields": [["age"], {"users": ["age"]}, {"user": "age"}, {"item": [1]}, {"item": {"class": "genre"}}, {"item": [{"class": "genre", "year": "y"}]}, {"user": [""]}],
    "field_words": [None, {}, {"user": "{fields}", "item": "{fields}", "field": "{name}", "empty": "?"}], "value_words": [None, {"age": "old"}],
    "val_interval": ["[3,inf)", {"rating": 3}, {"rating": "3,5"}],
    "rm_dup_inter": [True, False, "all"], "alias_of_user_id": ["x", [1]], "alias_of_item_id": [("item_id_list",)],
    "threshold": [{"rating": "4"}, {"rating": None}, {"rating": 3, "age": 4}, {}, 4],
}  # fmt: skip


@pytest.mark.parametrize("file", ["overall.yaml", "llm.yaml", *(f"model/{name}.yaml" for name in MODELS)])
def test_every_key_of_ours_has_a_rule(file):
    values = yaml.safe_load((properties_dir() / file).read_text()) or {}
    recboles = {key for key, _ in recbole_keys()}
    assert not values.keys() - RULES.keys() - recboles
    assert not value_problems(read_yaml(properties_dir() / file))


def test_the_files_of_models_are_those_above():
    assert {file.stem for file in properties_dir().glob("model/*")} == set(MODELS)


@pytest.mark.parametrize("key, value", [(key, value) for key, values in BAD.items() for value in values])
def test_values_that_break_a_rule(key, value):
    (line,) = value_problems({key: value})
    assert line.startswith(f"{key}: must ") and line.endswith(f"got {value!r}")


@pytest.mark.parametrize("value", ["[5,inf)", "(0, 1];[3,4)", "[-inf,7]", [5, 10], None])
def test_intervals_that_recbole_reads(value):
    assert value_problems({"user_inter_num_interval": value, "val_interval": {"rating": value or "[3,5]", "genre": ["war"]}}) == []


GOOD = {
    "attn_implementation": [None, "eager"], "train_sample_size": [None, 1, 70000, 0.1],
    "protocol": [None, "candidates"], "settings_of": [None, "smollm2-135m", "llama-2-7b"],
    "lora_alpha": [16, 0.5], "lora_dropout": [0, 0.1], "epochs": [0], "gate_form": ["topk"], "crm_path": [None, "x"],
    "test_sample_size": [None, 300], "gate_init": ["uniform"], "gate_input": ["token_embedding", "random_embedding"], "projector_form": ["linear"], "slot_scale": [8, 0.5], "behaviour_token_place": ["before"], "item_separator": [",", "\n", ";"],
    "prompt_templates": [["{history}"]], "click_templates": [{"candidates": ["{history}"], "ctr": []}], "note_words": [{}],
    "prompt_fields": [None, {}, {"user": ["age"], "item": ["year", {"class": "genre"}]}, {"user": None}], "value_words": [{"age": {1: "young"}}],
    "field_words": [{"user": "{fields}. ", "item": " [{fields}]", "field": "{value}", "empty": "?"}],
    "rm_dup_inter": [None, "first", "last"], "alias_of_item_id": [None, ["item_id_list"]], "threshold": [None, {"rating": 4}, {"rating": 3.5}],
    "lora_target_modules": ["all-linear", ["q_proj"]], "user_token": [True], "llm_quantization": ["4bit", None],
}  # fmt: skip


@pytest.mark.parametrize("key, value", [(key, value) for key, values in GOOD.items() for value in values])
def test_values_that_keep_the_rules(key, value):
    assert value_problems({key: value}) == []


def test_every_key_of_ours_has_a_default_and_a_rule():
    """A plugin model's key is known by a YAML, not by what some code happens to read."""
    files = [properties_dir() / "overall.yaml", properties_dir() / "llm.yaml", *properties_dir().glob("model/*.yaml")]
    ours = set().union(*(yaml.load(file.read_text(), Loader=SafeLoader) or {} for file in files))
    recbole = {key for key, _ in recbole_keys()}
    assert len(ours) > 90 and not sorted(ours - recbole - RULES.keys())
    assert "some_key" not in known_keys("iLoRA", "ml-100k")

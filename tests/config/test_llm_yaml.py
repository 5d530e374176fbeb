"""What is wrong in an LLM's own YAML is told with the file, the key and the remedy, before anything is built."""

import recbole_llm  # noqa: F401, I001  isort: skip  (RecBole imports only after it)

import shutil

import pytest
import yaml

from recbole_llm.config import properties
from recbole_llm.config.llm_yaml import llm_yaml_problems
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError

SOURCE = {"llm_source": {"hub": "a/b"}}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that adds YAML files of LLMs to a copy of properties/."""
    root = tmp_path / "properties"
    shutil.copytree(properties.properties_dir(), root)
    monkeypatch.setattr(properties, "properties_dir", lambda: root)

    def add(**files):
        for name, values in files.items():
            (root / f"llm/{name}.yaml").write_text(yaml.safe_dump(values))

    return add


def test_the_shipped_files_have_no_problem():
    assert llm_yaml_problems(*properties.short_names()) == [] and llm_yaml_problems(None, "FILE.gguf", 3, ["a"]) == []


@pytest.mark.parametrize(
    "values, words",
    [
        ({"lerning_rate": 1e-3}, "mine.yaml: lerning_rate is no setting of an LLM here; did you mean 'learning_rate'?"),
        ({"num_experts": 8}, "mine.yaml: num_experts is no setting of an LLM here; put what one model has alone under models: {<model>: ...}"),
        ({"recipe": "paper"}, "mine.yaml: recipe is no setting of an LLM here; "),
        ({"candidate_seed": 3}, "mine.yaml: candidate_seed is no setting of an LLM here; "),
        ({"models": ["LLaRA"]}, "mine.yaml: models must be a mapping from models to their settings, got ['LLaRA']"),
        ({"models": {"LLaRA": [1]}}, "mine.yaml: models: LLaRA must be a mapping of settings, got [1]"),
        ({"models": {"Llara": {"epochs": 2}}}, "mine.yaml: models: Llara is no model; did you mean 'LLaRA'?"),
        ({"models": {"LLaRA": {"num_experts": 8}}}, "mine.yaml: models: LLaRA: num_experts is no setting of an LLM here; remove it"),
        ({"models": {"PointwiseLLM": {"text_history_length": 8}}}, "PointwiseLLM: text_history_length is no setting of an LLM here; did you mean 'text_history_len'?"),
        ({"llm_source": {"hub": 5}}, "mine.yaml: llm_source must hold hub alone (a hub name or a folder), or distribution, file and sha256, as text; holds {'hub': 5}"),
        ({"llm_source": "a/b"}, "as text; holds 'a/b'"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_all_else(write, values, words):
    write(mine={**SOURCE, **values}, other={**SOURCE, "settings_of": "mine"})
    for settings in ({"llm_path": "mine"}, {"settings_of": "mine"}, {"llm_path": "other"}):
        with pytest.raises(ConfigError) as caught:
            LLMConfig("LLaRA", "ml-100k", config_dict={**settings, "lora_dropout": -1})
        first, *more = [line for line in caught.value.problems if ".yaml: " in line]
        assert words in first and not more and len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "llm_path, words",
    [
        ("smollm2-135", "llm_path: 'smollm2-135' is neither here nor a short name; did you mean 'smollm2-135m'?"),
        ("gpt2", None),
        ("owner/smollm2-135", None),
        ("/not/here", None),
        ("smollm2-135m", None),
        ("here-135", None),
    ],
)
def test_a_mistyped_short_name_is_told_with_the_configuration(llm_path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(properties, "short_names", lambda: ["gemma-3-270m", "here-135m", "smollm2-135m"])
    (tmp_path / "here-135").mkdir()
    if words is None:
        assert LLMConfig("LLaRA", "ml-100k", config_dict={"llm_path": llm_path})["llm_path"] == llm_path
        return
    with pytest.raises(ConfigError) as caught:
        LLMConfig("LLaRA", "ml-100k", config_dict={"llm_path": llm_path, "lora_dropout": -1})
    assert len(caught.value.problems) == 2 and any(words in line for line in caught.value.problems)


def test_a_model_s_own_keys_and_models_that_are_not_registered_are_no_problem(write):
    write(mine={**SOURCE, "models": {"iLoRA": {"num_experts": 2}, "LlamaRec": {"rerank_n": 10}, "SomebodyElses": {"anything": 1}}})
    assert LLMConfig("iLoRA", "ml-100k", config_dict={"llm_path": "mine"})["num_experts"] == 2
    assert LLMConfig("LLaRA", "ml-100k", config_dict={"llm_path": "mine"}).llm_config_dict == {}

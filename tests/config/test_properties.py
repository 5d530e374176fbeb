"""The YAML that comes with the package: every file keeps the rules, and the defaults are the papers'."""

import recbole_llm  # noqa: F401, I001  isort: skip  (RecBole imports only after it)

import pytest
import yaml

from recbole_llm.config import properties
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import ConfigError
from tests.config.make import make


@pytest.mark.parametrize("dataset", ["ml-100k", "lastfm", "lastfm-llara"])
@pytest.mark.parametrize("model", ["iLoRA", "LLaRA", "SASRec", "BPR"])
def test_shipped_properties_keep_every_rule(monkeypatch, model, dataset):
    monkeypatch.setattr("sys.argv", ["test"])
    config = make(model, dataset)
    assert config["protocol"] == "candidates" and config["n_candidates"] == 20 and config["item_text_field"]
    assert (properties_dir() / "overall.yaml").is_file()


def test_the_released_recipe_leaves_what_the_user_sets():
    config = make("LLaRA", config_dict={"recipe": "released", "train_negatives": "unseen"}, command_line={"answer_bos": False})
    assert config["answer_bos"] is False and config["train_negatives"] == "unseen"
    assert make("LLaRA", config_dict={"recipe": "released"})["answer_bos"] is True


@pytest.mark.parametrize("model", ["LLaRA", "iLoRA", "RecLoRA"])
def test_the_defaults_are_the_papers(model):
    """design.md, section 10; a short name whose YAML sets nothing leaves them alone."""
    config = LLMConfig(model, "ml-100k", config_dict={"llm_path": "llama-2-7b"})
    assert config.llm_config_dict == {}
    batch = config["train_batch_size"] * config["accumulation_steps"]
    found = [config[key] for key in ("lora_r", "lora_alpha", "lora_dropout", "learning_rate", "epochs", "train_sample_size")]
    assert config["likelihood_over"] == "vocabulary" and config["valid_sample_size"] is None
    if model == "RecLoRA":
        assert found == [8, 16, 0.0, 1e-3, 5, 70000] and batch == 256 and config["lora_target_modules"] == ["q_proj", "v_proj"]
        assert config["num_experts"] == 16 and config["gate_temperature"] == 5
        return
    assert found == [8, 32, 0.1, 8e-4, 5, None] and batch == 128 and config["lora_target_modules"] == "all-linear"
    assert config["train_batch_size"] == 8 and config["curriculum"] == ("none" if model == "iLoRA" else "linear") and config["projector_lr_scale"] == 1
    assert config["warmup_ratio"] == 0.05 and config["min_lr_ratio"] == 0.01
    if model == "iLoRA":
        assert config["num_experts"] == 4 and config["router_lr_scale"] == 0.3


@pytest.mark.parametrize(
    "model, expected, batch, targets, decay, schedule, history",
    [
        ("TALLRec", [8, 16, 0.05, 1e-4, 200, 64], 128, ["q_proj", "v_proj"], 0, ("linear", 0.1, 0), ("text_history_len", 10)),
        ("CoLLM", [8, 16, 0.05, 1e-3, 10, None], 16, ["q_proj", "v_proj"], 1e-3, ("cosine", 0.01, 0.08), ("text_history_len", 10)),
        ("E4SRec", [16, 16, 0.05, 3e-4, 3, None], 16, ["gate_proj", "up_proj", "down_proj"], 0.1, ("cosine", 0.004, 0), ("history_max_len", 50)),
        ("LlamaRec", [8, 32, 0.05, 1e-4, 1, None], 16, ["q_proj", "v_proj"], 0, ("linear", 0.02, 0), ("history_max_len", 20)),
    ],
)
def test_the_defaults_of_the_four_are_their_papers(model, expected, batch, targets, decay, schedule, history):
    """docs/models/ names the table, section or script of each value."""
    config = LLMConfig(model, "ml-100k", config_dict={"llm_path": "llama-2-7b"})
    keys = ("lora_r", "lora_alpha", "lora_dropout", "learning_rate", "epochs", "train_sample_size")
    assert [config[key] for key in keys] == expected and config["lora_target_modules"] == targets
    assert config["train_batch_size"] * config["accumulation_steps"] == batch and config["weight_decay"] == decay
    assert tuple(config[key] for key in ("lr_schedule", "warmup_ratio", "min_lr_ratio")) == schedule
    assert config[history[0]] == history[1] and config["likelihood_over"] == "vocabulary"
    small = LLMConfig(model, "ml-100k")  # the default LLM, on a CPU
    assert small["epochs"] == 1 and small["train_sample_size"] <= 8000


def test_a_small_llm_on_a_cpu_needs_less_of_each():
    for model in ("LLaRA", "iLoRA", "RecLoRA"):
        config = LLMConfig(model, "ml-100k")
        assert config["llm_path"] == "smollm2-135m" and config["accumulation_steps"] <= 2 and config["epochs"] == 1
        assert config["train_sample_size"] <= 8000 and config["valid_sample_size"] and config["likelihood_over"] == "candidates"


@pytest.mark.parametrize("name, rate", [("smollm2-360m", 1e-3), ("qwen2.5-0.5b", 1e-3), ("qwen3-0.6b", 1e-3), ("gemma-3-270m", 2e-3)])
def test_small_llms_take_the_settings_of_the_default_one(name, rate):
    for model in ("iLoRA", "RecLoRA"):
        default, config = LLMConfig(model, "ml-100k"), LLMConfig(model, "ml-100k", config_dict={"llm_path": name})
        assert config.llm_config_dict | {"learning_rate": None} == default.llm_config_dict | {"learning_rate": None}
        assert config.llm_config_dict.keys() <= default.llm_config_dict.keys() | {"learning_rate"} and config["settings_of"] is None
        assert model == "RecLoRA" or config["learning_rate"] == rate


def test_an_llm_s_own_settings_go_over_those_it_takes_from_another(tmp_path, monkeypatch):
    (tmp_path / "llm").mkdir()
    files = {
        "large": {"llm_source": {"hub": "a/large"}, "epochs": 1, "lora_r": 4, "models": {"LLaRA": {"lora_r": 2}, "iLoRA": {"lora_r": 3}}},
        "own": {"llm_source": {"hub": "a/own"}, "settings_of": "large", "epochs": 2, "models": {"LLaRA": {"epochs": 5}}},
        "base": {"settings_of": "large", "models": {"LLMRecommender": {"lora_r": 7, "epochs": 6}}},
        "over": {"settings_of": "large", "lora_r": 8}, "lost": {"settings_of": "gone"}, "self": {"settings_of": "self"}, "far": {"settings_of": "own"}, "odd": {"settings_of": None},
    }  # fmt: skip
    for name, values in files.items():
        (tmp_path / f"llm/{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(properties, "properties_dir", lambda: tmp_path)
    assert properties.llm_settings("own", ["LLaRA"]) == ({"epochs": 2, "lora_r": 4}, {"lora_r": 2, "epochs": 5})
    assert properties.llm_settings("own", ["iLoRA"]) == ({"epochs": 2, "lora_r": 4}, {"lora_r": 3})
    assert properties.llm_settings("FILE.gguf", ["iLoRA"], "own") == ({"epochs": 2, "lora_r": 4}, {"lora_r": 3})
    assert properties.llm_settings("base", ["LLMRecommender", "LLaRA"])[1] == {"lora_r": 7, "epochs": 6}  # also what it sets for a base class
    assert properties.llm_settings("over", ["LLaRA"]) == ({"epochs": 1, "lora_r": 8}, {"lora_r": 8})  # also over the other's section
    for name in ("lost", "self", "far", "odd"):
        with pytest.raises(ConfigError, match=f"{name}.yaml: settings_of must name a file .* choose one of base, far, large"):
            properties.llm_settings(name, [])


def test_a_user_chooses_whose_settings_an_llm_takes():
    default = LLMConfig("iLoRA", "ml-100k")
    own = LLMConfig("iLoRA", "ml-100k", config_dict={"llm_path": "FILE.gguf", "settings_of": "smollm2-135m", "lora_r": 4})
    assert own.llm_config_dict == {key: value for key, value in default.llm_config_dict.items() if key != "lora_r"}
    assert own["lora_r"] == 4 and "smollm2-135m sets" in str(own)
    papers = LLMConfig("iLoRA", "ml-100k", config_dict={"settings_of": "llama-2-7b"})
    assert papers.llm_config_dict == {} and papers["llm_path"] == "smollm2-135m" and papers["learning_rate"] == 8e-4
    with pytest.raises(ConfigError) as caught:
        LLMConfig("iLoRA", "ml-100k", config_dict={"settings_of": "smollm2", "lora_r": 0})
    assert sorted(line.partition(": ")[0] for line in caught.value.problems) == ["lora_r", "settings_of"]


def test_models_that_answer_yes_or_no_read_no_user_vector_in_the_prompt_unless_they_say_so():
    found = {model: make(model, "ml-100k", command_line={"llm_path": "smollm2-135m"})["user_token"] for model in ("LLaRA", "RecLoRA", "TALLRec", "CoLLM")}
    assert found == {"LLaRA": True, "RecLoRA": False, "TALLRec": False, "CoLLM": True}

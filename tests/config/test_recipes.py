"""Recipes: one layer, named by model and dataset, over the plugin's own settings and under the user's."""

import pytest

from recbole_llm.config.known_keys import known_keys
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import properties_dir, recipes
from recbole_llm.config.values import ConfigError
from recbole_llm.registry import is_plugin_model

# Model, dataset, and what the papers' tables and released scripts say: rate, prompts per step, epochs, r, alpha, LLM
PUBLISHED = [
    ("LLaRA", "movielens-llara", 8e-4, 128, 5, 8, 32, "llama-2-7b"),
    ("LLaRA", "steam-llara", 5e-4, 128, 5, 8, 32, "llama-2-7b"),
    ("LLaRA", "lastfm-llara", 7e-4, 128, 5, 8, 32, "llama-2-7b"),
    ("iLoRA", "movielens-llara", 8e-4, 128, 5, 8, 32, "llama-2-7b"),
    ("iLoRA", "steam-llara", 5e-4, 128, 5, 8, 32, "llama-2-7b"),
    ("iLoRA", "lastfm-llara", 7e-4, 128, 5, 8, 32, "llama-2-7b"),
    ("RecLoRA", "ml-1m", 1e-3, 256, 5, 8, 16, "vicuna-7b"),
    ("RecLoRA", "ml-25m", 5e-4, 128, 10, 8, 16, "vicuna-7b"),
    ("RecLoRA", "goodreads-poetry", 3e-4, 256, 5, 8, 16, "vicuna-7b"),
]


def make(model, dataset, **given):
    return LLMConfig(model, dataset, config_dict=given)


@pytest.mark.parametrize("model, dataset, rate, prompts, epochs, r, alpha, llm", PUBLISHED)
def test_a_recipe_says_what_its_paper_says(model, dataset, rate, prompts, epochs, r, alpha, llm):
    config = make(model, dataset, recipe="paper")
    assert config["learning_rate"] == rate and config["epochs"] == epochs and config["llm_path"] == llm
    assert config["train_batch_size"] * config["accumulation_steps"] == prompts
    assert (config["lora_r"], config["lora_alpha"]) == (r, alpha)
    assert config["valid_sample_size"] is None and config["users_per_list"] == 1
    assert model == "LLaRA" or config["gate_init"] == "paper"
    click = model == "RecLoRA"
    assert config["lr_schedule"] == ("linear" if click else "cosine")
    assert config["selection"] == ("valid_metric" if click else "generation")
    assert config["protocol"] == ("ctr" if click else "candidates") and config["train_sample_size"] == (70000 if click else None)
    assert config["lora_target_modules"] == (["q_proj", "v_proj"] if click else "all-linear")


def test_every_file_is_for_a_model_and_sets_known_keys():
    assert len(recipes()) == 9
    for name, values in recipes().items():
        model = next(m for m in ("LLaRA", "iLoRA", "RecLoRA") if name.startswith(m.lower() + "-"))
        assert is_plugin_model(model) and values["datasets"]
        assert values.keys() - {"datasets"} <= known_keys(model, values["datasets"][0])
    assert {file.stem for file in (properties_dir() / "recipe").glob("*")} == recipes().keys()


def test_ml_25m_likes_above_three():
    assert make("RecLoRA", "ml-25m", recipe="paper")["threshold"] == {"rating": 3.5}


def test_it_stands_in_place_of_what_suits_an_llm_and_under_what_the_user_sets():
    config = make("iLoRA", "ml-100k", recipe="paper", llm_path="smollm2-135m", epochs=2)
    assert config["epochs"] == 2 and config["lora_r"] == 8 and config["llm_path"] == "smollm2-135m"
    assert config["behaviour_token_place"] == "after" and config["history_from"] == 0.0 and not config["user_token"]  # all of it is the paper's
    assert config.llm_config_dict == {}
    with pytest.raises(ConfigError, match="settings_of: with a recipe, .* leave one of them out"):
        make("iLoRA", "ml-100k", recipe="paper", settings_of="smollm2-135m")
    plain = make("iLoRA", "ml-100k")
    assert plain["recipe"] is None and plain["lora_r"] == 16 and plain["selection"] == "valid_metric"


def test_released_is_the_recipe_with_quirks():
    paper, released = (make("iLoRA", "lastfm-llara", recipe=name) for name in ("paper", "released"))
    differ = {k for k, v in paper.final_config_dict.items() if released.final_config_dict[k] != v}
    assert differ == {"recipe", "prompt_templates", "answer_bos", "train_negatives", "curriculum"}
    assert paper["curriculum"] == "none" and released["curriculum"] == "linear"
    paper, released = (make("RecLoRA", "ml-25m", recipe=name) for name in ("paper", "released"))
    differ = {k for k, v in paper.final_config_dict.items() if released.final_config_dict[k] != v}
    assert differ == {"recipe", "epochs", "lr_epochs"}
    assert (released["epochs"], released["lr_epochs"]) == (1, 10)


@pytest.mark.parametrize("model, curriculum", [("LLaRA", "linear"), ("iLoRA", "linear")])
def test_released_without_a_recipe_is_quirks_over_the_papers_settings(model, curriculum):
    """Never over what suits an LLM, which would hide the history from most steps and leave the curriculum out."""
    config = make(model, "ml-1m", recipe="released")
    assert (config["curriculum"], config["answer_bos"]) == (curriculum, True) and config.llm_config_dict == {}
    assert (config["history_from"], config["users_per_list"], config["user_token"], config["likelihood_over"]) == (0.0, 1, False, "vocabulary")
    assert make("RecLoRA", "ml-100k", recipe="released")["lr_epochs"] == make("RecLoRA", "ml-100k", settings_of="llama-2-7b")["epochs"] > 1


def test_quirks_are_checked_as_what_the_user_sets():
    with pytest.raises(ConfigError, match="history_from: text-only prompts, with which curriculum: linear begins"):
        make("iLoRA", "ml-1m", recipe="released", user_token=True, history_from=0.5)


def test_a_missing_recipe_is_an_error_that_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"none of RecLoRA for ml-100k.*ilora-steam \(--dataset=steam-llara or steam\).*reclora-ml-1m"):
        make("RecLoRA", "ml-100k", recipe="paper")
    assert make("RecLoRA", "ml-100k", recipe="released", crm_epochs=1)["epochs"] == 1  # quirks alone
    assert make("SASRec", "ml-100k", recipe="paper")["recipe"] == "paper"  # of a leaderboard's other rows

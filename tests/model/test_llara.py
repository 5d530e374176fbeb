from recbole_llm.config import LLMConfig
from recbole_llm.data.preparation import prepare_data
from recbole_llm.model.llara import LLaRA
from tests import tiny
from tests.model.contract import ModelContract


class TestLLaRA(ModelContract):
    name = "LLaRA"
    settings = {"curriculum": "none"}


def prepared(tiny_data, tiny_llm, out, **more):
    config = LLMConfig("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, crm_epochs=0, **more))
    return config, prepare_data(config)


def test_curriculum_is_the_share_of_steps_done():
    config = {"curriculum": "linear", "recipe": "paper", "epochs": 5}
    assert [LLaRA.hybrid_probability(config, p) for p in (0.0, 0.25, 0.9)] == [0.0, 0.25, 0.9]
    assert LLaRA.hybrid_probability({**config, "curriculum": "none"}, 0.1) == 1.0


def test_released_curriculum_restarts_each_epoch_and_is_a_tenth_on_average():
    config = {"curriculum": "linear", "recipe": "released", "epochs": 5}
    shares = [LLaRA.hybrid_probability(config, step / 1000) for step in range(1000)]
    assert abs(sum(shares) / 1000 - 0.1) < 0.001
    assert shares[199] > 0.19 and shares[200] == 0.0


def test_the_released_recipe_is_a_set_of_settings(tiny_data, tiny_llm, tmp_path):
    """Second BOS, "10" beside C candidates, ", A" before ", An", negatives outside the shown history alone."""
    config, (_, train, _, test) = prepared(tiny_data, tiny_llm, tmp_path, recipe="released")
    assert config["train_negatives"] == "recent"
    assert LLMConfig("LLaRA", "ml-100k", config_dict={"recipe": "released"})["move_article"] == "released"
    train.set_epoch(0)
    batch, asked = next(iter(train)), next(iter(test))
    tokenizer = train._dataset.prompt_tokenizer.tokenizer
    assert (batch["answer_ids"][:, 0] == tokenizer.bos_token_id).all()
    assert (asked["branch_ids"][..., 0] == tokenizer.bos_token_id).all()
    assert " 10 " in tokenizer.decode(batch["prompt_ids"][0])
    assert LLaRA.released_settings({"move_article": False})["move_article"] is False


def test_the_paper_recipe_has_none_of_them(tiny_data, tiny_llm, tmp_path):
    config, (_, train, _, _) = prepared(tiny_data, tiny_llm, tmp_path)
    train.set_epoch(0)
    batch = next(iter(train))
    tokenizer = train._dataset.prompt_tokenizer.tokenizer
    assert config["train_negatives"] == "unseen"
    assert (batch["answer_ids"][:, 0] != tokenizer.bos_token_id).all()
    assert " 10 " not in tokenizer.decode(batch["prompt_ids"][0])

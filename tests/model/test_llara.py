import copy
import math

import torch

from recbole_llm.config.loader import LLMConfig
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.model.llara import LLaRA
from tests import tiny
from tests.model.contract import ModelContract


class TestLLaRA(ModelContract):
    name = "LLaRA"
    settings = {"curriculum": "none"}


class TestLLaRAOverCandidates(ModelContract):
    name = "LLaRA"
    settings = {"curriculum": "none", "likelihood_over": "candidates"}

    def test_scores_are_log_probabilities_of_the_candidate_set(self, model, batch):
        tokens = batch["branch_ids"].masked_fill(~batch["branch_mask"], -1)
        for row, scores in zip(tokens.tolist(), model.score_candidates(batch), strict=True):
            different = {tuple(ids): score for ids, score in zip(row, scores.tolist(), strict=True)}
            assert abs(sum(map(math.exp, different.values())) - 1) < 1e-4

    def test_training_reads_the_rivals_of_its_own_candidates(self, built, model):
        """The loader's columns give the target's score among the very candidates of its prompt."""
        _, (dataset, train, _, _), _ = built
        train.set_epoch(0)
        batch = next(iter(train))
        answer = dataset.prompt_tokenizer.answer
        branches = [answer(item) for items in batch["candidates"].tolist() for item in items]
        width = max(map(len, branches))
        shape = (*batch["candidates"].shape, width)
        asked = copy.deepcopy(batch)
        asked.interaction["branch_ids"] = torch.tensor([ids + [0] * (width - len(ids)) for ids in branches]).view(shape)
        asked.interaction["branch_mask"] = (torch.arange(width) < torch.tensor(list(map(len, branches)))[:, None]).view(shape)
        rows = torch.arange(len(batch))
        with torch.no_grad():
            found, n_tokens = model(batch)
        expected = model.score_candidates(asked)[rows, batch["target_position"]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert (n_tokens == asked["branch_mask"][rows, batch["target_position"]].sum(1)).all()


def prepared(tiny_data, tiny_llm, out, **more):
    config = LLMConfig("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, crm_epochs=0, **more))
    return config, prepare_data(config)


def test_curriculum_is_the_share_of_steps_done():
    config = {"curriculum": "linear", "stages": None, "recipe": "paper", "epochs": 5}
    assert [LLaRA.hybrid_probability(config, p) for p in (0.0, 0.25, 0.9)] == [0.0, 0.25, 0.9]
    assert LLaRA.hybrid_probability({**config, "curriculum": "none"}, 0.1) == 1.0


def test_released_curriculum_restarts_each_epoch_and_is_a_tenth_on_average():
    config = {"curriculum": "linear", "stages": None, "recipe": "released", "epochs": 5}
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

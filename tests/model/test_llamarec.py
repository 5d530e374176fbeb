from types import SimpleNamespace

import pytest
import torch

from recbole_llm.config.values import ConfigError, plain_values
from recbole_llm.training.recbole_checkpoints import _moved
from tests.model.contract import ModelContract


class TestLlamaRec(ModelContract):
    name = "LlamaRec"
    settings = {"lora_dropout": 0.0, "likelihood_over": "candidates"}

    def test_scores_are_the_option_letters_odds(self, model, batch):
        assert model.crm is None and batch["branch_ids"].shape[2] == 1  # one forward pass, one position
        letters = [model.tokens.encode(f" {letter}")[-1] for letter in "ABCDEFGH"]
        assert (batch["branch_ids"][:, :, 0] == torch.tensor(letters)).all()
        torch.testing.assert_close(model.score_candidates(batch).exp().sum(1), torch.ones(len(batch)), rtol=1e-4, atol=1e-4)

    def test_more_candidates_than_letters_are_refused(self, model):
        example = SimpleNamespace(candidates=list(range(27)))
        assert model.answer(model.tokens, example, 25) == model.tokens.encode(" Z")[-1:]
        with pytest.raises(ValueError, match="LlamaRec has 26 option letters and got 27 candidates"):
            model.answer(model.tokens, example, 26)
        with pytest.raises(ConfigError, match="rerank_n: LlamaRec has 26 option letters, got 50"):
            _moved({**plain_values(model.config), "protocol": "full"}, {"rerank_n": 50})

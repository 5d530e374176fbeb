import torch

from tests.model.contract import ModelContract


class TestLlamaRec(ModelContract):
    name = "LlamaRec"
    settings = {"lora_dropout": 0.0, "likelihood_over": "candidates"}

    def test_scores_are_the_option_letters_odds(self, model, batch):
        assert model.crm is None and batch["branch_ids"].shape[2] == 1  # one forward pass, one position
        letters = [model.tokens.encode(f" {letter}")[-1] for letter in "ABCDEFGH"]
        assert (batch["branch_ids"][:, :, 0] == torch.tensor(letters)).all()
        torch.testing.assert_close(model.score_candidates(batch).exp().sum(1), torch.ones(len(batch)), rtol=1e-4, atol=1e-4)

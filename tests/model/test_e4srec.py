import torch

from tests.model.contract import ModelContract


class TestE4SRec(ModelContract):
    name = "E4SRec"
    settings = {"lora_dropout": 0.0}

    def test_probabilities_sum_to_one_over_the_items(self, model, batch):
        found = model.log_probs(batch).exp()
        torch.testing.assert_close(found.sum(1), torch.ones(len(batch)))
        assert not found[:, 0].any()

import copy

import pytest
import torch

from tests.model.contract import ModelContract


class TestE4SRec(ModelContract):
    name = "E4SRec"
    settings = {"lora_dropout": 0.0}

    def test_probabilities_sum_to_one_over_the_items(self, model, batch):
        found = model.log_probs(batch).exp()
        torch.testing.assert_close(found.sum(1), torch.ones(len(batch)))
        assert not found[:, 0].any()

    def test_an_item_without_interactions_is_refused(self, model, batch):
        other = copy.deepcopy(batch)
        other.interaction["candidates"][0, 0] = model.n_items
        with pytest.raises(ValueError, match="E4SRec scores items that have interactions"):
            model.score_candidates(other)

from tests.model.contract import PointwiseContract


class TestTALLRec(PointwiseContract):
    name = "TALLRec"
    settings = {"text_history_len": 4, "lora_dropout": 0.0}

    def test_no_recommender_is_trained_and_no_vector_is_shown(self, model, batch):
        assert model.crm is None and not (batch["prompt_items"] != 0).any()
        assert not [name for name, _ in model.named_parameters() if "projector" in name]

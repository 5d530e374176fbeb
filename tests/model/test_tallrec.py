import pytest

from recbole_llm import ConfigError, LLMConfig
from recbole_llm.evaluation.preparation import prepare_data
from tests import tiny
from tests.model.contract import PointwiseContract


class TestTALLRec(PointwiseContract):
    name = "TALLRec"
    settings = {"text_history_len": 4, "lora_dropout": 0.0}

    def test_no_recommender_is_trained_and_no_vector_is_shown(self, model, batch):
        assert model.crm is None and not (batch["prompt_items"] != 0).any()
        assert not [name for name, _ in model.named_parameters() if "projector" in name]

    def test_no_recipe_makes_it_validate_on_the_test_rows(self, tiny_data, tiny_llm, tmp_path):
        config = LLMConfig("TALLRec", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="ctr", recipe="released"))
        _, _, valid, test = prepare_data(config)
        assert valid.phase == "valid" and test.phase == "test" and valid._dataset.numbers.tolist() != test._dataset.numbers.tolist()

    def test_lists_hold_no_ratings(self, tiny_data):
        with pytest.raises(ConfigError, match="history_notes: TALLRec lists liked and disliked items apart and writes no ratings"):
            LLMConfig("TALLRec", "tiny", config_dict={"data_path": str(tiny_data), "history_notes": "ratings"})

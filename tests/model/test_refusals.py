"""What a model cannot have or be asked, and how it says so."""

from types import SimpleNamespace

import pytest
import torch
from recbole.utils import get_model

from recbole_llm import ConfigError, LLMConfig
from recbole_llm.config.values import plain_values
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.training.load_run import _moved
from tests import tiny


def test_only_reclora_validates_on_the_test_rows_where_the_released_recipe_is_taken(tiny_data, tiny_llm, tmp_path):
    config = LLMConfig("TALLRec", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="ctr", recipe="released"))
    _, _, valid, test = prepare_data(config)
    assert valid.phase == "valid" and test.phase == "test" and valid._dataset.numbers.tolist() != test._dataset.numbers.tolist()
    assert [name for name in ("LLaRA", "iLoRA", "RecLoRA", "TALLRec", "CoLLM") if get_model(name).selects_on_test] == ["RecLoRA"]


def test_tallrecs_lists_hold_no_ratings(tiny_data):
    with pytest.raises(ConfigError, match="history_notes: TALLRec lists liked and disliked items apart and writes no ratings"):
        LLMConfig("TALLRec", "tiny", config_dict={"data_path": str(tiny_data), "history_notes": "ratings"})


def test_llamarec_has_as_many_candidates_as_letters(tiny_data, tiny_llm, tmp_path):
    config = LLMConfig("LlamaRec", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path))
    tokens, example = SimpleNamespace(encode=lambda text: [0, text]), SimpleNamespace(candidates=list(range(27)))
    assert config.model_class.answer(tokens, example, 25) == [" Z"]
    with pytest.raises(ValueError, match="LlamaRec has 26 option letters and got 27 candidates"):
        config.model_class.answer(tokens, example, 26)
    with pytest.raises(ConfigError, match="rerank_n: LlamaRec has 26 option letters, got 50"):
        _moved({**plain_values(config), "protocol": "full"}, {"rerank_n": 50})
    with pytest.raises(ConfigError, match="n_candidates: LlamaRec has 26 option letters, got 30"):  # of training lists
        LLMConfig("LlamaRec", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="full", rerank_n=8, n_candidates=30))


def test_e4srec_scores_items_with_interactions_alone():
    model = SimpleNamespace(n_items=10)
    with pytest.raises(ValueError, match="E4SRec scores items that have interactions"):
        get_model("E4SRec").score_candidates(model, {"candidates": torch.tensor([[3, 10]])})

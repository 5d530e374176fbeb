"""Settings of a small RecLoRA, and the data that it is trained on."""

from recbole_llm import LLMConfig
from recbole_llm.evaluation.preparation import prepare_data
from tests import tiny

SMALL = {
    "behaviour_tokens": "both",
    "num_experts": 4,
    "crm_history_len": 6,
    "text_history_len": 4,
    "crm_config": {"train_batch_size": 64, "embedding_size": 4, "mlp_hidden_size": [8, 8]},
}


def prepared(tiny_data, tiny_llm, out, **more):
    settings = tiny.settings(tiny_data, tiny_llm, out, protocol="ctr", crm_epochs=0, **{**SMALL, **more})
    config = LLMConfig("RecLoRA", "tiny", config_dict=settings)
    return config, prepare_data(config)

import pytest

from tests import tiny

CLICK = {
    "num_experts": 2, "crm_history_len": 6, "text_history_len": 3, "crm_epochs": 1, "protocol": "ctr",
    "crm_config": {"train_batch_size": 64, "embedding_size": 4, "mlp_hidden_size": [8, 8]},
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tiny_data, tiny_llm, tmp_path_factory):
    """A module's settings, so that its tests find each other's runs again; ``settings(**more)`` are the key=value pairs."""
    out = tmp_path_factory.mktemp("analysis")

    def made(**more):
        return tiny.settings(tiny_data, tiny_llm, out, latency_rows=0, **{"train_sample_size": 32, "learning_rate": 0.02, **more})

    made.folder = out / "results" / "analysis"
    return made

import pytest
import torch

from recbole_llm.model.saving import load_checkpoint_into, save_checkpoint
from tests.model.contract import ModelContract


class TestiLoRA(ModelContract):
    name = "iLoRA"
    settings = {"curriculum": "none", "num_experts": 4}

    def test_gate_is_a_distribution_that_depends_on_the_sequence_alone(self, model, batch):
        gate = model.gate(batch)
        torch.testing.assert_close(gate.sum(1), torch.ones(len(batch)))
        torch.testing.assert_close(model.gate(batch[[2]])[0], gate[2])
        assert gate.std(0).max() > 0

    @pytest.mark.parametrize("gate_input", ["item_mean", "random", "uniform"])
    def test_gate_inputs(self, gate_input, tiny_data, tiny_llm, tmp_path):
        _, data, model = self.build(tiny_data, tiny_llm, tmp_path, gate_input=gate_input)
        batch = next(iter(data[3]))
        gate = model.gate(batch)
        torch.testing.assert_close(gate.sum(1), torch.ones(len(batch)))
        assert torch.equal(model.gate(batch), gate)
        assert (gate.std(0).max() < 1e-6) == (gate_input == "uniform")
        assert torch.isfinite(model.eval().score_candidates(batch)).all()

    def test_a_checkpoint_of_another_gate_is_refused_where_the_gate_reads_it(self, model, tmp_path):
        save_checkpoint(model, tmp_path / "saved", {"epoch": 0})
        config = model.config
        before = {key: config[key] for key in ("gate_form", "gate_top_k")}
        try:
            config["gate_top_k"] = 1  # read by gate_form topk alone
            assert load_checkpoint_into(model, tmp_path / "saved")["epoch"] == 0
            config["gate_form"] = "topk"
            with pytest.raises(ValueError, match="gate_form: checkpoint 'linear', here 'topk'; gate_top_k: checkpoint 2, here 1"):
                load_checkpoint_into(model, tmp_path / "saved")
        finally:
            for key, value in before.items():
                config[key] = value

import pytest
import torch

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

import pytest
import torch

from recbole_llm.training.checkpoint import load_checkpoint_into, save_checkpoint
from tests.model.contract import ModelContract


class TestiLoRA(ModelContract):
    name = "iLoRA"
    settings = {"curriculum": "none", "num_experts": 4}

    def test_gate_is_a_distribution_that_depends_on_the_sequence_alone(self, model, batch):
        gate = model.gate(batch)
        torch.testing.assert_close(gate.sum(1), torch.ones(len(batch)))
        torch.testing.assert_close(model.gate(batch[[2]])[0], gate[2])
        assert gate.std(0).max() > 0

    @pytest.mark.parametrize("gate_input", ["item_mean", "token_embedding", "random_embedding", "random", "uniform"])
    def test_gate_inputs(self, gate_input, tiny_data, tiny_llm, tmp_path):
        _, data, model = self.build(tiny_data, tiny_llm, tmp_path, gate_input=gate_input)
        batch = next(iter(data[3]))
        gate = model.gate(batch)
        torch.testing.assert_close(gate.sum(1), torch.ones(len(batch)))
        assert torch.equal(model.gate(batch), gate)
        assert (gate.std(0).max() < 1e-6) == (gate_input == "uniform")
        assert torch.isfinite(model.eval().score_candidates(batch)).all()
        assert hasattr(model, "router") == (gate_input not in ("random", "uniform"))
        if hasattr(model, "router"):  # of whatever scale the input is, the gate starts as the papers' does
            entropy = -(gate * gate.log()).sum(1).mean().item()
            assert 1.1 < entropy < 1.36
            (gate * torch.randn(gate.shape)).sum().backward()
            assert model.router.out.weight.grad.abs().sum() > 0

    def test_a_start_next_to_plain_lora_can_be_chosen(self, tiny_data, tiny_llm, tmp_path):
        _, data, model = self.build(tiny_data, tiny_llm, tmp_path, gate_init="uniform")
        assert (model.gate(next(iter(data[3]))) - 0.25).abs().max() < 0.05

    def test_the_token_embedding_gate_reads_the_prompts_text(self, tiny_data, tiny_llm, tmp_path):
        _, data, model = self.build(tiny_data, tiny_llm, tmp_path, gate_input="token_embedding")
        batch = next(iter(data[3]))
        table = model.llm.get_input_embeddings().weight
        table.data[model.tokens.pad_token_id] = torch.linspace(-1, 1, table.shape[1])  # what slots hold must not count
        gate = model.gate(batch)
        for row in (0, len(batch) - 1):
            text = [int(i) for i, item, real in zip(*(batch[f"prompt_{name}"][row] for name in ("ids", "items", "mask")),
                                                    strict=True) if real and not item]  # fmt: skip
            mean = table[text].mean(0)
            standard = (mean - mean.mean()) / mean.std(unbiased=False)
            expected = (standard @ model.router.out.weight.T).softmax(-1)
            torch.testing.assert_close(gate[row], expected, atol=1e-5, rtol=0)

    def test_a_random_embedding_is_the_historys_own(self, tiny_data, tiny_llm, tmp_path):
        _, data, model = self.build(tiny_data, tiny_llm, tmp_path, gate_input="random_embedding")
        batch = next(iter(data[3]))
        before = torch.random.get_rng_state()
        vectors = model._gate_vectors(batch)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert vectors.shape == (len(batch), model.user_dim) and vectors.std() == pytest.approx(1, abs=0.15)
        assert torch.equal(model._gate_vectors(batch[[3]])[0], vectors[3])
        histories = {tuple(row) for row in batch["item_id_list"].tolist()}
        assert len({tuple(row) for row in vectors.tolist()}) == len(histories)

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

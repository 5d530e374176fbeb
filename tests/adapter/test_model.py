"""The adapter as a PEFT citizen: save and load, several adapters, checkpointing, compilation, refusals."""

import copy
import json
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_llm.adapter import (
    Gate,
    GatedLoraConfig,
    GatedLoraModel,
    adapter_parameters,
    checkpoint_context_fn,
    enable_gradient_checkpointing,
    gated_modules,
    use_gate,
)
from recbole_llm.adapter.config import check_peft
from recbole_llm.adapter.gate import GateHolder
from tests.adapter.llama import fill, gated_llama, prompts, softmax_gate, tiny_llama

MIXINGS = ("split", "weight", "output")


def logits(model, gate, adapter=None):
    with torch.no_grad(), use_gate(model, gate, adapter):
        return model(prompts()).logits


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_save_and_load(mixing, low_cpu_mem_usage, tmp_path):
    model, gate = gated_llama(mixing), softmax_gate(3, 4)
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_experts"], config["mixing"]) == ("GATED_LORA", 4, mixing)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert isinstance(loaded.base_model, GatedLoraModel) and isinstance(loaded.peft_config["default"], GatedLoraConfig)
    assert torch.equal(logits(loaded, gate), logits(model, gate))
    assert gated_modules(loaded) == gated_modules(model)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    trainable = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    assert all(parameter.requires_grad for parameter in adapter_parameters(trainable))


def test_keys_and_trainable_weights_are_those_of_plain_lora():
    plain = get_peft_model(tiny_llama(), LoraConfig(r=8, target_modules="all-linear"))
    for mixing in MIXINGS:
        gated = gated_llama(mixing)
        assert gated.state_dict().keys() == plain.state_dict().keys()
        names = [name for name, parameter in gated.named_parameters() if parameter.requires_grad]
        assert names == [name for name, parameter in plain.named_parameters() if parameter.requires_grad]
        slots = {id(parameter) for parameter in gated.parameters() if parameter.requires_grad}
        assert {id(parameter) for parameter in adapter_parameters(gated)} == slots


def test_several_adapters_with_their_own_gates(tmp_path):
    model, gate = gated_llama("split"), softmax_gate(3, 4)
    model.add_adapter("second", GatedLoraConfig(r=6, num_experts=2, mixing="weight", target_modules=["q_proj"]))
    second_gate = softmax_gate(3, 2)
    first = logits(model, gate)
    assert not any(parameter.requires_grad for parameter in adapter_parameters(model, "second"))
    model.set_adapter("second")
    assert all(parameter.requires_grad for parameter in adapter_parameters(model, "second"))
    fill(model, seed=1)
    assert not torch.equal(logits(model, second_gate, "second"), first)
    with pytest.raises(ValueError, match="4 experts for adapter 'second'.*num_experts=2"):
        logits(model, gate)
    model.base_model.set_adapter(["default", "second"])
    with torch.no_grad(), use_gate(model, gate), use_gate(model, second_gate, "second"):
        both = model(prompts()).logits
    assert not torch.equal(both, first)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "second", adapter_name="again")
    model.set_adapter("second")
    assert torch.equal(logits(loaded, second_gate), logits(model, second_gate))
    model.delete_adapter("second")
    model.set_adapter("default")
    assert logits(model, gate).isfinite().all()
    with pytest.raises(ValueError, match="adapter_name='second': the model's gated adapters are default"):
        logits(model, gate, "second")


def test_disable_adapter_gives_the_base_model_and_needs_no_gate():
    model = gated_llama()
    with model.disable_adapter():
        assert torch.equal(model(prompts()).logits, tiny_llama()(prompts()).logits)
    assert not torch.equal(logits(model, softmax_gate(3, 4)), tiny_llama()(prompts()).logits)
    assert torch.equal(model.unload()(prompts()).logits, tiny_llama()(prompts()).logits)


def test_modules_to_save_are_trained_and_saved_as_ever(tmp_path):
    model = gated_llama(modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(logits(loaded, softmax_gate(3, 4)), logits(model, softmax_gate(3, 4)))


def test_patterns_and_scaling_keep_pefts_meaning():
    model = gated_llama("split", rank_pattern={"q_proj": 4}, alpha_pattern={"v_proj": 32})
    attention = model.base_model.model.model.layers[0].self_attn
    assert attention.q_proj.lora_A["default"].weight.shape == (4, 16)
    gate, x, layer = softmax_gate(3, 4), torch.randn(3, 7, 16), attention.v_proj
    assert layer.scaling["default"] == 32 / 8
    with use_gate(model, gate):
        delta = layer(x) - layer.base_layer(x)
        layer.scale_layer(0.5)
        torch.testing.assert_close(layer(x) - layer.base_layer(x), delta * 0.5, rtol=1e-4, atol=1e-5)
        layer.unscale_layer()
        torch.testing.assert_close(layer(x) - layer.base_layer(x), delta, rtol=1e-4, atol=1e-5)


def test_without_a_gate_the_error_says_how_to_give_one():
    model = gated_llama()
    with pytest.raises(RuntimeError, match=r"no gate is set.*use_gate\(model, gate\)"):
        model(prompts())
    with use_gate(model, softmax_gate(3, 4)):
        pass
    with pytest.raises(RuntimeError, match="no gate is set"):
        model(prompts())


def test_gates_nest_and_end_with_an_error():
    model, outer, inner = gated_llama(), softmax_gate(3, 4), softmax_gate(3, 4, seed=8)
    holder = model.gate_holder
    with use_gate(model, outer):
        with pytest.raises(KeyError), use_gate(model, inner):
            assert holder.current("default").weights is inner
            raise KeyError
        assert holder.current("default").weights is outer
    assert holder.gates == {}


def gradients(model, losses):
    model.zero_grad()
    sum(losses).backward()
    return [parameter.grad.clone() for parameter in adapter_parameters(model)]


def two_forwards(model, per_module=False):
    """Two batches with gates of their own, both outstanding: the losses, and the gates' leaves."""
    m = len(gated_modules(model))
    gates = [softmax_gate(3, m, 4, seed=s) if per_module else softmax_gate(3, 4, seed=s) for s in (5, 6)]
    gates = [gate.mul(4).softmax(-1).requires_grad_() for gate in gates]
    losses = []
    for gate, ids in zip(gates, (prompts(seed=3), prompts(seed=4)), strict=True):
        with use_gate(model, Gate.per_module(gate) if per_module else gate):
            losses.append(model(ids, labels=ids).loss)
    return losses, gates


@pytest.mark.parametrize("per_module", [False, True])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_checkpointing_with_two_outstanding_forwards(mixing, per_module):
    model = gated_llama(mixing)
    losses, gates = two_forwards(model, per_module)
    expected = gradients(model, losses) + [gate.grad for gate in gates]
    enable_gradient_checkpointing(model.train())
    losses, gates = two_forwards(model, per_module)
    actual = gradients(model, losses) + [gate.grad for gate in gates]
    assert (model.gate_holder.gates, model.gate_holder.restored) == ({}, False)      # recomputation left no trace
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_checkpointing_survives_a_gate_block_around_backward_and_a_second_backward():
    model = gated_llama()
    losses, gates = two_forwards(model)
    expected = gradients(model, losses)
    enable_gradient_checkpointing(model.train())
    losses, gates = two_forwards(model)
    model.zero_grad()
    with use_gate(model, softmax_gate(3, 4, seed=11)):
        sum(losses).backward(retain_graph=True)
        sum(losses).backward()
    for parameter, gradient in zip(adapter_parameters(model), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-5, atol=1e-6)


class Checkpointed(nn.Module):
    """One linear layer under torch's own checkpointing, with the caller's options."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.options = nn.Linear(6, 10), {}

    def forward(self, x):
        return checkpoint(lambda x: self.up(x).tanh(), x, **self.options)


def checkpointed_gradient(options):
    model = get_peft_model(Checkpointed(), GatedLoraConfig(r=8, num_experts=4, target_modules=["up"]))
    fill(model)
    if options.pop("context_fn", False):
        options["context_fn"] = checkpoint_context_fn(model)
    model.base_model.model.options = options
    losses = []
    for seed in (5, 6):
        x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        with use_gate(model, softmax_gate(2, 4, seed=seed).mul(6).softmax(-1)):
            losses.append(model(x).square().sum())
    with use_gate(model, softmax_gate(2, 4, seed=7)):
        return gradients(model, losses)[0]


def test_checkpointing_that_would_lose_the_gate_raises(monkeypatch):
    right = checkpointed_gradient({"use_reentrant": False, "context_fn": True})
    for options in ({"use_reentrant": False}, {"use_reentrant": True}):
        with pytest.raises(RuntimeError, match="checkpoint_context_fn"):
            checkpointed_gradient(dict(options))
    # What the check prevents: with it off, the recomputation runs with whatever gate is there, silently.
    monkeypatch.setattr(GateHolder, "current", lambda self, adapter: self.gates[None])
    torch.testing.assert_close(checkpointed_gradient({"use_reentrant": False, "context_fn": True}), right)
    wrong = checkpointed_gradient({"use_reentrant": False})
    assert (wrong - right).norm() > 0.1 * right.norm()


def test_reentrant_checkpointing_of_a_hugging_face_model_raises():
    model = gated_llama().train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with use_gate(model, softmax_gate(3, 4)):
        loss = model(prompts(), labels=prompts()).loss
        with pytest.raises(RuntimeError, match="gradient checkpointing recomputes"):
            loss.backward()


def test_copies_and_pickles_of_a_checkpointed_model_have_a_holder_of_their_own():
    model, gate = gated_llama("weight"), softmax_gate(3, 4)
    enable_gradient_checkpointing(model.train())
    with use_gate(model, gate):
        model(prompts())
        with torch.no_grad():
            model(prompts())
        other = copy.deepcopy(model)
    assert other.gate_holder is not model.gate_holder and other.gate_holder.gates == {}
    expected = gradients(model, two_forwards(model)[0])
    for one, copied in zip(gradients(other, two_forwards(other)[0]), expected, strict=True):
        assert torch.equal(one, copied)
    assert pickle.loads(pickle.dumps(model.gate_holder)).modules == model.gate_holder.modules


@pytest.mark.parametrize("mixing", MIXINGS)
def test_compiles_without_a_graph_break(mixing):
    model = gated_llama(mixing)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    torch._dynamo.reset()
    with use_gate(model, softmax_gate(3, 4)):
        x = torch.randn(3, 7, 16)
        report = torch._dynamo.explain(lambda x: layer(x) + layer(2 * x))(x)
        assert (report.graph_count, report.graph_break_count) == (1, 0)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))
    with use_gate(model, softmax_gate(3, 4, seed=9)):                    # a new gate, not the traced one
        torch.testing.assert_close(compiled(x), layer(x))
    torch._dynamo.reset()


def test_merging_and_combining_are_refused():
    model = gated_llama()
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    for refuse in (model.merge_and_unload, model.merge_adapter, layer.merge, lambda: layer.merge(safe_merge=True)):
        with pytest.raises(ValueError, match="differs from row to row"):
            refuse()
    for module in model.modules():
        getattr(module, "lora_variant", {}).clear()                      # a PEFT backend that knows no variants
    with pytest.raises(ValueError, match="differs from row to row"):
        model.merge_and_unload()
    with pytest.raises(ValueError, match="add_weighted_adapter"):
        model.add_weighted_adapter(["default"], [1.0], "x")
    with pytest.raises(ValueError, match="adapter_names"), use_gate(model, softmax_gate(3, 4)):
        model.eval()(prompts(), adapter_names=["default"] * 3)


@pytest.mark.parametrize("options, message", [
    ({"r": 6, "num_experts": 4}, "lora_r=6 is not divisible by num_experts=4"),
    ({"r": 0}, "lora_r=0: must be 1 or more"),
    ({"r": 8, "num_experts": 4, "rank_pattern": {"q_proj": 2}}, "lora_r=2 is not divisible"),
    ({"num_experts": 0}, "num_experts=0"),
    ({"num_experts": 2.0}, "num_experts=2.0"),
    ({"mixing": "mean"}, "mixing='mean': must be one of split, weight, output"),
    ({"use_dora": True}, "use_dora: not available"),
    ({"lora_bias": True}, "lora_bias: not available"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
])
def test_configurations_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GatedLoraConfig(target_modules=["q_proj"], **options)


def test_only_linear_layers_are_adapted():
    with pytest.raises(ValueError, match="embed_tokens, a Embedding: gated adapters adapt linear layers only"):
        get_peft_model(tiny_llama(), GatedLoraConfig(target_modules=["embed_tokens"]))


def test_ambiguous_and_wrong_gates_are_refused():
    model = gated_llama()
    with pytest.raises(ValueError, match="Gate.per_token and Gate.per_module"), use_gate(model, softmax_gate(3, 14, 4)):
        pass
    with pytest.raises(ValueError, match="serves 3 modules, adapter 'default' has 14"):
        logits(model, Gate.per_module(softmax_gate(3, 3, 4)))
    names = gated_modules(model)
    with pytest.raises(ValueError, match="another order"):
        logits(model, Gate.per_module(softmax_gate(3, 14, 4), names[::-1]))
    with pytest.raises(ValueError, match="5 experts"):
        logits(model, softmax_gate(3, 5))
    with pytest.raises(TypeError, match="floating-point"):
        logits(model, torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(TypeError, match="has no gated adapter"), use_gate(tiny_llama(), softmax_gate(3, 4)):
        pass


@pytest.mark.parametrize("installed", ["0.20.1", "0.22.0", "1.0.0"])
def test_another_peft_is_refused_at_import(installed):
    with pytest.raises(ImportError, match=f"need peft>=0.21,<0.22, found {installed}"):
        check_peft(installed)


def test_a_peft_without_the_replaced_internals_is_refused(monkeypatch):
    from peft.tuners.lora.layer import LoraLayer

    check_peft("0.21.2")
    monkeypatch.delattr(LoraLayer, "set_scale")
    with pytest.raises(ImportError, match="lacks LoraLayer.set_scale"):
        check_peft("0.21.2")


def test_two_steps_train_every_slot_and_the_gate():
    model = gated_llama("weight")
    with torch.no_grad():
        for parameter in adapter_parameters(model)[1::2]:
            parameter.zero_()                                            # B = 0, as training starts
    router = nn.Linear(5, 4)
    user, ids = torch.randn(3, 5), prompts()
    optimizer = torch.optim.AdamW([*adapter_parameters(model), *router.parameters()], lr=0.01)
    losses = []
    for _ in range(8):
        with use_gate(model, router(user).softmax(-1)):
            losses.append(model(ids, labels=ids).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(parameter.grad.abs().sum() > 0 for parameter in [*adapter_parameters(model), *router.parameters()])

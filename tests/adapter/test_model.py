"""The adapter as a PEFT citizen: save and load, several adapters, checkpointing, compilation, refusals."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from recbole_llm.adapter import (
    Gate,
    GatedLoraConfig,
    GatedLoraModel,
    adapter_parameters,
    gated_modules,
    use_gate,
)
from recbole_llm.adapter.config import check_peft
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

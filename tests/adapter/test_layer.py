"""The slots: they compute the functional forms in every PEFT backend, precision and batch layout."""

import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from recbole_llm.adapter import Gate, GatedLoraConfig, gated_delta, gated_modules, mixed_delta, use_gate
from recbole_llm.adapter.layer import GatedB, Slot
from tests.adapter.llama import fill, gated_llama, prompts, softmax_gate, tiny_llama

MIXINGS = ("split", "weight", "output")


class Block(nn.Module):
    """Two linear layers, to look at single outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 5)

    def forward(self, x):
        return self.down(self.up(x))


def gated_block(mixing="split", targets=("up",), **options):
    config = GatedLoraConfig(r=8, lora_alpha=16, num_experts=4, mixing=mixing, target_modules=list(targets), **options)
    model = get_peft_model(Block(), config)
    fill(model)
    return model


def expected_delta(layer, x, gate, mixing):
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return gated_delta(x, A, B, gate, 16 / (8 / 4)) if mixing == "split" else mixed_delta(x, A, B, gate, 16 / 8, mixing)


@pytest.mark.parametrize("through_variant", [True, False])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_layer_adds_the_functional_delta(mixing, through_variant):
    model = gated_block(mixing)
    layer, x, gate = model.base_model.model.up, torch.randn(6, 3, 6), softmax_gate(2, 4)
    if not through_variant:
        layer.lora_variant.clear()                       # a backend without variants: lora_B(lora_A(x)) * scaling
    with use_gate(model, gate):
        actual = layer(x)
    torch.testing.assert_close(actual, layer.base_layer(x) + expected_delta(layer, x, gate, mixing))


def test_uniform_gates_equal_plain_lora_and_a_fresh_adapter_changes_nothing():
    plain = get_peft_model(tiny_llama(), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    config = GatedLoraConfig(r=8, lora_alpha=16, num_experts=4, target_modules="all-linear")
    gated = get_peft_model(tiny_llama(), config)
    with use_gate(gated, softmax_gate(3, 4)):
        assert torch.equal(gated(prompts()).logits, tiny_llama()(prompts()).logits)
    fill(gated)
    assert plain.load_state_dict(gated.state_dict(), strict=True)
    with use_gate(gated, torch.full((3, 4), 0.25)):
        torch.testing.assert_close(gated(prompts()).logits, plain(prompts()).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_new_adapters_start_from_zero_delta_and_a_spread_like_loras(mixing):
    model = get_peft_model(Block(), GatedLoraConfig(r=4, num_experts=2, mixing=mixing, target_modules=["up"]))
    slots = [module for module in model.modules() if isinstance(module, Slot)]
    assert [tuple(slot.weight.shape) for slot in slots] == (
        [(4, 6), (10, 4)] if mixing == "split" else [(2, 4, 6), (2, 10, 4)])
    for slot in slots:
        if isinstance(slot, GatedB):
            assert slot.weight.count_nonzero() == 0
        else:
            assert 0.5 / 6 ** 0.5 < slot.weight.abs().max() <= 1 / 6 ** 0.5


@pytest.mark.parametrize("mixing", MIXINGS)
def test_rows_do_not_see_each_others_gates(mixing):
    model, gate, ids = gated_llama(mixing), softmax_gate(3, 4), prompts()
    with use_gate(model, gate):
        together = model(ids).logits
    for row in range(3):
        with use_gate(model, gate[row:row + 1]):
            alone = model(ids[row:row + 1]).logits
        torch.testing.assert_close(alone, together[row:row + 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_beams_are_adjacent_copies_of_a_row(mixing):
    model, gate, ids = gated_llama(mixing), softmax_gate(3, 4), prompts(6)
    with use_gate(model, gate):
        beams = model(ids).logits
        with pytest.raises(ValueError, match="multiple of the gate"):
            model(ids[:4])
    with use_gate(model, gate.repeat_interleave(2, 0)):
        torch.testing.assert_close(beams, model(ids).logits, rtol=1e-5, atol=1e-6)


def test_beam_search_generates_with_one_gate_per_prompt():
    model, gate, ids = gated_llama("weight").eval(), softmax_gate(3, 4), prompts()
    settings = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with use_gate(model, gate):
        together = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    for row in range(3):
        with use_gate(model, gate[row:row + 1]):
            alone = model.generate(input_ids=ids[row:row + 1], attention_mask=torch.ones(1, 7).long(), **settings)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("mixing", ["split", "output"])
def test_packed_rows_take_a_gate_per_token(mixing):
    model, gate = gated_llama(mixing), softmax_gate(2, 4)
    per_token = torch.cat([gate[:1].expand(3, 4), gate[1:].expand(4, 4)])[None]     # 3 tokens, then 4: [1, 7, 4]
    layer, x = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj"), torch.randn(1, 7, 16)
    with use_gate(model, Gate.per_token(per_token)):
        packed = layer(x)
    for row, part in ((0, slice(0, 3)), (1, slice(3, 7))):
        with use_gate(model, gate[row:row + 1]):
            torch.testing.assert_close(packed[:, part], layer(x[:, part]))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_gate_per_module_reaches_its_module(mixing):
    model = gated_block(mixing, targets=("up", "down"))
    names, gates, x = gated_modules(model), softmax_gate(2, 2, 4).requires_grad_(), torch.randn(2, 3, 6)
    assert names == ("up", "down")
    with use_gate(model, Gate.per_module(gates, names)):
        actual = model(x)
    inner = model.base_model.model
    hidden = inner.up.base_layer(x) + expected_delta(inner.up, x, gates[:, 0], mixing)
    expected = inner.down.base_layer(hidden) + expected_delta(inner.down, hidden, gates[:, 1], mixing)
    torch.testing.assert_close(actual, expected)
    by_model, by_hand = (torch.autograd.grad(y.square().sum(), gates)[0] for y in (actual, expected))
    torch.testing.assert_close(by_model, by_hand)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_float32_masters_on_a_bfloat16_base(mixing):
    model, gate = gated_llama(mixing, dtype=torch.bfloat16), softmax_gate(3, 4)
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert layer.lora_A["default"].weight.dtype == torch.float32
    x = torch.randn(3, 7, 16).bfloat16()
    saved = []
    with use_gate(model, gate), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert not [t for t in saved if t.dtype == torch.float32 and t.numel() >= x.numel()]     # no upcast copy of x
    exact = layer.base_layer(x).float() + expected_delta(layer, x.float(), gate, mixing)
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert layer.lora_A["default"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("mixing", MIXINGS)
def test_autocast(mixing):
    model, gate = gated_llama(mixing), softmax_gate(3, 4)
    with use_gate(model, gate):
        exact = model(prompts(), labels=prompts())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(prompts(), labels=prompts())
    torch.testing.assert_close(mixed.loss.float(), exact.loss, rtol=0.02, atol=0.02)
    mixed.loss.backward()


def test_dropout_is_applied_to_the_adapters_input():
    model = gated_block(lora_dropout=0.5)
    layer, x = model.base_model.model.up, torch.randn(2, 3, 6)
    with use_gate(model, softmax_gate(2, 4)):
        assert not torch.equal(layer(x), layer(x))
        model.eval()
        assert torch.equal(layer(x), layer(x))


def count_mixes(monkeypatch):
    from recbole_llm.adapter import functional
    calls, mix = [], functional.mix
    monkeypatch.setattr(functional, "mix", lambda *args: calls.append(1) or mix(*args))
    return calls


def test_mixed_matrices_are_reused_for_one_user_and_never_stale(monkeypatch):
    model = gated_block("weight").eval()
    layer, x, gate = model.base_model.model.up, torch.randn(2, 3, 6), softmax_gate(2, 4)
    calls = count_mixes(monkeypatch)

    def fresh(n):
        """The layer is right, and `n` matrices were mixed for it."""
        calls.clear()
        with torch.no_grad(), use_gate(model, gate):
            actual = layer(x)
        assert len(calls) == n
        torch.testing.assert_close(actual, layer.base_layer(x) + expected_delta(layer, x, gate, "weight"))

    fresh(2)
    fresh(0)
    gate.copy_(softmax_gate(2, 4, seed=9))                       # the gate changed in place
    fresh(2)
    gate = softmax_gate(2, 4, seed=10)                           # another gate
    fresh(2)
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(2)                   # as an optimizer does
    fresh(1)
    layer.lora_A["default"].weight.data = layer.lora_A["default"].weight.data * 2
    fresh(1)
    calls.clear()
    with use_gate(model, gate):
        layer(x)                                                 # with gradients nothing is kept
    assert len(calls) == 2
    fresh(2)


def test_inference_tensors_are_not_kept(monkeypatch):
    model = gated_block("weight").eval()
    calls = count_mixes(monkeypatch)
    with torch.inference_mode():
        gate = softmax_gate(2, 4)
        with use_gate(model, gate):
            before = model(torch.ones(2, 3, 6))
            gate.copy_(softmax_gate(2, 4, seed=9))
            assert not torch.equal(before, model(torch.ones(2, 3, 6)))
    assert len(calls) == 4


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_quantised_bases(bits, mixing, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_llama(hidden=64).save_pretrained(tmp_path)               # bitsandbytes packs blocks of 32
    settings = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, device_map="cpu")
    model = get_peft_model(base, GatedLoraConfig(r=8, lora_alpha=16, num_experts=4, mixing=mixing,
                                                 target_modules="all-linear"))
    fill(model)
    layer, gate = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj"), softmax_gate(3, 4)
    assert type(layer).__name__ == f"Linear{bits}bit{'Lt' if bits == 8 else ''}"
    x = torch.randn(3, 7, 64)
    with use_gate(model, gate):
        torch.testing.assert_close(layer(x), layer.base_layer(x) + expected_delta(layer, x, gate, mixing),
                                   rtol=0.02, atol=0.02)
        model(prompts(), labels=prompts()).loss.backward()
    assert all(slot.weight.grad.abs().sum() > 0 for slot in model.modules() if isinstance(slot, Slot))
    with pytest.raises(ValueError, match="cannot be merged"):
        layer.merge()

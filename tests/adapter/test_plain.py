"""Plain LoRA that casts weights instead of inputs: PEFT's values, keys, files and merging, without float32 copies."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear

from recbole_llm.adapter import cast_weights
from recbole_llm.adapter.plain import PlainVariant
from tests.adapter.llama import prompts, tiny_llama


def pair(dtype=torch.float32, **options):
    """(PEFT's model, the same with `cast_weights`), B not zero."""
    options = {"r": 8, "lora_alpha": 16, "init_lora_weights": False, "target_modules": "all-linear", **options}
    peft = get_peft_model(tiny_llama(dtype), LoraConfig(task_type="CAUSAL_LM", **options))
    ours = copy.deepcopy(peft)
    cast_weights(ours)
    return peft, ours


def test_values_and_gradients_are_pefts():
    peft, ours = pair()
    results = []
    for model in (peft, ours):
        logits = model(prompts()).logits
        logits.square().sum().backward()
        results.append([logits, *(w.grad for w in model.parameters() if w.requires_grad)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_on_a_bf16_base_nothing_wide_is_kept_in_float32():
    """Of a projection's own inputs: norms and softmax of the base keep theirs."""
    kept = []
    for model in pair(torch.bfloat16):
        layer = next(m for m in model.modules() if isinstance(m, Linear))
        assert layer.lora_A["default"].weight.dtype == torch.float32
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append((t.dtype, tuple(t.shape))) or t, lambda t: t):
            out = layer(torch.randn(3, 7, 16, dtype=torch.bfloat16, requires_grad=True))
        assert out.dtype == torch.bfloat16
        kept.append([shape for dtype, shape in sizes if dtype == torch.float32 and 21 in (shape[0], shape[0] * shape[-2])])
    assert kept[0] and not kept[1]
    peft, ours = pair(torch.bfloat16)
    torch.testing.assert_close(ours(prompts()).logits, peft(prompts()).logits, rtol=0.05, atol=0.05)


def test_a_saved_adapter_loads_in_plain_peft(tmp_path):
    _, ours = pair()
    ours.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert not any(layer.lora_variant for layer in loaded.modules() if isinstance(layer, Linear))
    torch.testing.assert_close(loaded(prompts()).logits, ours(prompts()).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("safe", [True, False])
def test_merging_and_unmerging_are_pefts(safe):
    _, ours = pair()
    expected, base = ours(prompts()).logits, tiny_llama()(prompts()).logits
    ours.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(ours(prompts()).logits, expected, rtol=1e-4, atol=1e-5)
    with ours.disable_adapter():  # PEFT unmerges
        torch.testing.assert_close(ours(prompts()).logits, base, rtol=1e-4, atol=1e-5)


def test_layers_that_compute_otherwise_stay_pefts():
    for options in ({"use_dora": True}, {"lora_bias": True, "target_modules": ["q_proj"]}):
        if "lora_bias" in options:
            with pytest.warns(match="lora_bias"):
                _, ours = pair(**options)
        else:
            _, ours = pair(**options)
        layers = [layer for layer in ours.modules() if isinstance(layer, Linear)]
        assert layers and not any(isinstance(v, PlainVariant) for layer in layers for v in layer.lora_variant.values())

"""GGUF files of each architecture: the LLM that comes out is the one that went in."""


import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize, quantize
from transformers import AutoModelForCausalLM

from recbole_llm.llm.gguf_convert import load_gguf, savable
from recbole_llm.llm.gguf_header import GGUFError
from tests import gguf_files

LAYERS = {"gemma3_text": 6}  # of which one attends to all tokens
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


def logits(model, length: int = 24) -> torch.Tensor:
    with torch.no_grad():
        return model.float()(input_ids=torch.arange(3, 3 + length)[None]).logits


def through_gguf(model, folder, **written):
    """A model as it comes back from a GGUF file by way of safetensors."""
    file = gguf_files.write(folder / "a.gguf", model, **written)
    return AutoModelForCausalLM.from_pretrained(_saved(savable(load_gguf(file)[0]), folder), dtype="auto")


@pytest.mark.parametrize("model_type", gguf_files.TYPES)
def test_each_architecture_gives_the_logits_of_the_model_that_was_written(model_type, tmp_path):
    original = gguf_files.llm(model_type, num_hidden_layers=LAYERS.get(model_type, 2))
    loaded = through_gguf(original, tmp_path)
    assert loaded.dtype == torch.float32 and type(loaded) is type(original)
    torch.testing.assert_close(logits(loaded), logits(original), atol=1e-4, rtol=1e-4)


QUANTISED = [*(("llama", kind) for kind in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")),
             *((model_type, "Q4_0") for model_type in gguf_files.TYPES if model_type != "llama")]  # fmt: skip


@pytest.mark.parametrize("model_type, kind", QUANTISED)
def test_quantised_weights_are_what_their_blocks_say(model_type, kind, tmp_path):
    original = gguf_files.llm(model_type, tie=True, num_hidden_layers=LAYERS.get(model_type, 2))
    loaded = through_gguf(original, tmp_path, kind=kind)
    assert loaded.dtype == torch.bfloat16 and loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert not hasattr(loaded.config, "quantization_config")
    quantisation = GGMLQuantizationType[kind]
    with torch.no_grad():
        for weight in original.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.from_numpy(np.array(dequantize(quantize(weight.numpy(), quantisation), quantisation))))
            weight.copy_(weight.bfloat16())
    torch.testing.assert_close(logits(loaded), logits(original), atol=1e-3, rtol=1e-3)


SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # bytes of a block's float16 scales


@pytest.mark.parametrize("kind, scales", SCALES.items())
def test_k_quants_are_what_their_blocks_say(kind, scales, tmp_path):
    """What Q4_K_M and its like are made of; gguf writes none, so the blocks are random bytes with small scales."""
    name, quantisation = "blk.1.ffn_down.weight", GGMLQuantizationType[kind]
    original = gguf_files.llm(intermediate_size=256)
    raw = np.random.default_rng(0).integers(0, 256, (64, GGML_QUANT_SIZES[quantisation][1]), np.uint8)
    for at in scales:
        raw[:, at : at + 2] = np.array([1e-4], np.float16).view(np.uint8)
    loaded = through_gguf(original, tmp_path, blocks={name: (raw, kind)})
    weights = torch.from_numpy(np.array(dequantize(raw, quantisation))).bfloat16()
    assert weights.shape == (64, 256) and weights.float().std() > 1e-4
    assert torch.equal(loaded.model.layers[1].mlp.down_proj.weight, weights)


def stretched():
    """A Llama 3 and the factors that llama.cpp's converter writes for it."""
    model = gguf_files.llm("llama", rope_parameters=LLAMA3)
    dims = np.arange(0, 16, 2) / 16
    return model, (5e5**-dims / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)


def test_the_stretched_positions_of_llama_3_are_kept(tmp_path):
    original, factors = stretched()
    assert factors.max() == pytest.approx(32) and factors.min() == pytest.approx(1)
    loaded = through_gguf(original, tmp_path, more={"rope_freqs.weight": factors})
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, original.model.rotary_emb.inv_freq, rtol=1e-5, atol=0)
    torch.testing.assert_close(logits(loaded, 100), logits(original, 100), atol=1e-4, rtol=1e-4)


LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize("written", [{"scaling.type": ("add_string", "linear"), "scaling.factor": ("add_float32", 8.0)},
                                     {"scaling.factor": ("add_float32", 8.0)}, {"scale_linear": ("add_float32", 8.0)}])  # fmt: skip
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_positions_stretched_linearly_are_kept(model_type, written, tmp_path):
    """Gemma 3 from 4B on, whose layers that look at few tokens are not stretched."""
    layers = LAYERS.get(model_type, 2)
    ropes = gguf_files.llm(model_type).config.rope_parameters
    far = {"full_attention": {**ropes["full_attention"], **LINEAR}} if model_type == "gemma3_text" else LINEAR
    original = gguf_files.llm(model_type, num_hidden_layers=layers, rope_parameters={**ropes, **far})
    plain = gguf_files.llm(model_type, num_hidden_layers=layers)
    plain.load_state_dict(original.state_dict())
    assert not torch.allclose(logits(plain), logits(original), atol=1e-3)
    edit = {f"{gguf_files.TYPES[model_type]}.rope.{key}": value for key, value in written.items()}
    torch.testing.assert_close(logits(through_gguf(original, tmp_path, edit=edit)), logits(original), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value, words", [(0.0, "holds zeros alone"), (float("nan"), "no numbers"), (float("inf"), "no numbers")])
def test_weights_that_were_never_written_or_are_no_numbers_are_damage(value, words, tmp_path):
    model = gguf_files.llm()
    with torch.no_grad():
        weight = model.model.layers[1].mlp.up_proj.weight
        weight.copy_(weight * 0) if value == 0 else weight[3, 5].fill_(value)
    with pytest.raises(GGUFError, match=f"a.gguf' is damaged.*layers.1.mlp.up_proj.weight holds.* {words.split()[-1]}"):
        load_gguf(gguf_files.write(tmp_path / "a.gguf", model))


def _saved(model, folder):
    model.save_pretrained(folder / "saved")
    return folder / "saved"


def test_positions_stretched_in_another_way_are_refused(tmp_path):
    original, factors = stretched()
    file = gguf_files.write(tmp_path / "a.gguf", original, more={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(GGUFError, match="rope_freqs.weight that is not Llama 3's"):
        load_gguf(file)
    file = gguf_files.write(tmp_path / "b.gguf", original, edit={"llama.rope.scaling.type": ("add_string", "yarn")})
    with pytest.raises(GGUFError, match="yarn RoPE scaling"):
        load_gguf(file)
    twice = {"edit": {"llama.rope.scaling.factor": ("add_float32", 8.0)}, "more": {"rope_freqs.weight": factors}}
    with pytest.raises(GGUFError, match="stretches its positions twice, by rope_freqs.weight and by 8.0"):
        load_gguf(gguf_files.write(tmp_path / "c.gguf", original, **twice))


def test_tensors_without_a_place_and_places_without_a_tensor_are_refused(tmp_path):
    bias = {"blk.0.attn_q.bias": np.zeros(64, np.float32)}
    with pytest.raises(GGUFError, match=r"holds \['blk.0.attn_q.bias'\], for which a LlamaForCausalLM .* has no place"):
        load_gguf(gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), more=bias))
    with pytest.raises(GGUFError, match=r"lacks weights .*layers.1.mlp.down_proj.weight"):
        load_gguf(gguf_files.write(tmp_path / "b.gguf", gguf_files.llm(), drop=("blk.1.ffn_down.weight",)))
    narrow = {"llama.feed_forward_length": ("add_uint32", 64)}
    with pytest.raises(GGUFError, match=r"holds blk.0.ffn_down.weight of shape \[64, 96\], where its own settings make it \[64, 64\]"):
        load_gguf(gguf_files.write(tmp_path / "c.gguf", gguf_files.llm(), edit=narrow))


SETTINGS = ["attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "block_count", "context_length",
            "embedding_length", "feed_forward_length", "rope.dimension_count"]  # fmt: skip


@pytest.mark.parametrize("wrong", [0, 3, 2**31])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_a_damaged_header_end_in_one_kind_of_error_or_in_the_same_shapes(setting, wrong, tmp_path):
    kind = "add_float32" if setting.endswith("epsilon") else "add_uint32"
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit={f"llama.{setting}": (kind, wrong)})
    refused = None
    try:
        loaded, _ = load_gguf(file)
    except GGUFError as error:
        refused = str(error)
    assert refused is None or ("a.gguf" in refused and "; " in refused)
    if setting in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count"):
        assert refused
    elif refused is None:
        assert {w.shape for w in loaded.state_dict().values()} == {w.shape for w in gguf_files.llm().state_dict().values()}

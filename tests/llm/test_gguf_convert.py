"""GGUF files of each architecture: the LLM and the tokenizer that come out are those that went in."""

import logging

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

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


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_quantised_weights_are_what_their_blocks_say(kind, tmp_path):
    original = gguf_files.llm(tie=True)
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


def test_tensors_without_a_place_and_places_without_a_tensor_are_refused(tmp_path):
    bias = {"blk.0.attn_q.bias": np.zeros(64, np.float32)}
    with pytest.raises(GGUFError, match=r"holds \['blk.0.attn_q.bias'\], for which a LlamaForCausalLM .* has no place"):
        load_gguf(gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), more=bias))
    with pytest.raises(GGUFError, match=r"lacks weights .*layers.1.mlp.down_proj.weight"):
        load_gguf(gguf_files.write(tmp_path / "b.gguf", gguf_files.llm(), drop=("blk.1.ffn_down.weight",)))
    narrow = {"llama.feed_forward_length": ("add_uint32", 64)}
    with pytest.raises(GGUFError, match="or has them in other shapes.*mlp"):
        load_gguf(gguf_files.write(tmp_path / "c.gguf", gguf_files.llm(), edit=narrow))


TEXTS = ["The Matrix", "12 Monkeys (1995)", "Toy  Story  2 ", "é ½ 漢字\n\t1", "don't </s> <s>", "<|x|>   42"]


@pytest.mark.parametrize("add_bos", [False, True])
def test_the_byte_level_tokenizer_encodes_as_the_original(add_bos, tmp_path):
    original = gguf_files.byte_level()
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit={"tokenizer.ggml.add_bos_token": ("add_bool", add_bos)})
    tokenizer = AutoTokenizer.from_pretrained(_saved(load_gguf(file)[1], tmp_path))
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2, 2)
    assert len(tokenizer) == 300
    reference = PreTrainedTokenizerFast(tokenizer_object=original, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    for options in ({}, {"split_special_tokens": True}):
        for text in TEXTS:
            expected = reference(text, add_special_tokens=False, **options)["input_ids"]
            assert tokenizer(text, add_special_tokens=False, **options)["input_ids"] == expected, text
            assert tokenizer(text, **options)["input_ids"] == [1] * add_bos + expected
        assert tokenizer.decode(tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"]) == TEXTS[2]


def test_a_sentencepiece_tokenizer_starts_with_its_start_token(tmp_path):
    pieces = [*"▁thecaat", "th", "he", "the", "▁the", "ca", "cat", "▁cat"]
    tokens = list(dict.fromkeys([*gguf_files.SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]))
    scores = [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]
    edit = {
        "tokenizer.ggml.model": ("add_string", "llama"), "tokenizer.ggml.pre": ("add_string", "default"),
        "tokenizer.ggml.tokens": ("add_array", tokens), "tokenizer.ggml.scores": ("add_array", scores),
        "tokenizer.ggml.token_type": ("add_array", [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)),
        "tokenizer.ggml.merges": ("", None), "tokenizer.ggml.add_bos_token": ("", None),
    }  # fmt: skip
    _, tokenizer = load_gguf(gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(vocab_size=len(tokens)), edit=edit))
    tokenizer = AutoTokenizer.from_pretrained(_saved(tokenizer, tmp_path))
    assert tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"]) == ["<s>", "▁the", "▁cat"]
    assert tokenizer.decode(tokenizer("the é cat", add_special_tokens=False)["input_ids"]) == "the é cat"


def test_words_that_are_cut_in_an_unknown_way_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load_gguf(gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit={"tokenizer.ggml.pre": ("add_string", "mpt")}))
    assert "tokenizer.ggml.pre: mpt) is not known here" in caplog.text
    caplog.clear()
    load_gguf(gguf_files.write(tmp_path / "b.gguf", gguf_files.llm()))
    assert "is not known here" not in caplog.text

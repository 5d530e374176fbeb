"""What a GGUF file may describe that is not read, each with its own message."""

import pytest

from recbole_llm.llm.gguf_check import check_header
from recbole_llm.llm.gguf_header import GGUFError, read_header
from tests import gguf_files


def test_a_whole_model_passes_and_so_do_settings_that_change_nothing(tmp_path):
    neutral = {"llama.attention.causal": ("add_bool", True), "llama.rope.scaling.factor": ("add_float32", 0.0), "llama.rope.scaling.type": ("add_string", "linear")}
    for edit in ({}, neutral):
        check_header(read_header(gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit=edit)))


NAMED = {
    "a part": ({"split.count": ("add_uint16", 3)}, "is one of 3 parts; join them"),
    "no tokenizer": ({"tokenizer.ggml.model": ("", None)}, "holds no tokenizer"),
    "no words": ({"tokenizer.ggml.tokens": ("", None)}, "holds no tokenizer"),
    "BERT's tokenizer": ({"tokenizer.ggml.model": ("add_string", "bert")}, "a tokenizer of the kind 'bert'"),
    "no merges": ({"tokenizer.ggml.merges": ("", None)}, "holds no tokenizer.ggml.merges: its tokenizer is not whole"),
    "an end token beyond the last": ({"tokenizer.ggml.eos_token_id": ("add_uint32", 5000)}, "eos_token_id 5000 and 300 tokens"),
    "a start token that is no number": ({"tokenizer.ggml.bos_token_id": ("add_string", "1")}, "bos_token_id '1' and 300 tokens"),
    "more layers than it holds": ({"llama.block_count": ("add_uint32", 37378)}, "holds 2 layers and says that it has 37378"),
    "positions stretched by less than nothing": ({"llama.rope.scaling.factor": ("add_float32", -2.0)}, "stretches its positions by -2.0; download"),
    "positions stretched by a word": ({"llama.rope.scale_linear": ("add_string", "2")}, "stretches its positions by inf; download"),
    "no base of positions": ({"llama.rope.freq_base": ("add_float32", 0.0)}, "is damaged: llama.rope.freq_base is 0.0"),
    "a base that is no number": ({"llama.rope.freq_base": ("add_float32", float("nan"))}, "is damaged: llama.rope.freq_base is nan"),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": ("add_float32", -1e-6)}, "is damaged: llama.attention.layer_norm_rms_epsilon is -"),
    "tokens that see later ones": ({"llama.attention.causal": ("add_bool", False)}, r"sets llama.attention.causal to False, .*\(only True\)"),
    "an attention scale": ({"llama.attention.scale": ("add_float32", 0.5)}, "sets llama.attention.scale to 0.5"),
    "another's tokenizer": ({"tokenizer.ggml.tokens": ("add_array", list("abc"))}, "a tokenizer of 3 tokens and embeddings of 300"),
}


@pytest.mark.parametrize("edit, words", NAMED.values(), ids=NAMED.keys())
def test_what_is_no_causal_lm_with_its_tokenizer_is_named(edit, words, tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit=edit)
    with pytest.raises(GGUFError, match=words):
        check_header(read_header(file))


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_a_qwen_with_sentencepiece(model_type, tmp_path):
    edit = gguf_files.sentence_pieces(["a"])
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(model_type, vocab_size=260), edit=edit)
    with pytest.raises(GGUFError, match=rf"a tokenizer of the kind 'llama' \(SentencePiece\); that of a {model_type} is gpt2 .*; choose another file"):
        check_header(read_header(file))
    check_header(read_header(gguf_files.write(tmp_path / "b.gguf", gguf_files.llm(vocab_size=260), edit=edit)))


@pytest.mark.parametrize("architecture", ["clip", "bert", "t5", "qwen2moe"])
def test_other_architectures(architecture, tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), architecture=architecture)
    with pytest.raises(GGUFError, match=f"architecture '{architecture}', which is not read here .only llama, qwen2.*safetensors"):
        check_header(read_header(file))


def test_an_adapter_is_no_model(tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), drop=("token_embd.weight",))
    with pytest.raises(GGUFError, match="no whole model, perhaps an adapter"):
        check_header(read_header(file))


@pytest.mark.parametrize(
    "edit, words",
    [
        ({"gemma3.attention.sliding_window": ("", None)}, "holds no gemma3.attention.sliding_window"),
        ({"gemma3.attention.sliding_window_pattern": ("add_uint32", 4)}, r"sets gemma3.attention.sliding_window_pattern to 4, .*\(only 6\)"),
        ({"gemma3.rope.freq_base_swa": ("add_float32", 5e5)}, "sets gemma3.rope.freq_base_swa to 500000.0"),
        ({"gemma3.final_logit_softcapping": ("add_float32", 30.0)}, "sets gemma3.final_logit_softcapping to 30.0"),
    ],
)
def test_a_gemma_3_of_another_make(edit, words, tmp_path):
    with pytest.raises(GGUFError, match=words):
        check_header(read_header(gguf_files.write(tmp_path / "a.gguf", gguf_files.llm("gemma3_text"), edit=edit)))

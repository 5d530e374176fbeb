"""Small GGUF files as llama.cpp's converter writes them, from random models of transformers, with the package gguf."""

import json
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.architectures import build
from tests.tiny import WORDS

SPECIAL = ("<unk>", "<s>", "</s>")
TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}  # transformers' name: llama.cpp's
# quantisation needs rows of 32 or, for k-quants, 256 numbers; a head is not hidden / heads wide, where a family allows for it
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
OWN = {"qwen3": {"head_dim": 32}, "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}}


def byte_level(vocab_size: int = 300) -> Tokenizer:
    """A trained byte-level BPE, digits kept apart as SmolLM2's tokenizer keeps them."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a  1 b  2"] * 500 + [f" {a} {b}" for a in WORDS for b in WORDS], trainer)
    assert tokenizer.get_vocab_size() == vocab_size and tokenizer.token_to_id("ĠĠ")  # which GPT-2's cuts before a digit would split
    return tokenizer


def llm(model_type: str = "llama", **changes):
    """A random model, tied as its family ties."""
    tie = model_type == "gemma3_text" or changes.pop("tie", False)
    return build(model_type, **{**SIZES, **OWN.get(model_type, {}), "tie_word_embeddings": tie, **changes})


def write(path: Path, model, tokenizer: Tokenizer | None = None, kind: str = "F32", edit=None, more=None, drop=(), blocks=None, architecture=None) -> Path:
    """``model`` as a GGUF file.

    Args:
        kind: quantisation of matrices; vectors stay F32.
        edit: {metadata key: (GGUFWriter's method, value)} over what is written; a value of None leaves the key out.
        more: {name: array} further tensors. drop: names of tensors to leave out. architecture: another name to write.
        blocks: {name: (bytes [rows, n], their quantisation)} in place of these tensors, for what gguf reads and does not write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arch = TYPES[model.config.model_type]
    writer = GGUFWriter(path, architecture or arch)
    meta = {**_shape(arch, model.config), **_words(tokenizer or byte_level()), **(edit or {})}
    for key, (method, value) in meta.items():
        if value is not None:
            getattr(writer, method)(key, value)
    for name, values in {**_tensors(arch, model), **(more or {})}.items():
        if name in (blocks or {}):
            writer.add_tensor(name, blocks[name][0], raw_dtype=GGMLQuantizationType[blocks[name][1]])
        elif name not in drop:
            matrix = values.ndim > 1 and kind != "F32"
            raw = GGMLQuantizationType[kind] if matrix else None
            writer.add_tensor(name, quantize(values, raw) if matrix else values, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shape(arch: str, config) -> dict:
    ropes = config.rope_parameters
    meta = {
        "context_length": ("add_uint32", config.max_position_embeddings),
        "block_count": ("add_uint32", config.num_hidden_layers),
        "feed_forward_length": ("add_uint32", config.intermediate_size),
        "embedding_length": ("add_uint32", config.hidden_size),
        "attention.head_count": ("add_uint32", config.num_attention_heads),
        "attention.head_count_kv": ("add_uint32", config.num_key_value_heads),
        "attention.layer_norm_rms_epsilon": ("add_float32", config.rms_norm_eps),
        "rope.freq_base": ("add_float32", float(ropes.get("full_attention", ropes)["rope_theta"])),
    }
    if arch == "llama":
        meta["rope.dimension_count"] = ("add_uint32", config.head_dim)
    if arch in ("qwen3", "gemma3"):
        meta["attention.key_length"] = ("add_uint32", config.head_dim)
    if arch == "gemma3":
        meta["attention.sliding_window"] = ("add_uint32", config.sliding_window)
    return {f"{arch}.{key}": value for key, value in meta.items()}


def _words(tokenizer: Tokenizer) -> dict:
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    types = [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token, _ in vocab]
    keys = {
        "model": ("add_string", "gpt2"),
        "pre": ("add_string", "smollm"),
        "tokens": ("add_array", [token for token, _ in vocab]),
        "token_type": ("add_array", [int(kind) for kind in types]),
        "merges": ("add_array", merges),
        "unknown_token_id": ("add_uint32", 0),
        "bos_token_id": ("add_uint32", 1),
        "eos_token_id": ("add_uint32", 2),
        "padding_token_id": ("add_uint32", 2),
        "add_bos_token": ("add_bool", False),
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def _tensors(arch: str, model) -> dict[str, np.ndarray]:
    """The model's weights as llama.cpp's converter stores them."""
    (number,) = [number for number, name in MODEL_ARCH_NAMES.items() if name == arch]
    names = get_tensor_name_map(number, model.config.num_hidden_layers)
    tied, tensors = model.config.tie_word_embeddings, {}
    for name, weight in model.state_dict().items():
        if tied and name.startswith("lm_head"):
            continue
        values = weight.float()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _rotary_pairs(values, model.config.num_attention_heads if "q_proj" in name else model.config.num_key_value_heads)
        if arch == "gemma3" and "norm" in name:
            values = values + 1
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values.numpy().copy()
    return tensors


def sentence_pieces(pieces: list[str], **changes) -> dict:
    """``edit`` for a SentencePiece tokenizer: special tokens, bytes, then ``pieces``, the likeliest first."""
    tokens = list(dict.fromkeys([*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]))
    rest = len(tokens) - 259
    keys = {
        "model": ("add_string", "llama"), "pre": ("add_string", "default"), "tokens": ("add_array", tokens),
        "scores": ("add_array", [0.0] * 259 + [-float(i) for i in range(rest)]),
        "token_type": ("add_array", [2, 3, 3] + [6] * 256 + [1] * rest),
        "merges": ("", None), "add_bos_token": ("", None), **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def _rotary_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a projection in the order of llama.cpp: the two numbers that RoPE turns together stand side by side."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)

"""Whether a GGUF file is a causal LM that is read here exactly: its architecture, its settings, its tokenizer."""

from __future__ import annotations

from math import inf

from recbole_llm.llm.gguf_header import FOLDER, GGUFError, Header

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")  # whose logits are checked against transformers' own
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece"}
QWEN = ("qwen2", "qwen3")  # architectures whose own tokenizers are byte-level BPE
WORDS = {"gpt2": "tokenizer.ggml.merges", "llama": "tokenizer.ggml.scores"}
SPECIAL = [f"tokenizer.ggml.{kind}_token_id" for kind in ("bos", "eos", "unknown", "padding")]  # which transformers reads
ROPE_FACTORS = "rope_freqs.weight"  # the tensor that stretches Llama 3's positions
POSITIVE = ("rope.freq_base", "attention.layer_norm_rms_epsilon")
# What llama.cpp computes otherwise where a header has another value, and transformers does not read from it
NEUTRAL = {"attention.causal": True, "attention.clamp_kqv": 0.0, "attention.scale": 0.0, "attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0,
           "attention.sliding_window_pattern": 6, "rope.freq_base_swa": 10000.0, "logit_scale": 0.0, "residual_scale": 0.0, "embedding_scale": 0.0}  # fmt: skip


def check_header(header: Header) -> None:
    """Whether what a file describes is a causal LM with its tokenizer, of an architecture that is read exactly.

    Raises:
        GGUFError: what it is instead.
    """
    path, meta = header.path, header.metadata
    if header.architecture not in ARCHITECTURES:
        raise GGUFError(
            path, f"is of the architecture {header.architecture!r}, which is not read here (only {', '.join(ARCHITECTURES)})",
            f"choose another model, {FOLDER}",
        )  # fmt: skip
    if meta.get("split.count", 1) not in (0, 1):
        raise GGUFError(path, f"is one of {meta['split.count']} parts", "join them with llama-gguf-split --merge")
    table = header.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise GGUFError(path, "holds no token_embd.weight: it is no whole model, perhaps an adapter", "give the model's own file")
    _check_tokenizer(header, table.shape[0])
    blocks = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    if len(blocks) != header.own("block_count"):
        raise GGUFError(
            path, f"holds {len(blocks)} layers and says that it has {header.own('block_count')} ({header.architecture}.block_count)",
            "download it again",
        )  # fmt: skip
    _check_settings(header)


def _check_settings(header: Header) -> None:
    path = header.path
    if (scaling := header.own("rope.scaling.type", "none")) not in ("none", "linear"):
        raise GGUFError(path, f"stretches its positions ({scaling} RoPE scaling), which is not read here", f"choose another, {FOLDER}")
    for key in POSITIVE:
        if not (isinstance(value := header.own(key, 1.0), (int, float)) and 0 < value < inf):
            raise GGUFError(path, f"is damaged: {header.architecture}.{key} is {value!r}", "download it again")
    if not 0 < linear_stretch(header) < inf:
        raise GGUFError(path, f"is damaged: it stretches its positions by {linear_stretch(header)}", "download it again")
    if ROPE_FACTORS in header.tensors and linear_stretch(header) != 1.0:
        raise GGUFError(
            path, f"stretches its positions twice, by {ROPE_FACTORS} and by {linear_stretch(header)}, which is not read here",
            f"choose another, {FOLDER}",
        )  # fmt: skip
    if header.architecture == "gemma3" and not header.own("attention.sliding_window"):
        raise GGUFError(path, "holds no gemma3.attention.sliding_window, how far most of its layers look back", f"choose another file, {FOLDER}")
    for key, neutral in NEUTRAL.items():
        if (value := header.own(key, neutral)) != neutral:
            raise GGUFError(path, f"sets {header.architecture}.{key} to {value!r}, which is not read here (only {neutral!r})", f"choose another file, {FOLDER}")


def _check_tokenizer(header: Header, embeddings: int) -> None:
    path, meta = header.path, header.metadata
    kind, tokens = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.tokens", 0)
    if kind not in TOKENIZERS or not tokens:
        found = "no tokenizer" if kind in (None, "none", "no_vocab") or not tokens else f"a tokenizer of the kind {kind!r}"
        known = ", ".join(f"{name} ({words})" for name, words in TOKENIZERS.items())
        raise GGUFError(path, f"holds {found}; {known} are read", f"choose a file with one, {FOLDER}")
    if header.architecture in QWEN and kind != "gpt2":
        raise GGUFError(
            path, f"holds a tokenizer of the kind {kind!r} ({TOKENIZERS[kind]}); that of a {header.architecture} is gpt2 ({TOKENIZERS['gpt2']})",
            f"choose another file, {FOLDER}",
        )  # fmt: skip
    if tokens != embeddings:
        raise GGUFError(
            path, f"holds a tokenizer of {tokens} tokens and embeddings of {embeddings}: they are of two models",
            "choose a file made from one",
        )  # fmt: skip
    if not meta.get(WORDS[kind]):
        raise GGUFError(path, f"holds no {WORDS[kind]}: its tokenizer is not whole", f"download it again, {FOLDER}")
    for key in SPECIAL:
        if key in meta and not (type(meta[key]) is int and 0 <= meta[key] < tokens):
            raise GGUFError(path, f"is damaged: it holds {key} {meta[key]!r} and {tokens} tokens", "download it again")


def linear_stretch(header: Header) -> float:
    """By what positions are divided (linear RoPE scaling); 1.0 where they are not. A factor without a type is linear, as in llama.cpp."""
    if header.own("rope.scaling.type", "linear") != "linear":
        return 1.0
    factor = header.own("rope.scaling.factor") or header.own("rope.scale_linear") or 1.0
    return float(factor) if isinstance(factor, (int, float)) else inf

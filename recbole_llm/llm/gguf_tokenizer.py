"""The tokenizer of a GGUF file, with what transformers does not take from its header (:mod:`recbole_llm.llm.gguf_convert`)."""

from __future__ import annotations

import json
from logging import getLogger

from recbole_llm.llm.gguf_check import QWEN
from recbole_llm.llm.gguf_header import Header

DIGITS_APART = ("smollm",)  # values of tokenizer.ggml.pre
GPT2_LIKE = ("gpt-2", "llama-bpe", "llama3", "llama-v3", "qwen2", *DIGITS_APART)  # transformers' or ours is theirs
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")  # Llama 3's and Mistral's, which set ignore_merges


def gguf_tokenizer(where: dict, header: Header):
    """The tokenizer of the file that ``where`` names for transformers' ``from_pretrained``."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer, count = PreTrainedTokenizerFast.from_pretrained(**where), header.metadata["tokenizer.ggml.tokens"]
    if len(tokenizer) > count:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < count]
        backend = Tokenizer.from_str(json.dumps(backend))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)
    if header.metadata["tokenizer.ggml.model"] == "gpt2":
        _cut_words(tokenizer.backend_tokenizer, header)
        if header.architecture in QWEN:
            _as_qwen_s_own(tokenizer, header)
    elif header.architecture != "gemma3" and header.metadata.get("tokenizer.ggml.add_space_prefix") is False:  # Gemma's has none
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _cut_words(backend, header: Header) -> None:
    """Cuts text into words as the file says, as far as transformers has not."""
    from tokenizers import pre_tokenizers

    cut = header.metadata.get("tokenizer.ggml.pre")
    if cut in DIGITS_APART:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        apart = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([apart, words])
    elif cut not in GPT2_LIKE and cut not in _splits():
        getLogger().warning(
            f"llm_path {str(header.path)!r}: how its tokenizer cuts words (tokenizer.ggml.pre: {cut}) is not known here; GPT-2's way "
            "is taken. A folder with the model's own tokenizer.json and safetensors is exact."
        )
    if cut in WHOLE_WORDS:  # a word that is a token stays one, also where no merges lead to it; transformers' splits do not say so
        backend.model.ignore_merges = True


def _splits() -> dict:
    """How transformers cuts words in GGUF files, by ``tokenizer.ggml.pre``; versions without this table are taken to know no other way."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return {}
    return GGUF_PRE_TOKENIZER_SPLITS


def _as_qwen_s_own(tokenizer, header: Header) -> None:
    """What the tokenizer.json of Qwen2 and Qwen3 has and their GGUF files do not say: a file and a folder of one model give the same prompts."""
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    # Qwen's tokenizers name no start token; files take one from the model's config.json, and by add_bos_token it is not used.
    # Without that key llama.cpp uses none either. Other architectures' do name one that they do not add by themselves (SmolLM2).
    if not header.metadata.get("tokenizer.ggml.add_bos_token"):
        tokenizer.bos_token = None

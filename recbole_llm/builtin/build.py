"""Builds the built-in Llama from a size name and writes it as a plain Hugging Face folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from recbole_llm.builtin import circuits
from recbole_llm.builtin.layout import Words
from recbole_llm.builtin.openers import flag_tokens

ROPE_THETA = 1e10  # most rotary pairs stand still over a prompt: content is compared alike at every distance
SIZES = {
    name: {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 5, "num_attention_heads": 5,
           "head_dim": head}
    for name, (hidden, inner, head) in {
        "tiny": (80, 128, 64), "small": (200, 384, 64), "base": (320, 256, 96), "large": (400, 384, 128),
    }.items()
}


def known_words(tokenizer) -> Words:
    """What the structured start must know of the vocabulary."""
    ids = tokenizer.convert_tokens_to_ids
    return Words(
        openers=flag_tokens(tokenizer), marks=ids([",", ".", ":", "?", "Ġis", "Ġare", "Ġtitles"]), stop=ids("."), colon=ids(":"),
        yes_no=tuple(ids(["ĠYes", "ĠNo"])), digits=ids(list("0123456789")),
    )  # fmt: skip


def build_model(size: str, tokenizer, seed: int, structured: bool = True) -> LlamaForCausalLM:
    """A Llama of a named size with random weights, or with the structured start of ``circuits``.

    Raises:
        ValueError: ``size`` is not one of ``SIZES``.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; choose one of {sorted(SIZES)}")
    torch.manual_seed(seed)
    hidden = SIZES[size]["hidden_size"]
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA}, initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **SIZES[size],
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, hidden**-0.5)  # rows of unit norm, as the projectors give
    if structured:
        circuits.install(model, seed, known_words(tokenizer))
    return model


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def export(model: LlamaForCausalLM, tokenizer, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config, generation config, weights and tokenizer; every file is replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / ".staging"
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype)
    copy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    copy.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    for file in sorted(staging.iterdir()):
        os.replace(file, folder / file.name)
    staging.rmdir()


def read_back(folder: Path) -> LlamaForCausalLM:
    """The model as others will read it: rounded to what :func:`export` wrote, computed in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def write_json(path: Path, value) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1))

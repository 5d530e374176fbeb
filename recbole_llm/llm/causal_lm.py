"""One forward of any causal LM: the inputs that it takes, the logits that are wanted, and greedy decoding.

Prompts are embeddings [B, P, d], LEFT-padded.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager

import torch


def base_of(llm):
    """The model beneath a PEFT wrapper."""
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def accepts(llm, name):
    return name in inspect.signature(type(base_of(llm)).forward).parameters


def inputs_of(llm, embeds, mask, positions, keep, **others):
    """Arguments of one forward that gives at least the last ``keep`` positions' logits, as far as the model takes them."""
    inputs = {"inputs_embeds": cast(llm, embeds), "attention_mask": mask, **others}
    if accepts(llm, "position_ids"):
        inputs["position_ids"] = positions
    if accepts(llm, "logits_to_keep"):  # callers slice as well, for models that return all
        inputs["logits_to_keep"] = keep
    return inputs


def forward(llm, embeds, mask, positions, keep, tokens=None, **others):
    """One forward; arguments as of :func:`inputs_of`.

    Args:
        tokens: [U] ids whose logits alone are wanted, [.., U] in this order; None: the vocabulary's.
    """
    inputs = inputs_of(llm, embeds, mask, positions, keep, **others)
    if tokens is None:
        return llm(**inputs)
    with _head_of(llm, tokens):
        out = llm(**inputs)
    if out.logits.shape[-1] != len(tokens):  # a head of another kind, or one that the model does not call as a module
        out.logits = out.logits[..., tokens]
    return out


@contextmanager
def _head_of(llm, tokens):
    """Inside, a linear output head multiplies by the rows of ``tokens`` only, in float32; what the model does to logits follows.

    In bfloat16 a logit has 8 bits, so that scores of one row's items would be equal by rounding (P(Yes): a third of them).
    """
    head = llm.get_output_embeddings()
    if type(head) is not torch.nn.Linear or "forward" in vars(head):  # quantised, adapted, or hooked by Accelerate
        yield
        return

    def cut(hidden):  # indexed here: under FSDP weights are whole only while the model runs
        bias = None if head.bias is None else head.bias[tokens].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), head.weight[tokens].float(), bias)

    head.forward = cut
    try:
        yield
    finally:
        del head.forward


def cast(llm, embeds):
    """Embeddings in the LLM's dtype: a projector may be kept in float32."""
    return embeds.to(llm.get_input_embeddings().weight.dtype)


def positions_of(mask):
    """Positions [B, P] that count real tokens of ``mask [B, P]`` from 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def generate(llm, prompt_embeds, prompt_mask, max_new_tokens, eos_token_id, pad_token_id):
    """Greedy continuation of left-padded prompts: token ids [B, <= max_new_tokens], without the prompt.

    The model's own generation settings (sampling, penalties) do not apply. Rows that end early hold `pad_token_id`.
    """
    check_prompt(prompt_embeds, prompt_mask.bool())
    return llm.generate(
        inputs_embeds=cast(llm, prompt_embeds),
        attention_mask=prompt_mask.long(),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def check_prompt(prompt_embeds, prompt_mask):
    if prompt_mask.shape != prompt_embeds.shape[:2]:
        raise ValueError(
            f"prompt_mask {tuple(prompt_mask.shape)} must be [B, P] for prompt_embeds [B, P, d], "
            f"here {tuple(prompt_embeds.shape)}"
        )
    if not bool(prompt_mask[:, -1].all()) or bool((prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any()):
        raise ValueError("prompts must be padded on the left only and hold at least one token")


def silence_dropout(llm: torch.nn.Module) -> None:
    """Turn off the frozen LLM's own dropout for good: its layers must be in training mode to checkpoint activations."""
    for name, module in llm.named_modules():
        if "lora_" in name:
            continue
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0

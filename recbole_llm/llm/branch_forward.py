"""Forwards of any causal LM over prompts and their branches: what `scoring` and `yes_no` share.

Prompts are embeddings [B, P, d], LEFT-padded; branches (what may follow a prompt) are right-padded. Three ways:

- ``tree``: one forward over [prompt, branch 1, ..., branch C]; a 4-D mask lets each branch see the prompt and itself.
- ``cache``: the prompt once, its key-value cache repeated C times, then all branches as a batch of B*C.
- ``separate``: prompt and branch together, one forward per branch; holds for any causal LM.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import contextmanager
from functools import cache

import torch

METHODS = ("tree", "cache", "separate")
_MASKED_ATTENTION = ("eager", "sdpa")  # implementations that apply an additive 4-D mask as it is given
_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_logger = logging.getLogger(__name__)


def pick_method(llm, method, path_length):
    """``method``, or for "auto" the fastest that is exact for this model (:func:`choose_scorer`), which is logged once.

    Raises:
        ValueError: the method is unknown.
    """
    if method == "auto":
        method, reason = choose_scorer(llm, path_length)
        _log_choice(type(base_of(llm)).__name__, method, reason)
    if method not in METHODS:
        raise ValueError(f"scoring method {method!r} is unknown; use auto, {', '.join(METHODS)}")
    return method


def choose_scorer(llm, path_length=0):
    """The fastest method that is exact for this model, and why: (method, reason).

    path_length: tokens from the start of a prompt to the end of its longest branch. A 4-D mask replaces the model's own
    sliding window, so the tree holds only where no path is longer than the window.
    """
    config, model = llm.config.get_text_config(), base_of(llm)
    if type(model).__module__.startswith("transformers_modules."):
        return "separate", "its code came with the checkpoint, and how that reads masks and caches is unknown"
    layers = {kind for key in ("layer_types", "layers_block_type") for kind in getattr(config, key, None) or ()}
    if getattr(model, "_is_stateful", False) or layers - _KNOWN_LAYERS:
        return "separate", "it keeps a running state, which branches cannot share"
    if not _accepts(llm, "position_ids"):
        return "cache", "it takes no position_ids, which the branches of a tree need"
    if getattr(config, "alibi", False) or getattr(config, "attention_types", None):  # Falcon with ALiBi, GPT-Neo
        return "cache", "its attention counts places in the sequence, not positions"
    implementation = getattr(config, "_attn_implementation", None) or "eager"
    if implementation not in _MASKED_ATTENTION:
        return "cache", f"attention {implementation!r} takes no 4-D mask"
    window = attention_window(config)
    if window is not None and path_length > window:
        return "cache", f"prompts with their titles exceed its attention window of {window} tokens"
    return "tree", "one forward for all candidates"


def attention_window(config):
    """Smallest window of any attention layer in tokens, or None where all layers see everything."""
    layers = getattr(config, "layer_types", None)
    if layers is not None and not {"sliding_attention", "chunked_attention"} & set(layers):
        return None
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if size), default=None)


@cache
def _log_choice(model, method, reason):
    (_logger.info if method == "tree" else _logger.warning)("%s candidates are scored by %r: %s", model, method, reason)


def tree_mask(prompt_mask, owner, offset, valid, dtype):
    """[B, 1, S, S] additive mask, S = P + N. Additive because a boolean one is silently wrong in eager attention.

    Padding sees itself only, which keeps every softmax finite, and nothing else sees it.
    """
    batch, length = prompt_mask.shape
    prompt = torch.full_like(prompt_mask, -1, dtype=torch.long)
    owner = torch.cat([prompt, owner], dim=1)  # [B, S]: branch of each place, -1 in the prompt
    step = torch.cat([torch.arange(length, device=owner.device).expand(batch, -1), length + offset], dim=1)
    real = torch.cat([prompt_mask, valid], dim=1)
    seen = (owner[:, None, :] == -1) | (owner[:, :, None] == owner[:, None, :])  # [B, S, S] query, key
    seen &= (step[:, None, :] <= step[:, :, None]) & real[:, None, :] & real[:, :, None]
    seen |= torch.eye(owner.shape[1], dtype=torch.bool, device=owner.device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def base_of(llm):
    """The model beneath a PEFT wrapper."""
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def _accepts(llm, name):
    return name in inspect.signature(type(base_of(llm)).forward).parameters


def inputs_of(llm, embeds, mask, positions, keep, **others):
    """Arguments of one forward that gives at least the last ``keep`` positions' logits, as far as the model takes them."""
    inputs = {"inputs_embeds": cast(llm, embeds), "attention_mask": mask, **others}
    if _accepts(llm, "position_ids"):
        inputs["position_ids"] = positions
    if _accepts(llm, "logits_to_keep"):  # callers slice as well, for models that return all
        inputs["logits_to_keep"] = keep
    return inputs


def forward(llm, embeds, mask, positions, keep, tokens=None, **others):
    """One forward; arguments as of :func:`inputs_of`.

    tokens: [U] ids whose logits alone are wanted, [.., U] in this order; None = the vocabulary's.
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
    """Inside, a linear output head multiplies by the rows of ``tokens`` only; what the model does to logits follows."""
    head = llm.get_output_embeddings()
    if type(head) is not torch.nn.Linear or "forward" in vars(head):  # quantised, adapted, or hooked by Accelerate
        yield
        return

    def cut(hidden):  # indexed here: under FSDP weights are whole only while the model runs
        bias = None if head.bias is None else head.bias[tokens]
        return torch.nn.functional.linear(hidden, head.weight[tokens], bias)

    head.forward = cut
    try:
        yield
    finally:
        del head.forward


def cast(llm, embeds):
    """Embeddings in the LLM's dtype: a projector may be kept in float32."""
    return embeds.to(llm.get_input_embeddings().weight.dtype)


def extend(llm, embeds, ids):
    """[B, P+N, d]: embeddings with those of ids [B, N] after them."""
    return torch.cat([cast(llm, embeds), llm.get_input_embeddings()(ids)], dim=1)


def positions_of(mask):
    """Positions [B, P] that count real tokens of ``mask [B, P]`` from 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def chunked(ids, mask, size):
    """[(branches, mask)] of at most ``size`` branches each: [B, C, ...] cut along C."""
    return list(zip(ids.split(size, dim=1), mask.split(size, dim=1), strict=True))


@torch.no_grad()
def generate(llm, prompt_embeds, prompt_mask, max_new_tokens, eos_token_id, pad_token_id):
    """Greedy continuation of left-padded prompts: token ids [B, <= max_new_tokens], without the prompt.

    The model's own generation settings (sampling, penalties) do not apply. Rows that end early hold `pad_token_id`.
    """
    _check_prompt(prompt_embeds, prompt_mask.bool())
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


def refuse_non_finite(scores, what):
    """Raise FloatingPointError that names the rows of ``scores [B, C]`` which hold a value that is not finite."""
    bad = (~torch.isfinite(scores)).any(1).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"{what} not finite in batch rows {bad}; try llm_dtype: float32")


def _check_prompt(prompt_embeds, prompt_mask):
    if prompt_mask.shape != prompt_embeds.shape[:2]:
        raise ValueError(
            f"prompt_mask {tuple(prompt_mask.shape)} must be [B, P] for prompt_embeds [B, P, d], "
            f"here {tuple(prompt_embeds.shape)}"
        )
    if not bool(prompt_mask[:, -1].all()) or bool((prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any()):
        raise ValueError("prompts must be padded on the left only and hold at least one token")


def check_branches(prompt_embeds, prompt_mask, branch_ids, branch_mask):
    """Raise ValueError unless prompts are padded on the left, branches [B, C, T] on the right, and none is empty."""
    _check_prompt(prompt_embeds, prompt_mask)
    if branch_ids.shape != branch_mask.shape or branch_ids.shape[0] != prompt_mask.shape[0]:
        raise ValueError(
            f"branch_ids {tuple(branch_ids.shape)} and branch_mask {tuple(branch_mask.shape)} must both be [B, C, T] "
            f"with B = {prompt_mask.shape[0]}"
        )
    if not bool(branch_mask[:, :, 0].all()) or bool((~branch_mask[:, :, :-1] & branch_mask[:, :, 1:]).any()):
        raise ValueError("branches must be padded on the right only and hold at least one token")

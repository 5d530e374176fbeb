"""Forwards of any causal LM over prompts and their branches, whatever is then read from the logits.

Prompts are embeddings [B, P, d], LEFT-padded; branches (what may follow a prompt) are right-padded. Three ways, equal up to rounding:

- ``tree``: one forward over [prompt, branch 1, ..., branch C]; a 4-D mask lets each branch see the prompt and itself.
- ``cache``: the prompt once, its key-value cache repeated C times, then all branches as a batch of B*C.
- ``separate``: prompt and branch together, one forward per branch; holds for any causal LM.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch

from recbole_llm.llm.attention import BY_PASS
from recbole_llm.llm.causal_lm import accepts, base_of, cast, check_prompt, forward, positions_of

METHODS = ("tree", "cache", "separate")
_MASKED_ATTENTION = ("eager", "sdpa", BY_PASS)  # implementations that apply an additive 4-D mask as it is given
_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_logger = logging.getLogger(__name__)


class BranchLogits(NamedTuple):
    """Logits of one chunk of n branches of every row, T tokens at most.

    A line holds a row's n branches side by side (``tree``: R = B) or one branch (R = B*n, row b's branch j at b*n + j).

    Attributes:
        end: [B, V] or [B*n, V] behind the prompt, before any branch token.
        behind: [R, N, V] behind the branch tokens that were fed.
        order: [R, N] which of a line's tokens these are, counted through its branches.
        mask: [B, n, T] True at real tokens.
    """

    end: torch.Tensor
    behind: torch.Tensor
    order: torch.Tensor
    mask: torch.Tensor

    def pick(self, column: torch.Tensor) -> torch.Tensor:
        """What ``column`` [B, n, T, ...] holds of the tokens of ``behind``, [R, N, ...]."""
        lines = len(self.order)
        column = column.reshape(lines, self.mask.numel() // lines, *column.shape[3:])
        return column[torch.arange(lines, device=column.device)[:, None], self.order]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values [R, N] of the tokens of ``behind`` at their places, [B, n, T], 0 at padding."""
        lines = len(self.order)
        dense = values.new_zeros(lines, self.mask.numel() // lines).scatter(1, self.order, values)
        return dense.view(self.mask.shape).masked_fill(~self.mask, 0.0)


def branch_logits(
    llm, prompt_embeds, prompt_mask, branch_embeds, branch_mask, method: str, size: int | None = None, tokens=None
) -> Iterator[tuple[slice, BranchLogits]]:
    """Logits along the branches of every row, chunk by chunk.

    Rows multiply in `repeat_interleave` order (row b, branch j at b*n + j) and never move otherwise, so that adapters can
    read a gate by batch row. Gradients flow.

    Args:
        llm: causal LM (PreTrainedModel or PeftModel), in eval mode for values that repeat.
        prompt_embeds: [B, P, d], left-padded.
        prompt_mask: [B, P] bool; the last column is all True.
        branch_embeds: [B, C, T, d], right-padded.
        branch_mask: [B, C, T] bool.
        method: "tree", "cache" or "separate" (module docstring).
        size: branches of a row in one forward; None: all ("separate": one).
        tokens: [V] ids whose logits alone are wanted; None: the vocabulary's.

    Yields:
        Which of the C branches a chunk holds, and its :class:`BranchLogits`.
    """
    n_branches = branch_mask.shape[1]
    size = size or (1 if method == "separate" else n_branches)
    places = [slice(start, start + size) for start in range(0, n_branches, size)]
    chunks = [(cast(llm, branch_embeds[:, place]), branch_mask[:, place]) for place in places]
    walk = {"tree": _tree, "cache": _cache, "separate": _separate}[method]
    yield from zip(places, walk(llm, cast(llm, prompt_embeds), prompt_mask, chunks, tokens), strict=True)


def _tree(llm, prompt_embeds, prompt_mask, chunks, tokens):
    for embeds, mask in chunks:
        fed = mask.flatten(1)  # [B, n*T]
        n_fed = int(fed.sum(1).max())
        order = (~fed).long().argsort(dim=1, stable=True)[:, :n_fed]  # [B, N]: real tokens first, in branch order
        steps = max(mask.shape[2], 1)
        owner, offset, valid = order // steps, order % steps, fed.gather(1, order)
        packed = embeds.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
        positions = torch.cat([positions_of(prompt_mask), prompt_mask.sum(1, keepdim=True) + offset], dim=1)
        seen = tree_mask(prompt_mask, owner, offset, valid, embeds.dtype)
        joined = torch.cat([prompt_embeds, packed], dim=1)  # [B, P+N, d]
        logits = forward(llm, joined, seen, positions, keep=n_fed + 1, tokens=tokens, use_cache=False).logits[:, -(n_fed + 1) :]
        yield BranchLogits(logits[:, 0], logits[:, 1:], order, mask)


def _cache(llm, prompt_embeds, prompt_mask, chunks, tokens):
    kv_cache = "cache" if accepts(llm, "cache") else "past_key_values"  # renamed in transformers 5.24; 5.40 drops the old name
    positions = positions_of(prompt_mask)
    out = forward(llm, prompt_embeds, prompt_mask.long(), positions, keep=1, tokens=tokens, use_cache=True)
    end = out.logits[:, -1]
    for i, (embeds, mask) in enumerate(chunks):
        n, fed = mask.shape[1:]
        order = torch.arange(fed, device=mask.device).expand(mask.shape[0] * n, -1)
        if not fed:  # a forward over no tokens is none
            yield BranchLogits(end, end.new_zeros(len(order), 0, end.shape[1]), order, mask)
            continue
        past = out[kv_cache] if i == len(chunks) - 1 else copy.deepcopy(out[kv_cache])
        past.batch_repeat_interleave(n)
        prompt = prompt_mask.repeat_interleave(n, dim=0)  # [B*n, P]
        seen = torch.cat([prompt, mask.flatten(0, 1)], dim=1).long()
        options = {"keep": fed, "tokens": tokens, kv_cache: past, "use_cache": True}
        logits = forward(llm, embeds.flatten(0, 1), seen, prompt.sum(1, keepdim=True) + order, **options).logits
        yield BranchLogits(end, logits[:, -fed:], order, mask)


def _separate(llm, prompt_embeds, prompt_mask, chunks, tokens):
    lengths = prompt_mask.sum(1, keepdim=True)  # [B, 1]
    start = int(lengths.min()) - 1  # the first position whose logits are needed in any row
    for embeds, mask in chunks:
        n, fed = mask.shape[1:]
        joined, seen = join(prompt_embeds, prompt_mask, embeds, mask)  # [B*n, P+T, d]
        keep = seen.shape[1] - start
        options = {"keep": keep, "tokens": tokens, "use_cache": False}
        logits = forward(llm, joined, seen.long(), positions_of(seen), **options).logits[:, -keep:]
        places = lengths.repeat_interleave(n, dim=0) - 1 - start + torch.arange(fed + 1, device=mask.device)
        logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2]))  # [B*n, 1+T, V]
        order = torch.arange(fed, device=mask.device).expand(len(joined), -1)
        yield BranchLogits(logits[:, 0], logits[:, 1:], order, mask)


def join(prompt_embeds, prompt_mask, branch_embeds, branch_mask):
    """Every branch behind its prompt: ``([B*n, P+T, d], [B*n, P+T])`` of [B, P, d] and [B, n, T, d].

    Padding stands last, where no causal model can see it: recurrent layers exist that read left padding whatever the mask says.
    """
    n = branch_mask.shape[1]
    prompts = prompt_embeds.repeat_interleave(n, dim=0)
    embeds = torch.cat([prompts, branch_embeds.flatten(0, 1).to(prompts.dtype)], dim=1)
    seen = torch.cat([prompt_mask.repeat_interleave(n, dim=0), branch_mask.flatten(0, 1)], dim=1).bool()
    order = (~seen).long().argsort(dim=1, stable=True)
    return embeds.gather(1, order[..., None].expand_as(embeds)), seen.gather(1, order)


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

    Args:
        path_length: tokens from the start of a prompt to the end of its longest branch. A 4-D mask replaces the model's own
            sliding window, so the tree holds only where no path is longer than the window.
    """
    config, model = llm.config.get_text_config(), base_of(llm)
    if type(model).__module__.startswith("transformers_modules."):
        return "separate", "its code came with the checkpoint, and how that reads masks and caches is unknown"
    layers = {kind for key in ("layer_types", "layers_block_type") for kind in getattr(config, key, None) or ()}
    if getattr(model, "_is_stateful", False) or layers - _KNOWN_LAYERS:
        return "separate", "it keeps a running state, which branches cannot share"
    if not accepts(llm, "position_ids"):
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


def refuse_non_finite(scores, what):
    """Raise FloatingPointError that names the rows of ``scores [B, C]`` which hold a value that is not finite."""
    bad = (~torch.isfinite(scores)).any(1).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"{what} not finite in batch rows {bad}; try llm_dtype: float32")


def check_branches(prompt_embeds, prompt_mask, branch_ids, branch_mask):
    """Raise ValueError unless prompts are padded on the left, branches [B, C, T] on the right, and none is empty."""
    check_prompt(prompt_embeds, prompt_mask)
    if branch_ids.shape != branch_mask.shape or branch_ids.shape[0] != prompt_mask.shape[0]:
        raise ValueError(
            f"branch_ids {tuple(branch_ids.shape)} and branch_mask {tuple(branch_mask.shape)} must both be [B, C, T] "
            f"with B = {prompt_mask.shape[0]}"
        )
    if not bool(branch_mask[:, :, 0].all()) or bool((~branch_mask[:, :, :-1] & branch_mask[:, :, 1:]).any()):
        raise ValueError("branches must be padded on the right only and hold at least one token")

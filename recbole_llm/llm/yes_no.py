"""P(Yes) of many questions that share a prompt: the pointwise counterpart of `scoring`.

A row's prompt [P] is followed by C branches (an item's title and the question), and the answer is read at the end of
each. ``tree`` feeds the prompt and all branches at once under a mask that lets a branch see the prompt and itself;
``cache`` feeds the prompt once and the branches as a batch of B*C on copies of its keys and values; ``separate`` feeds
prompt and branch together for each item. All equal up to rounding. Only the two answers' logits are computed.
"""

from __future__ import annotations

import copy

import torch

from recbole_llm.llm.branch_forward import (
    cast,
    check_branches,
    chunked,
    forward,
    pick_method,
    positions_of,
    refuse_non_finite,
    tree_mask,
)


def branch_scores(
    llm, prompt_embeds, prompt_mask, branch_embeds, branch_mask, yes_no, method="auto", candidates_per_forward=None
):
    """P(Yes) of every branch: softmax over two tokens at its end (RecLoRA, arXiv 2408.03533, section 3).

    Args:
        llm: causal LM, in eval mode for scores that repeat.
        prompt_embeds, prompt_mask: [B, P, d], [B, P], left-padded.
        branch_embeds, branch_mask: [B, C, T, d], [B, C, T], right-padded; every branch holds a token.
        yes_no: the two token ids.
        method: "auto" (`forward.choose_scorer`), "tree", "cache" or "separate".
        candidates_per_forward: bounds memory; None = all at once ("separate": one).

    Returns:
        [B, C] float32.

    Raises:
        ValueError: unknown method, padding on the wrong side, or an empty branch.
        FloatingPointError: a score is not finite; names the rows of the batch.
    """
    prompt_mask, branch_mask = prompt_mask.bool(), branch_mask.bool()
    check_branches(prompt_embeds, prompt_mask, branch_embeds[..., 0], branch_mask)
    method = pick_method(llm, method, int(prompt_mask.sum(1).max()) + branch_mask.shape[2])
    score = {"tree": _tree, "cache": _cache, "separate": _separate}[method]
    size = candidates_per_forward or (1 if method == "separate" else branch_mask.shape[1])
    chunks = chunked(branch_embeds, branch_mask, size)
    yes_no = torch.tensor([int(i) for i in yes_no], device=branch_mask.device)
    margins = score(llm, prompt_embeds, prompt_mask, chunks, yes_no)  # [B, C] log odds
    scores = margins.sigmoid()
    refuse_non_finite(scores, "P(yes) is")
    return scores


def _margin(logits, place):
    """log P(yes) - log P(no) at positions place [B, n] of logits [B, L, 2]: [B, n] float32."""
    found = logits.float().gather(1, place[..., None].expand(-1, -1, 2))
    return found[..., 0] - found[..., 1]


def _tree(llm, prompt_embeds, prompt_mask, chunks, yes_no):
    return torch.cat([_tree_chunk(llm, prompt_embeds, prompt_mask, *chunk, yes_no) for chunk in chunks], dim=1)


def _tree_chunk(llm, prompt_embeds, prompt_mask, branch_embeds, branch_mask, yes_no):
    batch, n, tokens = branch_mask.shape
    fed = branch_mask.flatten(1)  # [B, n*T]
    n_fed = int(fed.sum(1).max())
    order = (~fed).long().argsort(dim=1, stable=True)[:, :n_fed]  # [B, N]: real tokens first, in branch order
    owner, offset, valid = order // tokens, order % tokens, fed.gather(1, order)
    packed = branch_embeds.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, branch_embeds.shape[-1]))
    embeds = torch.cat([cast(llm, prompt_embeds), cast(llm, packed)], dim=1)
    positions = torch.cat([positions_of(prompt_mask), prompt_mask.sum(1, keepdim=True) + offset], dim=1)
    mask = tree_mask(prompt_mask, owner, offset, valid, embeds.dtype)
    logits = forward(llm, embeds, mask, positions, keep=n_fed, tokens=yes_no, use_cache=False).logits[:, -n_fed:]
    return _margin(logits, branch_mask.sum(2).cumsum(1) - 1)  # branches are packed one after the other


def _cache(llm, prompt_embeds, prompt_mask, chunks, yes_no):
    out = forward(llm, prompt_embeds, prompt_mask.long(), positions_of(prompt_mask), 1, use_cache=True)
    margins = []
    for i, (embeds, mask) in enumerate(chunks):
        batch, n, tokens = mask.shape
        past = out.past_key_values if i == len(chunks) - 1 else copy.deepcopy(out.past_key_values)
        past.batch_repeat_interleave(n)
        prompt, mask = prompt_mask.repeat_interleave(n, dim=0), mask.flatten(0, 1)  # [B*n, P], [B*n, T]
        positions = prompt.sum(1, keepdim=True) + torch.arange(tokens, device=mask.device)
        seen = torch.cat([prompt, mask], dim=1).long()
        options = {"keep": tokens, "tokens": yes_no, "past_key_values": past, "use_cache": True}
        logits = forward(llm, embeds.flatten(0, 1), seen, positions, **options).logits[:, -tokens:]
        margins.append(_margin(logits, mask.sum(1, keepdim=True) - 1).view(batch, n))
    return torch.cat(margins, dim=1)


def _separate(llm, prompt_embeds, prompt_mask, chunks, yes_no):
    """Prompt and branch in one sequence, nothing shared; padding stands behind, as in `scoring.separate_scores`."""
    margins = []
    for embeds, mask in chunks:
        batch, n, _ = mask.shape
        joined, seen = join(prompt_embeds, prompt_mask, embeds, mask)
        options = {"keep": seen.shape[1], "tokens": yes_no, "use_cache": False}
        logits = forward(llm, joined, seen.long(), positions_of(seen), **options).logits
        margins.append(_margin(logits, seen.sum(1, keepdim=True) - 1).view(batch, n))
    return torch.cat(margins, dim=1)


def join(prompt_embeds, prompt_mask, branch_embeds, branch_mask):
    """Every branch behind its prompt, right-padded: ([B*n, P+T, d], [B*n, P+T]) of [B, P, d] and [B, n, T, d]."""
    n = branch_mask.shape[1]
    prompts = prompt_embeds.repeat_interleave(n, dim=0)
    embeds = torch.cat([prompts, branch_embeds.flatten(0, 1).to(prompts.dtype)], dim=1)
    seen = torch.cat([prompt_mask.repeat_interleave(n, dim=0), branch_mask.flatten(0, 1)], dim=1).bool()
    order = (~seen).long().argsort(dim=1, stable=True)  # padding last, where recurrent layers that know no mask cannot read it
    return embeds.gather(1, order[..., None].expand_as(embeds)), seen.gather(1, order)

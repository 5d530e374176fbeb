"""P(Yes) of many questions that share a prompt: the pointwise counterpart of `title_likelihood`.

A row's prompt [P] is followed by C branches (an item's title and the question), and the answer is read at the end of each
(:mod:`recbole_llm.llm.branch_forward`). Only the two answers' logits are computed.
"""

from __future__ import annotations

import torch

from recbole_llm.llm.branch_forward import branch_logits, check_branches, pick_method, refuse_non_finite


def branch_scores(
    llm, prompt_embeds, prompt_mask, branch_embeds, branch_mask, yes_no, method="auto", candidates_per_forward=None
):
    """P(Yes) of every branch: softmax over two tokens at its end (RecLoRA, arXiv 2408.03533, section 3).

    Args:
        llm: causal LM, in eval mode for scores that repeat.
        prompt_embeds, prompt_mask: [B, P, d], [B, P], left-padded.
        branch_embeds, branch_mask: [B, C, T, d], [B, C, T], right-padded; every branch holds a token.
        yes_no: the two token ids.
        method: "auto" (`branch_forward.choose_scorer`), "tree", "cache" or "separate".
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
    yes_no = torch.tensor([int(i) for i in yes_no], device=branch_mask.device)
    chunks = branch_logits(
        llm, prompt_embeds, prompt_mask, branch_embeds, branch_mask, method, candidates_per_forward, tokens=yes_no
    )
    margins = []
    for _, logits in chunks:
        two = logits.behind.float()
        odds = logits.spread(two[..., 0] - two[..., 1])  # [B, n, T] log odds behind every token
        last = logits.mask.sum(2, keepdim=True) - 1
        margins.append(odds.gather(2, last)[..., 0])
    scores = torch.cat(margins, dim=1).sigmoid()  # softmax over the two
    refuse_non_finite(scores, "P(yes) is")
    return scores

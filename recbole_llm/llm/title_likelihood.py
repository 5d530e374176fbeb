"""Candidate scores from a causal LM: log P(title and end token | prompt) for every candidate of every row.

Branches (:mod:`recbole_llm.llm.branch_forward`) are the candidates' token ids [B, C, T] with their end token. The last token of a
branch is only ever a label, so at most T-1 of its tokens are fed; constrained scores need none after a branch's last choice.
Gradients flow through all scores: evaluation wraps them in `torch.no_grad()`.
"""

from __future__ import annotations

import torch

from recbole_llm.llm.branch_forward import BranchLogits, branch_logits, check_branches, pick_method, refuse_non_finite
from recbole_llm.llm.constrained_vocabulary import Among, rivals, until_last_choice

_BLOCK = 2**24  # float32 logits held at once while they become log-probabilities (64 MiB)


def score_candidates(
    llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, method="auto", candidates_per_forward=None, constrained=False
):
    """Sum of log-probabilities of each candidate's tokens given its row's prompt.

    Args:
        llm: causal LM (PreTrainedModel or PeftModel), in eval mode for scores that repeat.
        prompt_embeds: [B, P, d] input embeddings, left-padded.
        prompt_mask: [B, P] True/1 at real positions; the last column is all ones.
        branch_ids: [B, C, T] candidate tokens with the end token, right-padded (padding ids are never read).
        branch_mask: [B, C, T] True/1 at real tokens; every branch has at least one.
        method: "auto" (see `branch_forward.choose_scorer`), "tree", "cache" or "separate".
        candidates_per_forward: bounds memory; None = all at once ("separate": one).
        constrained: a token competes with its rivals (:mod:`recbole_llm.llm.constrained_vocabulary`), not with the whole vocabulary: then
            the probabilities of a row's different candidates sum to one.

    Returns:
        [B, C] float32.

    Raises:
        ValueError: unknown method, padding on the wrong side, or an empty branch.
        FloatingPointError: a score is not finite; names the rows of the batch.
    """
    prompt_mask, branch_mask = prompt_mask.bool(), branch_mask.bool()
    check_branches(prompt_embeds, prompt_mask, branch_ids, branch_mask)
    branch_ids, among = branch_ids.masked_fill(~branch_mask, 0), None
    if constrained:
        branch_ids, branch_mask, among = _trimmed(branch_ids, branch_mask)
    method = pick_method(llm, method, int(prompt_mask.sum(1).max()) + branch_ids.shape[2] - 1)
    fed = llm.get_input_embeddings()(branch_ids[:, :, :-1])  # [B, C, T-1, d]: token t is fed where token t+1 is a label
    chunks = branch_logits(
        llm,
        prompt_embeds,
        prompt_mask,
        fed,
        branch_mask[:, :, 1:],
        method,
        candidates_per_forward,
        among.tokens if among else None,
    )
    parts = []
    for place, logits in chunks:
        chunk = among and among.apply(lambda part, place=place: part[:, place])
        parts.append(_log_likelihoods(logits, branch_ids[:, place], chunk))
    scores = torch.cat(parts, dim=1)
    refuse_non_finite(scores, "candidate scores are")
    return scores


def _log_likelihoods(logits: BranchLogits, ids, among) -> torch.Tensor:
    """[B, n]: sums over the tokens ids [B, n, T], of which the first follows the prompt's end.

    Args:
        among: the same tokens as labels [B, n, T] with their rivals [B, n, T, C], or None for the vocabulary.
    """
    lines = len(logits.end)  # B, or B*n where no forward is shared
    if among:
        firsts = among.apply(lambda part: part[:, :, 0].reshape(lines, -1, *part.shape[3:]))
        first = firsts.log_probs(logits.end[:, None])
    else:
        first = _log_probs(logits.end, ids[:, :, 0].reshape(lines, -1))
    later = among and among.apply(lambda part: logits.pick(part[:, :, 1:]))
    rest = logits.spread(_label_log_probs(logits.behind, logits.pick(ids[:, :, 1:]), later))  # [B, n, T-1]
    return first.view(ids.shape[:2]) + rest.sum(2)


def _trimmed(branch_ids, branch_mask):
    """Branches without the tokens that follow their last choice, and the rivals of the others."""
    among = rivals(branch_ids, branch_mask)
    branch_mask = branch_mask & until_last_choice(among[1])
    longest = int(branch_mask.sum(2).max())
    branch_ids, branch_mask = branch_ids[:, :, :longest], branch_mask[:, :, :longest]
    return branch_ids, branch_mask, Among.of(branch_ids, *(part[:, :, :longest] for part in among))


def _log_probs(logits, ids):
    """float32 log softmax(logits [..., V]) at ids [..., k]."""
    logits = logits.float()
    return logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)


def _label_log_probs(logits, labels, among=None):
    """float32 log-probabilities [B, N] of labels [B, N] under logits [B, N, V], in blocks of bounded size.

    Args:
        among: these labels with their rivals, and logits [B, N, U]; None for the vocabulary.
    """
    if among is not None:
        return among.log_probs(logits)
    size = max(1, _BLOCK // max(1, logits.shape[0] * logits.shape[2]))
    blocks = zip(logits.split(size, dim=1), labels.split(size, dim=1), strict=True)
    return torch.cat([_log_probs(block, label[..., None])[..., 0] for block, label in blocks], dim=1)

"""Candidate scores from a causal LM: log P(title and end token | prompt) for every candidate of every row.

By one of three methods, equal up to rounding (:mod:`recbole_llm.llm.branch_forward`); ``auto`` takes the fastest that holds for the model.
Prompts are embeddings [B, P, d], LEFT-padded; branches are token ids [B, C, T], right-padded, with their end token. The last
token of a branch is only ever a label, so at most T-1 of its tokens are fed; constrained scores need none after a branch's
last choice. Rows multiply in
`repeat_interleave` order (row b, candidate j at b*C + j) and never move otherwise, so that adapters can read a gate by
batch row. Gradients flow through all scores: evaluation wraps them in `torch.no_grad()`.
"""

from __future__ import annotations

import copy

import torch

from recbole_llm.llm.branch_forward import (
    check_branches,
    chunked,
    extend,
    forward,
    pick_method,
    positions_of,
    refuse_non_finite,
    tree_mask,
)
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
        method: "auto" (see `forward.choose_scorer`), "tree", "cache" or "separate".
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
    score = {"tree": tree_scores, "cache": cache_scores, "separate": separate_scores}[method]
    scores = score(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward, among)
    refuse_non_finite(scores, "candidate scores are")
    return scores


def tree_scores(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward=None, among=None):
    """One forward over the prompt and all branches. Arguments and result as in `score_candidates`.

    among: the tokens [B, C, T] and their rivals [B, C, T, C], or None for the vocabulary.
    """
    chunks = _chunks_among(branch_ids, branch_mask, candidates_per_forward or branch_ids.shape[1], among)
    return torch.cat([_tree_chunk(llm, prompt_embeds, prompt_mask, *chunk) for chunk in chunks], dim=1)


def _tree_chunk(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, among):
    batch, n_candidates, tokens = branch_ids.shape
    fed = branch_mask[:, :, 1:].flatten(1)  # [B, C*(T-1)]: token t is fed where token t+1 is a label
    n_fed = int(fed.sum(1).max()) if fed.numel() else 0
    order = (~fed).long().argsort(dim=1, stable=True)[:, :n_fed]  # [B, N]: fed tokens first, in branch order
    steps = max(tokens - 1, 1)
    owner, offset, valid = order // steps, order % steps, fed.gather(1, order)
    embeds = extend(llm, prompt_embeds, branch_ids[:, :, :-1].flatten(1).gather(1, order))  # [B, P+N, d]
    positions = torch.cat([positions_of(prompt_mask), prompt_mask.sum(1, keepdim=True) + offset], dim=1)
    mask = tree_mask(prompt_mask, owner, offset, valid, embeds.dtype)
    logits = _logits(llm, embeds, mask, positions, n_fed + 1, among)
    scores = _first_log_probs(logits[:, 0], branch_ids, among)
    if n_fed:
        labels = branch_ids[:, :, 1:].flatten(1).gather(1, order)
        if among:
            rows = torch.arange(batch, device=order.device)[:, None]
            among = among.apply(lambda part: part[:, :, 1:].flatten(1, 2)[rows, order])  # [B, N] and [B, N, C]
        rest = _label_log_probs(logits[:, 1:], labels, among).masked_fill(~valid, 0.0)  # [B, N]
        dense = rest.new_zeros(batch, n_candidates * steps).scatter(1, order, rest)
        scores = scores + dense.view(batch, n_candidates, steps).sum(2)
    return scores


def cache_scores(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward=None, among=None):
    """The prompt once, then every branch on a copy of its cache. Arguments and result as in `tree_scores`."""
    tokens = among.tokens if among else None
    out = forward(llm, prompt_embeds, prompt_mask.long(), positions_of(prompt_mask), keep=1, tokens=tokens, use_cache=True)
    first = _first_log_probs(out.logits[:, -1], branch_ids, among)
    if branch_ids.shape[2] == 1:
        return first
    size = candidates_per_forward or branch_ids.shape[1]
    chunks, rest = _chunks_among(branch_ids, branch_mask, size, among), []
    for i, (ids, mask, chunk) in enumerate(chunks):
        last = i == len(chunks) - 1
        past = out.past_key_values if last else copy.deepcopy(out.past_key_values)
        past.batch_repeat_interleave(ids.shape[1])
        rest.append(_continue_cache(llm, past, prompt_mask, ids, mask, chunk))
    return first + torch.cat(rest, dim=1)


def _continue_cache(llm, past, prompt_mask, ids, mask, among):
    """Sums [B, n] over all but the first token of n branches per row, after a cache of the prompt."""
    batch, n, tokens = ids.shape
    ids, mask = ids.flatten(0, 1), mask.flatten(0, 1)  # [B*n, T]
    prompt = prompt_mask.repeat_interleave(n, dim=0)  # [B*n, P]
    positions = prompt.sum(1, keepdim=True) + torch.arange(tokens - 1, device=ids.device)
    embeds = llm.get_input_embeddings()(ids[:, :-1])
    seen = torch.cat([prompt, mask[:, 1:]], dim=1).long()
    logits = _logits(llm, embeds, seen, positions, tokens - 1, among, past_key_values=past, use_cache=True)
    among = among and among.apply(lambda part: part[:, :, 1:].flatten(0, 1))
    return _label_log_probs(logits, ids[:, 1:], among).masked_fill(~mask[:, 1:], 0.0).sum(1).view(batch, n)


def separate_scores(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward=None, among=None):
    """Prompt and branch in one sequence, nothing shared. Arguments and result as in `tree_scores`.

    Sequences are moved to the left, padding to the right, where no causal model can see it: recurrent layers exist that
    read left padding whatever the mask says.
    """
    lengths, scores = prompt_mask.sum(1, keepdim=True), []  # [B, 1]
    start = int(lengths.min()) - 1  # the first position whose logits are needed in any row
    for ids, mask, chunk in _chunks_among(branch_ids, branch_mask, candidates_per_forward or 1, among):
        batch, n, tokens = ids.shape
        ids, mask = ids.flatten(0, 1), mask.flatten(0, 1)  # [B*n, T]
        embeds = extend(llm, prompt_embeds.repeat_interleave(n, dim=0), ids[:, :-1])  # [B*n, P+T-1, d]
        seen = torch.cat([prompt_mask.repeat_interleave(n, dim=0), mask[:, 1:]], dim=1)
        order = (~seen).long().argsort(dim=1, stable=True)
        embeds = embeds.gather(1, order[..., None].expand_as(embeds))
        seen = seen.gather(1, order)
        keep = seen.shape[1] - start
        logits = _logits(llm, embeds, seen.long(), positions_of(seen), keep, chunk)
        places = lengths.repeat_interleave(n, dim=0) - 1 - start + torch.arange(tokens, device=ids.device)
        logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2]))  # [B*n, T, V]
        chunk = chunk and chunk.apply(lambda part: part.flatten(0, 1))
        scores.append(_label_log_probs(logits, ids, chunk).masked_fill(~mask, 0.0).sum(1).view(batch, n))
    return torch.cat(scores, dim=1)


def _trimmed(branch_ids, branch_mask):
    """Branches without the tokens that follow their last choice, and the rivals of the others."""
    among = rivals(branch_ids, branch_mask)
    branch_mask = branch_mask & until_last_choice(among[1])
    longest = int(branch_mask.sum(2).max())
    branch_ids, branch_mask = branch_ids[:, :, :longest], branch_mask[:, :, :longest]
    return branch_ids, branch_mask, Among.of(branch_ids, *(part[:, :, :longest] for part in among))


def _chunks_among(ids, mask, size, among):
    """[(ids, mask, Among or None)] of at most `size` candidates each."""
    chunks = chunked(ids, mask, size)
    starts = range(0, ids.shape[1], size)
    parts = [among and among.apply(lambda part: part[:, start : start + size]) for start in starts]  # noqa: B023
    return [(*chunk, part) for chunk, part in zip(chunks, parts, strict=True)]


def _logits(llm, embeds, mask, positions, keep, among, use_cache=False, **others):
    """Logits of the last `keep` positions, [.., keep, V], or [.., keep, U] of the tokens of `among`."""
    tokens = among.tokens if among else None
    out = forward(llm, embeds, mask, positions, keep=keep, tokens=tokens, use_cache=use_cache, **others)
    return out.logits[:, -keep:]


def _log_probs(logits, ids):
    """float32 log softmax(logits [..., V]) at ids [..., k]."""
    logits = logits.float()
    return logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)


def _first_log_probs(logits, branch_ids, among):
    """[B, C]: first tokens, all from the prompt's last position with logits [B, V], or [B, U] with `among`."""
    if among is None:
        return _log_probs(logits, branch_ids[:, :, 0])
    return among.apply(lambda part: part[:, :, 0]).log_probs(logits[:, None])


def _label_log_probs(logits, labels, among=None):
    """float32 log-probabilities [B, N] of labels [B, N] under logits [B, N, V], in blocks of bounded size.

    among: these labels with their rivals, and logits [B, N, U]; None for the vocabulary.
    """
    if among is not None:
        return among.log_probs(logits)
    size = max(1, _BLOCK // max(1, logits.shape[0] * logits.shape[2]))
    blocks = zip(logits.split(size, dim=1), labels.split(size, dim=1), strict=True)
    return torch.cat([_log_probs(block, label[..., None])[..., 0] for block, label in blocks], dim=1)

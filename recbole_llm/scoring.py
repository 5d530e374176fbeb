"""Candidate scores from a causal LM: log P(title and end token | prompt) for every candidate of every row.

Three ways, equal up to rounding; `score_candidates` takes the fastest one that holds for the model:

- ``tree``: one forward over [prompt, branch 1, ..., branch C]; a 4-D mask lets each branch see the prompt and itself.
- ``cache``: the prompt once, its key-value cache repeated C times, then all branches as a batch of B*C.
- ``separate``: prompt and branch together, one forward per candidate; holds for any causal LM.

Everywhere prompts are embeddings [B, P, d], LEFT-padded; branches are token ids [B, C, T], right-padded, with their end
token. The last token of a branch is only ever a label, so at most T-1 of its tokens are fed. Rows multiply in
`repeat_interleave` order (row b, candidate j at b*C + j) and never move otherwise, so that adapters can read a gate by
batch row. Gradients flow through all scores: evaluation wraps them in `torch.no_grad()`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
from functools import cache

import torch

from recbole_llm.rivals import log_probs, rivals

METHODS = ("tree", "cache", "separate")
_MASKED_ATTENTION = ("eager", "sdpa")  # implementations that apply an additive 4-D mask as it is given
_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_BLOCK = 2**24  # float32 logits held at once while they become log-probabilities (64 MiB)
_logger = logging.getLogger(__name__)


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
        method: "auto" (see `choose_scorer`), "tree", "cache" or "separate".
        candidates_per_forward: bounds memory; None = all at once ("separate": one).
        constrained: a token competes with its rivals (:mod:`recbole_llm.rivals`), not with the whole vocabulary: then
            the probabilities of a row's different candidates sum to one.

    Returns:
        [B, C] float32.

    Raises:
        ValueError: unknown method, padding on the wrong side, or an empty branch.
        FloatingPointError: a score is not finite; names the rows of the batch.
    """
    prompt_mask, branch_mask = prompt_mask.bool(), branch_mask.bool()
    _check_inputs(prompt_embeds, prompt_mask, branch_ids, branch_mask)
    if method == "auto":
        path = int(prompt_mask.sum(1).max()) + branch_ids.shape[2] - 1
        method, reason = choose_scorer(llm, path)
        _log_choice(type(_base(llm)).__name__, method, reason)
    if method not in METHODS:
        raise ValueError(f"scoring method {method!r} is unknown; use auto, {', '.join(METHODS)}")
    branch_ids = branch_ids.masked_fill(~branch_mask, 0)
    score = {"tree": tree_scores, "cache": cache_scores, "separate": separate_scores}[method]
    among = rivals(branch_ids, branch_mask) if constrained else None
    scores = score(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward, among)
    bad = (~torch.isfinite(scores)).any(1).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"candidate scores are not finite in batch rows {bad}; try llm_dtype: float32")
    return scores


def choose_scorer(llm, path_length=0):
    """The fastest method that is exact for this model, and why: (method, reason).

    path_length: tokens from the start of a prompt to the end of its longest branch. A 4-D mask replaces the model's own
    sliding window, so the tree holds only where no path is longer than the window.
    """
    config, model = llm.config.get_text_config(), _base(llm)
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


def tree_scores(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward=None, among=None):
    """One forward over the prompt and all branches. Arguments and result as in `score_candidates`.

    among: rivals (ids, mask) [B, C, T, C] of the tokens, or None for the vocabulary.
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
    embeds = _extend(llm, prompt_embeds, branch_ids[:, :, :-1].flatten(1).gather(1, order))  # [B, P+N, d]
    positions = torch.cat([_positions(prompt_mask), prompt_mask.sum(1, keepdim=True) + offset], dim=1)
    mask = _tree_mask(prompt_mask, owner, offset, valid, embeds.dtype)
    logits = _forward(llm, embeds, mask, positions, keep=n_fed + 1, use_cache=False).logits[:, -(n_fed + 1) :]
    scores = _first_log_probs(logits[:, 0], branch_ids, among)
    if n_fed:
        labels = branch_ids[:, :, 1:].flatten(1).gather(1, order)
        if among:
            places = order[..., None].expand(-1, -1, among[0].shape[-1])
            among = tuple(part[:, :, 1:].flatten(1, 2).gather(1, places) for part in among)  # [B, N, C]
        rest = _label_log_probs(logits[:, 1:], labels, among).masked_fill(~valid, 0.0)  # [B, N]
        dense = rest.new_zeros(batch, n_candidates * steps).scatter(1, order, rest)
        scores = scores + dense.view(batch, n_candidates, steps).sum(2)
    return scores


def _tree_mask(prompt_mask, owner, offset, valid, dtype):
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


def cache_scores(llm, prompt_embeds, prompt_mask, branch_ids, branch_mask, candidates_per_forward=None, among=None):
    """The prompt once, then every branch on a copy of its cache. Arguments and result as in `tree_scores`."""
    out = _forward(llm, prompt_embeds, prompt_mask.long(), _positions(prompt_mask), keep=1, use_cache=True)
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
    out = _forward(llm, embeds, seen, positions, keep=tokens - 1, past_key_values=past, use_cache=True)
    logits = out.logits[:, -(tokens - 1) :]
    among = among and tuple(part[:, :, 1:].flatten(0, 1) for part in among)
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
        embeds = _extend(llm, prompt_embeds.repeat_interleave(n, dim=0), ids[:, :-1])  # [B*n, P+T-1, d]
        seen = torch.cat([prompt_mask.repeat_interleave(n, dim=0), mask[:, 1:]], dim=1)
        order = (~seen).long().argsort(dim=1, stable=True)
        embeds = embeds.gather(1, order[..., None].expand_as(embeds))
        seen = seen.gather(1, order)
        keep = seen.shape[1] - start
        logits = _forward(llm, embeds, seen.long(), _positions(seen), keep=keep, use_cache=False).logits[:, -keep:]
        places = lengths.repeat_interleave(n, dim=0) - 1 - start + torch.arange(tokens, device=ids.device)
        logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2]))  # [B*n, T, V]
        chunk = chunk and tuple(part.flatten(0, 1) for part in chunk)
        scores.append(_label_log_probs(logits, ids, chunk).masked_fill(~mask, 0.0).sum(1).view(batch, n))
    return torch.cat(scores, dim=1)


def yes_no_scores(llm, prompt_embeds, prompt_mask, yes_id, no_id):
    """P(yes) [B] float32: softmax over two tokens after the prompt (RecLoRA, arXiv 2408.03533, section 3).

    Only the last position is projected, and only onto the two tokens: the head's weight is replaced by its two rows
    for this call, so that whatever the model does with its logits (soft caps, scales) still happens.

    Raises:
        FloatingPointError: a probability is not finite; names the rows of the batch.
    """
    prompt_mask, head = prompt_mask.bool(), llm.get_output_embeddings()
    _check_prompt(prompt_embeds, prompt_mask)
    wanted = [int(yes_id), int(no_id)]
    inputs = _inputs(llm, prompt_embeds, prompt_mask.long(), _positions(prompt_mask), keep=1, use_cache=False)
    if type(head) is torch.nn.Linear:
        name = next(name for name, module in llm.named_modules() if module is head)
        rows = {f"{name}.{key}": value[wanted] for key, value in head.named_parameters()}
        logits = torch.func.functional_call(llm, rows, (), inputs, tie_weights=False).logits[:, -1]
    else:  # a quantised or wrapped head
        logits = llm(**inputs).logits[:, -1, wanted]
    scores = logits.float().softmax(-1)[:, 0]
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"P(yes) is not finite in batch rows {bad}; try llm_dtype: float32")
    return scores


def first_token_ids(tokenizer, yes="Yes", no="No", context="Answer:", separator=" "):
    """First tokens of two answers as they follow the prompt's end: (yes_id, no_id).

    Raises:
        ValueError: both answers begin with the same token, or one has no token.
    """
    base = tokenizer(context, add_special_tokens=False)["input_ids"]
    found = []
    for word in (yes, no):
        ids = tokenizer(context + separator + word, add_special_tokens=False)["input_ids"]
        if ids[: len(base)] == base:
            ids = ids[len(base) :]
        else:  # the tokenizer merges across the border: take the answer as fed by itself
            ids = tokenizer(separator + word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the tokenizer gives {word!r} no token after {context!r}; choose another answer word")
        found.append(ids[0])
    if found[0] == found[1]:
        raise ValueError(
            f"{yes!r} and {no!r} begin with the same token ({found[0]}) in this tokenizer; choose other answer words"
        )
    return tuple(found)


@torch.no_grad()
def generate(llm, prompt_embeds, prompt_mask, max_new_tokens, eos_token_id, pad_token_id):
    """Greedy continuation of left-padded prompts: token ids [B, <= max_new_tokens], without the prompt.

    The model's own generation settings (sampling, penalties) do not apply. Rows that end early hold `pad_token_id`.
    """
    _check_prompt(prompt_embeds, prompt_mask.bool())
    return llm.generate(
        inputs_embeds=_cast(llm, prompt_embeds),
        attention_mask=prompt_mask.long(),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def _base(llm):
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def _accepts(llm, name):
    return name in inspect.signature(type(_base(llm)).forward).parameters


def _inputs(llm, embeds, mask, positions, keep, **others):
    inputs = {"inputs_embeds": _cast(llm, embeds), "attention_mask": mask, **others}
    if _accepts(llm, "position_ids"):
        inputs["position_ids"] = positions
    if _accepts(llm, "logits_to_keep"):  # callers slice as well, for models that return all
        inputs["logits_to_keep"] = keep
    return inputs


def _forward(llm, embeds, mask, positions, keep, **others):
    return llm(**_inputs(llm, embeds, mask, positions, keep, **others))


def _cast(llm, embeds):
    """Embeddings in the LLM's dtype: a projector may be kept in float32."""
    return embeds.to(llm.get_input_embeddings().weight.dtype)


def _extend(llm, embeds, ids):
    """[B, P+N, d]: embeddings with those of ids [B, N] after them."""
    return torch.cat([_cast(llm, embeds), llm.get_input_embeddings()(ids)], dim=1)


def _positions(mask):
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _chunks(ids, mask, size):
    return list(zip(ids.split(size, dim=1), mask.split(size, dim=1), strict=True))


def _chunks_among(ids, mask, size, among):
    """[(ids, mask, rivals or None)] of at most `size` candidates each."""
    rivals_of = zip(*(part.split(size, dim=1) for part in among), strict=True) if among else itertools.repeat(None)
    return [(*chunk, found) for chunk, found in zip(_chunks(ids, mask, size), rivals_of, strict=False)]


def _log_probs(logits, ids):
    """float32 log softmax(logits [..., V]) at ids [..., k]."""
    logits = logits.float()
    return logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)


def _first_log_probs(logits, branch_ids, among):
    """[B, C]: first tokens, all from the prompt's last position with logits [B, V]."""
    if among is None:
        return _log_probs(logits, branch_ids[:, :, 0])
    return log_probs(logits[:, None], branch_ids[:, :, 0], *(part[:, :, 0] for part in among))


def _label_log_probs(logits, labels, among=None):
    """float32 log-probabilities [B, N] of labels [B, N] under logits [B, N, V], in blocks of bounded size.

    among: rivals (ids, mask) [B, N, C], or None for the vocabulary.
    """
    if among is not None:
        return log_probs(logits, labels, *among)
    size = max(1, _BLOCK // max(1, logits.shape[0] * logits.shape[2]))
    blocks = zip(logits.split(size, dim=1), labels.split(size, dim=1), strict=True)
    return torch.cat([_log_probs(block, label[..., None])[..., 0] for block, label in blocks], dim=1)


def _check_prompt(prompt_embeds, prompt_mask):
    if prompt_mask.shape != prompt_embeds.shape[:2]:
        raise ValueError(
            f"prompt_mask {tuple(prompt_mask.shape)} must be [B, P] for prompt_embeds [B, P, d], "
            f"here {tuple(prompt_embeds.shape)}"
        )
    if not bool(prompt_mask[:, -1].all()) or bool((prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any()):
        raise ValueError("prompts must be padded on the left only and hold at least one token")


def _check_inputs(prompt_embeds, prompt_mask, branch_ids, branch_mask):
    _check_prompt(prompt_embeds, prompt_mask)
    if branch_ids.shape != branch_mask.shape or branch_ids.shape[0] != prompt_mask.shape[0]:
        raise ValueError(
            f"branch_ids {tuple(branch_ids.shape)} and branch_mask {tuple(branch_mask.shape)} must both be [B, C, T] "
            f"with B = {prompt_mask.shape[0]}"
        )
    if not bool(branch_mask[:, :, 0].all()) or bool((~branch_mask[:, :, :-1] & branch_mask[:, :, 1:]).any()):
        raise ValueError("branches must be padded on the right only and hold at least one token")


@cache
def _log_choice(model, method, reason):
    (_logger.info if method == "tree" else _logger.warning)("%s candidates are scored by %r: %s", model, method, reason)

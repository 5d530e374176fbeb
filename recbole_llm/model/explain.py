"""How a recommendation comes about, in text: the prompt with its slots, the gate's weights, the candidates' scores."""

from __future__ import annotations

import torch
from tabulate import tabulate

from recbole_llm.adapter import Gate
from recbole_llm.data.requests import Request
from recbole_llm.data.tokens import USER_SLOT


def explanation(recommender, request: Request, k: int) -> str:
    """Text for one request of a :class:`~recbole_llm.recommend.ranking.Ranker`, with a table of ``k`` scores."""
    lines, scores = recommender.crm_scores([request])
    ((_, candidates),) = recommender.groups([request], [k], lines, scores)
    batch = recommender.prompts(lines, candidates)
    (ranked,) = recommender.rank([request], [k])
    names = recommender.names
    rows = [
        [i + 1, names.tokens[item], names.titles[item], f"{score:.4f}", ranked.crm_rank.get(int(item), "")]
        for i, (item, score) in enumerate(zip(ranked.items, ranked.scores, strict=True))
    ][:k]
    table = tabulate(rows, headers=["LLM's rank", "item", "title", "score", "CRM's rank"], disable_numparse=True)
    parts = [f"user {request.user}, history of {len(request.history)}, {candidates.shape[1]} candidates"]
    parts.append(prompt_text(recommender.model.tokens, names.tokens, batch))
    return "\n\n".join([*parts, gate_text(recommender.model, batch), table])


def prompt_text(tokens, names, batch) -> str:
    """A batch's first prompt; a slot is shown as [id], the id of the item whose vector stands there, or as [user].

    Args:
        tokens: the run's :class:`~recbole_llm.data.tokens.PromptTokenizer`.
        names: external ids by internal item id.
    """
    ids, mask, items = (batch[name][0] for name in ("prompt_ids", "prompt_mask", "prompt_items"))
    if ids.dim() == 2:  # a prompt for each item asked about: the first one's
        ids, mask, items = ids[0], mask[0], items[0]
    text = _with_slots(tokens, names, ids[mask.bool()].tolist(), items[mask.bool()].tolist())
    if "branch_items" in batch:  # RecLoRA: what follows the shared history
        ids, mask, items = (batch[name][0, 0] for name in ("branch_ids", "branch_mask", "branch_items"))
        text += _with_slots(tokens, names, ids[mask.bool()].tolist(), items[mask.bool()].tolist())
    return text


def _with_slots(tokens, names, ids: list[int], items: list[int]) -> str:
    text, start = "", 0
    for place, item in [*((i, item) for i, item in enumerate(items) if item), (len(ids), None)]:
        text += tokens.tokenizer.decode(ids[start:place], skip_special_tokens=False)
        if item is not None:
            text += "[user]" if item == USER_SLOT else f"[{names[item]}]"
        start = place + 1
    return text


@torch.no_grad()
def gate_text(model, batch) -> str:
    """The mixing weights of a batch's first row."""
    if getattr(model, "gate_input", None) == "target":
        return "gate: depends on the item asked about (gate_input: target)"
    if batch[model.ITEM_SEQ].dim() > 2:  # [B, C, L]
        return "gate: depends on the item asked about (a history for each)"
    gate = model.gate(batch.to(model.device))
    if gate is None:
        return "gate: none, the adapter is the same for every row"
    weights = (gate.weights if isinstance(gate, Gate) else gate)[0].float().cpu()
    mean = " (mean over projections)" if weights.dim() == 2 else ""
    weights = weights.mean(0) if weights.dim() == 2 else weights
    return f"gate{mean}: " + " ".join(f"{weight:.4f}" for weight in weights.tolist())

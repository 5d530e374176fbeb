"""Checks beside a row's score: does it depend on where the target stands, how popular it is, how long the history is?

A listwise LLM may prefer the first option whatever it says; target positions are uniform, so an unbiased model's Hit@1
is flat over them. Popularity groups are terciles of the training interactions (head: the few items that hold the first
third of them), history groups are terciles of the test rows. Permutations score the same rows under other candidate
orders. The leak check looks for the target in a prompt outside the candidate list.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from recbole_llm.data.columns import history_field
from recbole_llm.evaluation.candidate_collector import target_ranks

LEAK_ROWS = 1000


def group_counts(rank: np.ndarray, group: np.ndarray, names: list[str]) -> dict:
    """Hits at 1 and rows per group: ``{"groups", "hits", "rows"}``."""
    hits = np.bincount(group, weights=rank == 1, minlength=len(names)).astype(int)
    return {"groups": names, "hits": hits.tolist(), "rows": np.bincount(group, minlength=len(names)).tolist()}


def popularity_groups(targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The popularity group of each target.

    Args:
        targets: ``[n]`` catalogue indices.
        counts: ``[M]`` training interactions per item.

    Returns:
        ``[n]`` int64: 0 head, 1 middle, 2 tail.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # interactions of more popular items
    group = np.empty(len(counts), dtype=np.int64)
    group[order] = np.minimum(3 * before // max(int(counts.sum()), 1), 2)
    return group[targets]


def history_groups(lengths: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Terciles of history lengths (fewer where lengths repeat), and their names such as ``"6-14"``."""
    cuts = np.unique(np.quantile(lengths, [1 / 3, 2 / 3], method="lower"))
    group = np.searchsorted(cuts, lengths, side="left")
    present, group = np.unique(group, return_inverse=True)
    names = [f"{lengths[group == g].min()}-{lengths[group == g].max()}" for g in range(len(present))]
    return group, names


def row_checks(sets, rank: np.ndarray, target_position: np.ndarray | None) -> dict:
    """Hit@1 by target position (where candidates have one), popularity and history length.

    Args:
        sets: the dataset's ``CandidateSets``.
        rank: ``[n]`` the targets' ranks, in the order of the test rows.
        target_position: ``[n]`` where they stood among the candidates, or None.
    """
    test = sets.test
    index = np.searchsorted(sets.catalogue, test.item_ids)
    counts = np.bincount(sets.histories.items, minlength=len(sets.catalogue))
    for part in (sets.valid, test):
        counts = counts - np.bincount(np.searchsorted(sets.catalogue, part.item_ids), minlength=len(counts))
    lengths = np.array([len(sets.histories[user]) - 1 for user in test.user_ids.tolist()])
    group, names = history_groups(lengths)
    position = None
    if target_position is not None:
        position = group_counts(rank, target_position, [str(i) for i in range(test.n_candidates)])
    popularity = popularity_groups(index, np.maximum(counts, 0))
    return {
        "position": position,
        "popularity": group_counts(rank, popularity, ["head", "middle", "tail"]),
        "history": group_counts(rank, group, names),
    }


def permuted_batches(batches: list, seed: int) -> list:
    """The same rows with their candidates in another order, a pure function of ``seed``."""
    rng = np.random.default_rng(seed)
    permuted = []
    for batch in batches:
        keys = []
        for key in batch:
            order = rng.permutation(len(key.candidates))
            candidates = tuple(key.candidates[i] for i in order)
            place = int(np.flatnonzero(order == key.target_position)[0])
            each = {  # RecLoRA's histories, where there is one for each candidate
                name: tuple(getattr(key, name)[i] for i in order)
                for name in ("text", "long")
                if len(getattr(key, name, ())) > 1
            }
            keys.append(replace(key, candidates=candidates, target_position=place, **each))
        permuted.append(keys)
    return permuted


@torch.no_grad()
def permutation_spread(trainer, loader, k: int, seed: int) -> dict:
    """Hit@1 of an LLM row under k other candidate orders.

    Returns:
        ``{"k", "hit@1": [k values], "sd", "same_top"}``; the last is the share of rows whose first item never changes.
    """
    trainer.model.eval()
    hits, tops = [], []
    for number in range(k):
        batches = permuted_batches(list(loader.batch_sampler), seed + number)
        again = DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)
        ranks, top = [], []
        for batch in again:
            batch = batch.to(trainer.device)
            with trainer.steps.autocast():
                scores = trainer.model.score_candidates(batch).float().cpu()
            ranks.append(target_ranks(scores, batch["target_position"].cpu())[0])
            top.append(batch["candidates"].cpu().gather(1, scores.argmax(1, keepdim=True)).squeeze(1))
        hits.append(round(float((torch.cat(ranks) == 1).double().mean()), 6))
        tops.append(torch.cat(top))
    same = torch.stack([top == tops[0] for top in tops]).all(0).double().mean()
    spread = float(np.std(hits, ddof=1)) if k > 1 else None
    return {"k": k, "hit@1": hits, "sd": spread, "same_top": round(float(same), 6)}


def leak_check(loader, tokens, limit: int = LEAK_ROWS) -> dict:
    """Look for each row's target in its prompt outside the candidate list.

    Args:
        loader: an LLM row's test loader.
        tokens: its :class:`~recbole_llm.data.tokens.PromptTokenizer`.
        limit: how many rows are looked at, at most.

    Returns:
        ``{"rows", "id_outside", "title_outside", "examples"}``: rows looked at; rows whose target has a behaviour token
        or a history place of its own; rows whose target's title stands once more in the text; up to three row numbers.
    """
    counts = {"rows": 0, "id_outside": 0, "title_outside": 0}
    examples: list[int] = []
    split = loader.dataset.split
    for keys, batch in zip(loader.batch_sampler, loader, strict=True):
        for i, key in enumerate(keys):
            target = int(split.inter_feat[split.iid_field][key.row])
            found = _leaks_of_row(batch, i, target, batch[history_field(split.config)][i], tokens)
            counts["rows"] += 1
            counts["id_outside"] += found[0]
            counts["title_outside"] += found[1]
            if any(found) and len(examples) < 3:
                examples.append(int(batch["candidate_row"][i]))
        if counts["rows"] >= limit:
            break
    if counts["id_outside"] or counts["title_outside"]:
        logging.getLogger().warning(f"leak check: the target is in the prompt outside the candidates: {counts}")
    return {**counts, "examples": examples}


def _leaks_of_row(batch, i: int, target: int, histories: torch.Tensor, tokens) -> tuple[bool, bool]:
    """(target's id outside the candidates, its title outside them) for one row of a batch.

    A row has one prompt [P] and one history [L], or one of each for every candidate: [C, P] and [C, L].
    """
    ids, mask, items = (batch[name][i] for name in ("prompt_ids", "prompt_mask", "prompt_items"))
    prompts, mask, items = (part.view(-1, part.shape[-1]) for part in (ids, mask.bool(), items))
    histories = histories.view(-1, histories.shape[-1]).expand(len(prompts), -1).tolist()
    candidates = batch["candidates"][i].tolist()
    found = [
        _leaks_of_prompt(prompts[j][mask[j] & (items[j] == 0)].tolist(), items[j], target, candidates, history, tokens)
        for j, history in enumerate(histories)
    ]
    return any(by_id for by_id, _ in found), any(by_title for _, by_title in found)


def _leaks_of_prompt(ids, items, target: int, candidates, history: list[int], tokens) -> tuple[bool, bool]:
    text = whole = tokens.tokenizer.decode(ids)
    title = tokens.tokenizer.decode(tokens.title_ids[target]).strip()
    shown = {tokens.tokenizer.decode(tokens.title_ids[item]).strip() for item in {*candidates, *history} - {0, target}}
    for other in sorted((name for name in shown if title in name and name != title), key=len, reverse=True):
        text = text.replace(other, " ")  # "It" inside "It Happened One Night" is no leak
    names = [tokens.tokenizer.decode(tokens.title_ids[item]).strip() for item in candidates if item != target]
    listed = all(name in whole for name in names)  # RecLoRA's prompts ask about one item, behind what is shared
    by_id = int((items == target).sum()) > (listed and target in candidates) or target in history
    same = [item for item in candidates if tokens.title_ids[item] == tokens.title_ids[target]]
    allowed = listed * len(same)  # two items, one title
    same_in_history = any(tokens.title_ids[item] == tokens.title_ids[target] for item in history if item)
    return by_id, bool(title) and (same_in_history or (len(title) > 3 and text.count(title) > allowed))

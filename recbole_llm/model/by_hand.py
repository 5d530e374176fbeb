"""Prompts for histories that no split holds: a hand-made Interaction, a user who is recommended to.

As under `protocol: full` (`evaluation.rerank`), the CRM ranks the catalogue, the LLM ranks its top `rerank_n`, shown in a shuffled
order, and the rest follow in the CRM's order. Items of the history are not recommended. Prompts are made by the classes that
make evaluation's, so that equal histories and candidates give equal scores.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional

from recbole_llm.data.click.timelines import timelines_of_lists
from recbole_llm.data.columns import history_field
from recbole_llm.data.requests import knows_users_by_id, unsaid
from recbole_llm.data.rows import seen_items, whole_histories
from recbole_llm.evaluation.full_ranking import BLOCK
from recbole_llm.evaluation.full_rows import shown_order
from recbole_llm.evaluation.rerank import catalogue_scores, top_items


class HandMade:
    """What an LLM recommender asks about rows that are given as ids.

    Args:
        model: an :class:`~recbole_llm.model.base.LLMRecommender`.
        dataset: its training split.
    """

    def __init__(self, model, dataset):
        self.config, self.dataset = model.config, dataset
        self.head = model.head
        self.user, self.item = dataset.uid_field, dataset.iid_field
        self.list, self.length = history_field(self.config), dataset.item_list_length_field
        self.tie_order = np.random.default_rng([int(self.config["candidate_seed"]), 3]).permutation(dataset.item_num)

    def lines(self, interaction: Interaction) -> Interaction:
        """The columns that models read, on the CPU: user [B], history [B, L] as wide as training's, its length [B], item [B].

        The latest items stay of a longer history. A user or item that is not given is 0.

        Raises:
            ValueError: no history, or an id that the dataset does not have.
        """
        if missing := [name for name in (self.list, self.length) if name not in interaction]:
            raise ValueError(f"the Interaction has no {', '.join(missing)}: a sequential row needs the history as internal item "
                             f"ids [B, L], {self.list}, and its length [B], {self.length}")  # fmt: skip
        if self.user not in interaction and knows_users_by_id(self.config):
            raise ValueError(f"the Interaction has no {self.user}, by which crm_model: {self.config['crm_model']} knows users")
        given, lengths = interaction[self.list].cpu().long(), interaction[self.length].cpu().long()
        if len(bad := torch.nonzero((lengths < 1) | (lengths > given.shape[1])).flatten()):
            raise ValueError(f"{self.length}: rows {bad[:5].tolist()} have lengths {lengths[bad[:5]].tolist()}; a history has "
                             f"between 1 item and the {given.shape[1]} of {self.list}")  # fmt: skip
        inside = torch.arange(given.shape[1]) < lengths[:, None]
        if len(bad := given[inside & ((given < 1) | (given >= self.dataset.item_num))]):
            raise ValueError(f"{self.list}: {bad[:5].tolist()} are no internal ids of the {self.dataset.item_num - 1} items; "
                             "dataset.token2id gives them")  # fmt: skip
        width = self.config["MAX_ITEM_LIST_LENGTH"]
        places = torch.arange(width) + (lengths - width).clamp_min(0)[:, None]
        padded = functional.pad(given * inside, (0, max(0, width - given.shape[1])))
        rows = {self.list: padded.gather(1, places), self.length: lengths.clamp_max(width)}
        for name in (self.user, self.item):
            rows[name] = interaction[name].cpu().long() if name in interaction else torch.zeros_like(lengths)
        return Interaction(rows)

    def history(self, interaction: Interaction) -> list[np.ndarray]:
        """Each row's whole history as it was given: what it is not recommended."""
        pairs = zip(interaction[self.list].cpu().numpy(), interaction[self.length].tolist(), strict=True)
        return [items[:length] for items, length in pairs]

    @cached_property
    def _done(self) -> dict[int, np.ndarray]:
        """Internal items of everything that a user of the dataset did, by internal user id."""
        return seen_items(self.dataset, *whole_histories(self.config))

    def history_in_data(self, interaction: Interaction) -> list[np.ndarray]:
        """What evaluation under `full` hides from rows of a split: all that the user did, however long, less the row's own item."""
        pairs = zip(interaction[self.user].tolist(), interaction[self.item].tolist(), strict=True)
        return [self._done[user][self._done[user] != item] for user, item in pairs]

    @torch.no_grad()
    def crm_scores(self, crm, lines: Interaction, hidden: list[np.ndarray]) -> np.ndarray:
        """The CRM's scores of every item, minus infinity for padding and each row's hidden items. float32 [B, item_num]

        Raises:
            ValueError: the run has no CRM (None).
        """
        if crm is None:
            raise ValueError(f"{self.config['model']} of a run with protocol: {self.config['protocol']} has no recommender (CRM) that finds "
                             "items to rank; name candidates (recommend), or train with protocol: full")  # fmt: skip
        device = next(crm.parameters()).device
        features, step = self.dataset.get_item_feature().to(device), max(1, BLOCK // self.dataset.item_num)
        blocks = (lines[start : start + step].to(device) for start in range(0, len(lines), step))
        parts = [catalogue_scores(crm.model, block, features)[:, : self.dataset.item_num].float().cpu() for block in blocks]
        scores = torch.cat(parts).numpy()
        scores[:, 0] = -np.inf
        for row, items in zip(scores, hidden, strict=True):
            row[items] = -np.inf
        return scores

    def best(self, scores: np.ndarray, n: int) -> np.ndarray:
        """Each row's n best items, best first; equal scores in a fixed shuffled order. int64 [B, n]"""
        return top_items(scores, np.isfinite(scores), np.broadcast_to(self.tie_order, scores.shape), n)

    def candidates(self, lines: Interaction, scores: np.ndarray, asked: np.ndarray | None = None) -> list[tuple]:
        """What the LLM ranks: [(row numbers [b], candidates [b, N])], N being `rerank_n`, or fewer where a row has fewer items.

        A model that scores all items at once ranks all that are left.

        Args:
            scores: of `crm_scores`.
            asked: an item of each row [B] that must be among them: it takes the last one's place if need be.
        """
        counts = np.isfinite(scores).sum(1)
        if not self.head.whole_catalogue:
            counts = np.minimum(counts, self.config["rerank_n"])
        if not counts.all():
            raise ValueError(f"rows {np.flatnonzero(counts == 0)[:5].tolist()}: every item is in the history, none is left to rank")
        groups = []
        for n in np.unique(counts).tolist():
            rows = np.flatnonzero(counts == n)
            items = self.best(scores[rows], n)
            if asked is not None:
                absent = ~(items == asked[rows, None]).any(1)
                items[absent, -1] = asked[rows][absent]
            groups.append((rows, self.shuffled(lines[rows], items)))
        return groups

    def shuffled(self, lines: Interaction, items: np.ndarray) -> np.ndarray:
        """Items [B, N] in the order in which prompts show them; of a test row, that of its evaluation under `full`."""
        users = self.dataset.id2token(self.user, lines[self.user].numpy())
        targets = self.dataset.id2token(self.item, lines[self.item].numpy())
        seed = int(self.config["candidate_seed"])
        rows = zip(users, targets, items, strict=True)
        return np.stack([row[shown_order(seed, "test", str(u), str(t), len(row))] for u, t, row in rows])

    def prompts(self, lines: Interaction, candidates: np.ndarray, hybrid: bool = True, split=None) -> Interaction:
        """What `score_candidates` reads of rows with candidates [B, C]; without ``hybrid``, text alone.

        Args:
            split: a dataset of these lines that knows more of them (RecLoRA's timelines); None makes one of their histories.
        """
        index, candidates = range(len(lines)), np.asarray(candidates)
        shown = candidates[:, :1] if self.head.whole_catalogue else candidates  # prompts of histories alone list none
        split = split or self.split(lines)
        rows = self.head.rows(self.config, split)
        keys = [self.head.key(rows, i, shown[i], hybrid=hybrid) for i in index]
        batch = self.head.collate(rows, {i: i for i in index})([rows[key] for key in keys])
        batch.interaction["candidates"] = torch.as_tensor(candidates, dtype=torch.long)
        return batch

    def split(self, lines: Interaction):
        """A dataset whose rows are these lines."""
        split = self.dataset.copy(lines)
        if self.head.pointwise:
            split.timelines = timelines_of_lists(lines[self.list].numpy(), lines[self.length].numpy())
            split.numbers = np.arange(len(lines))
        return split

    def score_rows(self, model, lines: Interaction, candidates: np.ndarray) -> np.ndarray:
        """The model's scores ``[B, C]`` of candidates ``[B, C]`` for rows of :meth:`lines`, float32."""
        size, parts = self.config["eval_batch_size"], []
        for start in range(0, len(lines), size):
            batch = self.prompts(lines[start : start + size], candidates[start : start + size])
            parts.append(model.score_candidates(batch.to(model.device)).float().cpu())
        return torch.cat(parts).numpy()

    def _check_said(self) -> None:
        """Refuse rows of ids alone where the run reads labels or ratings of histories too."""
        if read := unsaid(self.config):
            raise ValueError(f"{'; '.join(reader for reader, _ in read)}, which an Interaction of ids does not say; use recbole_llm.load(RUN)"
                             ".recommend(users=...), which reads them from the data")  # fmt: skip

    def rank_catalogue(self, model, interaction: Interaction, hidden: list[np.ndarray] | None = None) -> torch.Tensor:
        """Scores ``[B, item_num]``: the CRM's top `rerank_n` as the model ranks them, the rest below in the CRM's order.

        Args:
            hidden: what each row is not recommended; None: the history that it brings.
        """
        self._check_said()
        lines = self.lines(interaction)
        scores = self.crm_scores(model.crm, lines, self.history(interaction) if hidden is None else hidden)
        ranked = np.empty_like(scores)
        for rows, candidates in self.candidates(lines, scores):
            ranked[rows] = ranked_scores(scores[rows], candidates, self.score_rows(model, lines[rows], candidates))
        return torch.from_numpy(ranked).to(interaction[self.list].device)

    def score_asked(self, model, interaction: Interaction) -> torch.Tensor:
        """``[B]``: the score of each row's item, among the CRM's top `rerank_n`, or where prompts ask about one item by itself."""
        self._check_said()
        lines = self.lines(interaction)
        if self.item not in interaction:
            raise ValueError(f"predict: the Interaction has no {self.item}, the item to score; full_sort_predict scores all")
        asked = lines[self.item].numpy()
        if ((asked < 1) | (asked >= self.dataset.item_num)).any():
            raise ValueError(f"predict: {self.item} holds ids that are none of the {self.dataset.item_num - 1} items")
        if self.head.pointwise:
            groups = [(np.arange(len(lines)), asked[:, None])]
        else:
            scores = self.crm_scores(model.crm, lines, self.history(interaction))
            groups = self.candidates(lines, scores, asked)
        found = np.empty(len(lines), dtype=np.float32)
        for rows, candidates in groups:
            scored = self.score_rows(model, lines[rows], candidates)
            found[rows] = scored[candidates == asked[rows, None]]
        return torch.from_numpy(found).to(interaction[self.list].device)


def ranked_scores(scores: np.ndarray, candidates: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Scores of the whole catalogue: ``found`` [B, N] of the candidates, and below them the rest in the CRM's order.

    Args:
        scores: the CRM's [B, item_num], minus infinity for what is not recommended, which stays so.

    Returns:
        float32 [B, item_num].
    """
    n_items = scores.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(1, n_items + 1), order.shape), axis=1)
    ranked = np.where(np.isfinite(scores), found.min(1, keepdims=True) - place, -np.inf).astype(np.float32)
    np.put_along_axis(ranked, candidates, found, axis=1)
    return ranked

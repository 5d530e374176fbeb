"""What a request is answered with: the CRM retrieves, the LLM ranks, the rest follow in the CRM's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model
from tqdm import tqdm

from recbole_llm.data.click.rows import rating_levels
from recbole_llm.data.click.timelines import HISTORY_RATINGS, timelines_of_lists
from recbole_llm.data.model_kinds import reads_ratings
from recbole_llm.data.requests import Request, Requests
from recbole_llm.data.tokens import PromptTokenizer
from recbole_llm.evaluation.full_ranking import BLOCK
from recbole_llm.training.optimizer_step import autocast, precision
from recbole_llm.training.step_batches import Prefetch

WHOLE = "whole_history"  # column [B, W] of lines, right-padded: all of a history, of which models read the latest
NOTES = ("labels", "ratings")  # of a `Request`, and columns [B, W] likewise; NaN where a request has none


@dataclass
class Ranked:
    """What a request is answered with.

    Attributes:
        items: ``[N]`` internal ids as the LLM ranks them.
        scores: ``[N]`` the LLM's scores of them.
        rest: internal ids of those that follow, in the CRM's order.
        crm_rank: rank by the CRM, from 1, of each item with interactions, by internal id; empty without a CRM.
    """

    items: np.ndarray
    scores: np.ndarray
    rest: np.ndarray
    crm_rank: dict[int, int]


class Ranker:
    """Ranks items for requests with a trained LLM recommender.

    Args:
        config: the run's configuration.
        model: the trained model.
        requests: makes requests of the run's users and items.
    """

    def __init__(self, config, model, requests: Requests):
        self.config, self.model, self.hand = config, model.eval(), model.by_hand
        self.requests, self.names = requests, requests.names

    def rank(self, requests: list[Request], counts: list[int], show_progress: bool = False) -> list[Ranked]:
        """Rank what each request asks for.

        Args:
            requests: n of them.
            counts: how many items each wants.
            show_progress: a bar, where there is more than one batch.

        Returns:
            n rankings, each of at least as many items as are wanted.
        """
        ranked: list[Ranked] = [None] * len(requests)
        step = max(1, BLOCK // self.requests.dataset.item_num)
        quiet = not show_progress or len(requests) <= self.config["eval_batch_size"]
        with tqdm(total=len(requests), unit=" users", disable=quiet) as bar:
            for start in range(0, len(requests), step):
                block = slice(start, start + step)
                for number, found in self._rank_block(requests[block], counts[block]):
                    ranked[start + number] = found
                    bar.update()
        return ranked

    def crm_scores(self, requests: list[Request]) -> tuple[Interaction, np.ndarray]:
        """The rows that models read, and the CRM's scores ``[B, item_num]``, minus infinity for what may not be ranked."""
        width = max(len(request.history) for request in requests)
        histories = np.stack([np.pad(request.history, (0, width - len(request.history))) for request in requests])
        columns = {
            self.hand.user: [request.user_id for request in requests], self.hand.item: [request.target for request in requests],
            self.hand.list: histories, self.hand.length: [len(request.history) for request in requests],
        }  # fmt: skip
        lines = self.hand.lines(Interaction({name: torch.as_tensor(np.asarray(column)) for name, column in columns.items()}))
        scores = self._retrieved(requests, lines)
        lines.interaction[WHOLE] = torch.from_numpy(histories)
        lines.interaction |= {name: _padded([getattr(request, name) for request in requests], width) for name in NOTES}
        return lines, scores

    def _retrieved(self, requests: list[Request], lines: Interaction) -> np.ndarray:
        """The CRM's scores ``[B, item_num]`` after the latest items of histories, and their ratings where it reads them."""
        hidden = [request.seen if request.candidates is None else request.seen[:0] for request in requests]
        if self.model.crm is None and all(request.candidates is not None for request in requests):
            return np.zeros((len(requests), self.requests.dataset.item_num), dtype=np.float32)  # nothing to retrieve
        if self.model.crm is not None and reads_ratings(get_model(self.config["crm_model"])):
            lines.interaction[HISTORY_RATINGS] = self._levels(requests, lines[self.hand.list].shape[1])
        scores = self.hand.crm_scores(self.model.crm, lines, hidden)
        scores[:, self.names.cold[: scores.shape[1]]] = -np.inf
        return scores

    def _levels(self, requests: list[Request], width: int) -> torch.Tensor:
        """Ratings of the latest ``width`` items of histories, as `RatedDIN` reads them, 0 behind the last. int64 ``[B, width]``"""
        found = _padded([None if request.ratings is None else request.ratings[-width:] for request in requests], width)
        return torch.where(found.isnan(), 0, torch.from_numpy(rating_levels(self.config, found.numpy())))

    def split(self, lines: Interaction):
        """The dataset of which prompts are rows; where they ask about one item, with whole histories, their labels and ratings."""
        split = self.hand.split(lines)
        if self.hand.head.pointwise:
            items = lines[WHOLE].numpy()
            inside = items > 0
            labels, ratings = (lines[name].numpy()[inside] for name in NOTES)
            split.timelines = replace(
                timelines_of_lists(items, inside.sum(1)),
                labels=None if np.isnan(labels).any() else labels.astype(np.int8), ratings=None if np.isnan(ratings).any() else ratings,
            )  # fmt: skip
        return split

    def groups(self, requests, counts, lines, scores) -> list[tuple[np.ndarray, np.ndarray]]:
        """Put requests with as many candidates together.

        Args:
            requests: B of them.
            counts: how many items each wants.
            lines: rows that models read.
            scores: ``[B, item_num]`` the CRM's.

        Returns:
            Pairs of request numbers ``[b]`` and what the LLM ranks, ``[b, N]`` internal ids.

        Raises:
            ValueError: a request wants more items than are left to rank.
        """
        retrieved = []
        for i, (request, k) in enumerate(zip(requests, counts, strict=True)):
            left = int(np.isfinite(scores[i]).sum()) if request.candidates is None else len(request.candidates)
            if not left:
                raise ValueError(f"user {request.user!r} has no items left to rank: all with interactions were seen or are excluded")
            if not 1 <= k <= left:
                raise ValueError(f"k={k}: user {request.user!r} has {left} items left to rank, of {int((~self.names.cold).sum())} with "
                                 f"interactions less what was seen or excluded, or the candidates; k is between 1 and {left}")  # fmt: skip
            if request.candidates is None:
                retrieved.append(i)
        groups = [(np.array([i]), r.candidates[None]) for i, r in enumerate(requests) if r.candidates is not None]
        if retrieved:
            rows = np.array(retrieved)
            groups += [(rows[mine], items) for mine, items in self.hand.candidates(lines[rows], scores[rows])]
        return groups

    def prompts(self, lines: Interaction, candidates: np.ndarray) -> Interaction:
        """The prompts of rows with candidates ``[b, N]``; text alone where the CRM has no vector for one of them.

        Raises:
            ValueError: the gate reads a vector that is not there (`gate_input: target`), or histories are searched by one (`relevant`).
        """
        split = self.split(lines)
        if not self.names.cold[candidates].any():
            return self.hand.prompts(lines, candidates, split=split)
        if "relevant" in (self.config["text_history"], self.config["crm_history"]) and (candidates >= self.requests.dataset.item_num).any():
            raise ValueError("text_history or crm_history: relevant searches a history by the text vector of the item asked about, and a "
                             "candidate without interactions has none; a run with recent histories can score it")  # fmt: skip
        if getattr(self.model, "gate_input", None) == "target":
            raise ValueError("gate_input: target reads the CRM's vector of the item asked about, and a candidate without interactions has "
                             "none; a run with gate_input: sequence can score it")  # fmt: skip
        split.prompt_tokenizer = self._tokens
        return self.hand.prompts(lines, candidates, hybrid=False, split=split)

    @torch.no_grad()
    def score(self, batch: Interaction) -> np.ndarray:
        """The LLM's scores ``[b, N]`` of a batch, in the precision of the run's evaluation."""
        device = self.model.device
        with autocast(precision(self.config["mixed_precision"] or "auto", device), device):
            return self.model.score_candidates(batch.to(device)).float().cpu().numpy()

    def _rank_block(self, requests, counts) -> Iterator[tuple[int, Ranked]]:
        lines, scores = self.crm_scores(requests)
        batches = self._batches(lines, self.groups(requests, counts, lines, scores))
        with Prefetch(batches, self.config["prefetch_steps"] or 0) as ahead:  # rendered while the LLM works
            for rows, candidates, batch in ahead:
                for i, items, llm in zip(rows, candidates, self.score(batch), strict=True):
                    yield int(i), self._ranked(requests[i], counts[i], scores[i], items, llm)

    def _batches(self, lines, groups) -> Iterator[tuple[np.ndarray, np.ndarray, Interaction]]:
        """Batches of like prompts, the longest first: (request numbers ``[b]``, candidates ``[b, N]``, prompts)."""
        alike: dict[tuple, list] = {}
        for rows, candidates in groups:
            alike.setdefault((candidates.shape[1], bool(self.names.cold[candidates].any())), []).append((rows, candidates))
        size = self.config["eval_batch_size"]
        for parts in alike.values():
            rows, candidates = (np.concatenate(column) for column in zip(*parts, strict=True))
            split = self.split(lines[rows])
            split.prompt_tokenizer = self._tokens  # knows how long the titles of cold candidates are
            lengths = self.hand.head.rows(self.config, split).token_lengths(np.arange(len(rows)), candidates)
            order = np.argsort(-lengths, kind="stable")
            for mine in (order[start : start + size] for start in range(0, len(order), size)):
                yield rows[mine], candidates[mine], self.prompts(lines[rows[mine]], candidates[mine])

    @cached_property
    def _tokens(self) -> PromptTokenizer:
        """The run's tokenizer, which knows the titles of items without interactions too."""
        return self.model.tokens.with_titles(self.names.titles, self.names.details)

    def _ranked(self, request, k, crm, items, llm) -> Ranked:
        """The ranking of a request for k items, from the CRM's scores ``[item_num]`` and the LLM's ``[N]`` of the ``items`` shown."""
        best = np.argsort(-llm, kind="stable")  # equal scores in the order shown, as in evaluation
        order = items[~self.names.cold[items]] if self.model.crm is not None else items[:0]
        if request.candidates is None:
            order = self.hand.best(crm[None], max(len(items), k))[0]
        among = crm if request.candidates is None else crm[order]
        places = {int(item): 1 + int((among > crm[item]).sum()) for item in order}
        rest = order[len(items) :] if request.candidates is None else items[:0]
        return Ranked(items[best], llm[best], rest, places)


def _padded(columns: list, width: int) -> torch.Tensor:
    """Labels or ratings of histories, NaN behind the last and where there are none (None). float64 ``[B, width]``"""
    found = np.full((len(columns), width), np.nan)
    for row, column in zip(found, columns, strict=True):
        if column is not None:
            row[: len(column)] = column
    return torch.from_numpy(found)

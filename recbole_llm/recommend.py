"""Recommendations of a trained LLM recommender: for its users, for histories typed by hand, with items left out.

    import recbole_llm
    recommender = recbole_llm.load("results/ml-100k.candidates.LLaRA.seed2020.json")
    recommender.recommend(users=["196"], k=10)
    recommender.recommend(history=["Toy Story (1995)", "Heat (1995)"], k=5)

The CRM retrieves `rerank_n` items, the LLM ranks them, the rest follow in the CRM's order (`data.inference`). Nothing here
opens a pickle: a run's folder holds safetensors, JSON and YAML.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from tqdm import tqdm

from recbole_llm import registry
from recbole_llm.data.requests import Request, Requests
from recbole_llm.data.tokens import PromptTokenizer
from recbole_llm.evaluation.full_ranking import BLOCK
from recbole_llm.registry import is_plugin_model
from recbole_llm.results.result_file import read_result
from recbole_llm.training.checkpoint_files import checkpoint_folder
from recbole_llm.training.optimizer_step import precision
from recbole_llm.training.recbole_checkpoints import load_data_and_model
from recbole_llm.training.step_batches import Prefetch

COLUMNS = ("user", "rank", "item_id", "title", "score", "crm_rank", "llm_rank")
K = 10


@dataclass
class Ranked:
    """What a request is answered with.

    Attributes:
        items: ``[N]`` internal ids as the LLM ranks them; scores: ``[N]`` the LLM's.
        rest: those that follow in the CRM's order. crm_rank: by internal id, from 1, of items with interactions.
    """

    items: np.ndarray
    scores: np.ndarray
    rest: np.ndarray
    crm_rank: dict[int, int]


def find_checkpoint(run: str | os.PathLike) -> Path:
    """The checkpoint folder of ``run``: a result file, a run's folder or a checkpoint's.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is one of RecBole's own models.
    """
    path = Path(run)
    if path.suffix not in (".json", ".pth"):
        return checkpoint_folder(path)
    record = read_result(path) if path.suffix == ".json" else {"model": path.name, "checkpoint": path.name}
    weights = record.get("checkpoint") and path.parent / record["checkpoint"]
    if not is_plugin_model(record["model"]):
        how = f"load_data_and_model({str(weights)!r}) and" if weights else "a model trained with saved=True, load_data_and_model and"
        raise ValueError(f"{path}: {record['model']} is RecBole's own, no LLM ranks what it finds. Its lists are those of {how} "
                         "recbole.utils.case_study.full_sort_topk; recommend needs a run of an LLM recommender")  # fmt: skip
    if weights is None:
        raise FileNotFoundError(f"{path} names no checkpoint: its run kept none, or an earlier version wrote it. Give the run's folder "
                                "under checkpoint_dir, or run the model again")  # fmt: skip
    return checkpoint_folder(weights)


def load(run: str | os.PathLike, trust_remote_code: bool = False, **settings) -> Recommender:
    """The trained recommender of a run.

    Args:
        run: a result file (.json), or a run's or checkpoint's folder of an LLM recommender.
        trust_remote_code: whether its LLM may run code of its own; the checkpoint has no say in it.
        settings: where things lie on this machine and how much is done at once: `data_path`, `llm_path`, `checkpoint_dir`,
            `gpu_id`, `rerank_n`, `eval_batch_size` ...

    Raises:
        FileNotFoundError: no such file, or its checkpoint is gone.
        ValueError: a baseline's run; a damaged checkpoint or one of an earlier version; data files that changed since.
    """
    config, model, _, *loaders = load_data_and_model(find_checkpoint(run), trust_remote_code, settings)
    return Recommender(config, model, [loader._dataset for loader in loaders])


class Recommender:
    """A trained LLM recommender with its data.

    Args:
        splits: its training, validation and test split.

    Raises:
        ValueError: the run's prompts hold what a history does not say (labels, ratings).
    """

    def __init__(self, config, model, splits):
        if registry.protocol(config["protocol"]).labelled or config["history_notes"] in ("likes", "ratings"):
            key = "protocol" if registry.protocol(config["protocol"]).labelled else "history_notes"
            raise ValueError(f"{key}: {config[key]}: this run's prompts say behind each item whether it was liked, which a history does "
                             "not; recommend needs a run of protocol candidates or full with history_notes: none")  # fmt: skip
        self.config, self.model, self.hand = config, model.eval(), model.by_hand
        self.requests = Requests(config, splits)
        self.names = self.requests.names

    def recommend(self, users=None, history=None, k: int | None = None, candidates=None, exclude=(), until=None,
                  show_progress: bool = True) -> pd.DataFrame:  # fmt: skip
        """The best items of users, of typed histories, or of both.

        Args:
            users: external ids of users of the dataset, one or several; what they did, all of it, is their history.
            history: a new user's items by id or title, oldest first; or {name: items} for several.
            k: items for each; 10, or as many as there are candidates.
            candidates: items to rank, shown in this order, or {user: items}; None for the catalogue less what was seen. With an
                item that has no interactions the prompt is text alone, without behaviour tokens.
            exclude: items to leave out.
            until: "test" reads of each user what came before the test row, as the run's evaluation did.
            show_progress: a bar, where there is more than one batch.

        Returns:
            A row for each item: user, rank, item_id, title, score (the LLM's; NaN for what the CRM alone ranked), crm_rank
            (among what was ranked; NA without interactions), llm_rank.

        Raises:
            ValueError: an unknown user or item (near matches are named), a user without history, k above what is left to rank.
        """
        requests = self.requests.make(users, history, candidates, exclude, until)
        counts = [_count(request, k) for request in requests]
        ranked = self.rank(requests, counts, show_progress)
        parts = [self._frame(*three) for three in zip(requests, ranked, counts, strict=True)]
        return pd.concat(parts, ignore_index=True)

    def explain(self, users=None, history=None, k: int | None = None, candidates=None, exclude=(), until=None) -> str:
        """How lists come about: prompts with their slots, the gate's weights, the scores. Arguments as of `recommend`."""
        from recbole_llm.model.explain import explanation

        requests = self.requests.make(users, history, candidates, exclude, until)
        return "\n\n".join(explanation(self, request, _count(request, k)) for request in requests)

    def rank(self, requests: list[Request], counts: list[int], show_progress: bool = False) -> list[Ranked]:
        """What is ranked for each request, at least ``counts`` items."""
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
        """(rows that models read, the CRM's scores [B, item_num]), minus infinity for what may not be ranked."""
        width = max(len(request.history) for request in requests)
        histories = np.stack([np.pad(request.history, (0, width - len(request.history))) for request in requests])
        columns = {
            self.hand.user: [request.user_id for request in requests], self.hand.item: [request.target for request in requests],
            self.hand.list: histories, self.hand.length: [len(request.history) for request in requests],
        }  # fmt: skip
        lines = self.hand.lines(Interaction({name: torch.as_tensor(np.asarray(column)) for name, column in columns.items()}))
        hidden = [request.seen if request.candidates is None else request.seen[:0] for request in requests]
        scores = self.hand.crm_scores(self.model.crm, lines, hidden)
        scores[:, self.names.cold[: scores.shape[1]]] = -np.inf
        return lines, scores

    def groups(self, requests, counts, lines, scores) -> list[tuple[np.ndarray, np.ndarray]]:
        """[(request numbers [b], candidates [b, N])]: what the LLM ranks, requests with as many candidates together."""
        retrieved = []
        for i, (request, k) in enumerate(zip(requests, counts, strict=True)):
            left = int(np.isfinite(scores[i]).sum()) if request.candidates is None else len(request.candidates)
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
        """What the LLM reads of rows with candidates [b, N]; with one that the CRM has no vector for, text alone."""
        if not self.names.cold[candidates].any():
            return self.hand.prompts(lines, candidates)
        if getattr(self.model, "gate_input", None) == "target":
            raise ValueError("gate_input: target reads the CRM's vector of the item asked about, and a candidate without interactions has "
                             "none; a run with gate_input: sequence can score it")  # fmt: skip
        split = self.hand.split(lines)
        split.prompt_tokenizer = self._tokens
        return self.hand.prompts(lines, candidates, hybrid=False, split=split)

    @torch.no_grad()
    def score(self, batch: Interaction) -> np.ndarray:
        """The LLM's scores [b, N] of a batch, in the precision of the run's evaluation."""
        device, kind = self.model.device, precision(self.config["mixed_precision"] or "auto", self.model.device)
        with torch.autocast(device.type, torch.float16 if kind == "fp16" else torch.bfloat16, enabled=kind != "no"):
            return self.model.score_candidates(batch.to(device)).float().cpu().numpy()

    def _rank_block(self, requests, counts) -> Iterator[tuple[int, Ranked]]:
        lines, scores = self.crm_scores(requests)
        batches = self._batches(lines, self.groups(requests, counts, lines, scores))
        with Prefetch(batches, self.config["prefetch_steps"] or 0) as ahead:  # rendered while the LLM works
            for rows, candidates, batch in ahead:
                for i, items, llm in zip(rows, candidates, self.score(batch), strict=True):
                    yield int(i), self._ranked(requests[i], counts[i], scores[i], items, llm)

    def _batches(self, lines, groups) -> Iterator[tuple[np.ndarray, np.ndarray, Interaction]]:
        """(request numbers, candidates, prompts) of batches of like prompts, the longest first."""
        alike: dict[tuple, list] = {}
        for rows, candidates in groups:
            alike.setdefault((candidates.shape[1], bool(self.names.cold[candidates].any())), []).append((rows, candidates))
        size, tokens = self.config["eval_batch_size"], self._tokens.lengths()
        for parts in alike.values():
            rows, candidates = (np.concatenate(column) for column in zip(*parts, strict=True))
            length = tokens[candidates].sum(1) + tokens[lines[self.hand.list].numpy()[rows]].sum(1)
            order = np.argsort(-length, kind="stable")
            for mine in (order[start : start + size] for start in range(0, len(order), size)):
                yield rows[mine], candidates[mine], self.prompts(lines[rows[mine]], candidates[mine])

    @cached_property
    def _tokens(self) -> PromptTokenizer:
        """The run's tokenizer, which knows the titles of items without interactions too."""
        return self.model.tokens.with_titles(self.names.titles)

    def _ranked(self, request, k, crm, items, llm) -> Ranked:
        """crm [item_num]; items [N] as they were shown; llm [N]."""
        best = np.argsort(-llm, kind="stable")  # equal scores in the order shown, as in evaluation
        order = items[~self.names.cold[items]]
        if request.candidates is None:
            order = self.hand.best(crm[None], max(len(items), k))[0]
        among = crm if request.candidates is None else crm[order]
        places = {int(item): 1 + int((among > crm[item]).sum()) for item in order}
        rest = order[len(items) :] if request.candidates is None else items[:0]
        return Ranked(items[best], llm[best], rest, places)

    def _frame(self, request: Request, ranked: Ranked, k: int) -> pd.DataFrame:
        items = np.concatenate((ranked.items, ranked.rest))[:k]
        scored = min(k, len(ranked.items))
        missing = [pd.NA] * (k - scored)
        frame = {
            "user": request.user, "rank": np.arange(1, k + 1),
            "item_id": [self.names.tokens[i] for i in items], "title": [self.names.titles[i] for i in items],
            "score": np.append(ranked.scores[:scored], np.full(k - scored, np.nan)).astype(float),
            "crm_rank": pd.array([ranked.crm_rank.get(int(i), pd.NA) for i in items], dtype="Int64"),
            "llm_rank": pd.array([*range(1, scored + 1), *missing], dtype="Int64"),
        }  # fmt: skip
        return pd.DataFrame(frame, columns=COLUMNS)


def _count(request: Request, k: int | None) -> int:
    """Items asked for."""
    if k is None:
        return K if request.candidates is None else min(K, len(request.candidates))
    return int(k)

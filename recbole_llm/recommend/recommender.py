"""A trained LLM recommender that answers users: loaded from a run, its lists as tables."""

from __future__ import annotations

import operator
import os
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.data.requests import Request, Requests
from recbole_llm.recommend.ranking import Ranked, Ranker
from recbole_llm.registry import is_plugin_model
from recbole_llm.results.result_file import read_result
from recbole_llm.training.checkpoint_files import checkpoint_folder
from recbole_llm.training.load_run import load_data_and_model

COLUMNS = ("user", "rank", "item_id", "title", "score", "crm_rank", "llm_rank")
K = 10


def find_checkpoint(run: str | os.PathLike) -> Path:
    """The checkpoint folder of ``run``: a result file, a run's folder or a checkpoint's.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is one of RecBole's own models, or one that is not registered here.
    """
    path = Path(run)
    if path.suffix not in (".json", ".pth"):
        return checkpoint_folder(path)
    record = read_result(path) if path.suffix == ".json" else {"model": path.name, "checkpoint": path.name}
    if "model" not in record:
        raise ValueError(f"{path} is no result file: it names no model; give one, or the run's folder under checkpoint_dir")
    weights = record.get("checkpoint") and path.parent / record["checkpoint"]
    if not is_plugin_model(record["model"]):
        if record.get("llm"):
            raise ValueError(f"{path}: {record['model']} is not registered here; first import the module that calls recbole_llm.register with it")
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
        config: the run's configuration.
        model: the trained model.
        splits: its training, validation and test split.
    """

    def __init__(self, config, model, splits):
        self.config, self.requests = config, Requests(config, splits)
        self.names = self.requests.names
        self.ranker = Ranker(config, model, self.requests)

    def recommend(self, users=None, history=None, k: int | None = None, candidates=None, exclude=(), until=None,
                  show_progress: bool = True) -> pd.DataFrame:  # fmt: skip
        """The best items of users, of typed histories, or of both.

        Args:
            users: external ids of users of the dataset, one (a str or a number) or a collection; what they did, all of it, is their history.
            history: a new user's items by id or title, oldest first; or {name: items} for several. Not of a run that also reads
                which were liked or how they were rated: in its prompts (`ctr`, `history_notes`), or in its CRM (RatedDIN).
            k: items for each; 10, or as many as there are candidates.
            candidates: items to rank, shown in this order, or {user: items} of every user; None for the catalogue less what was
                seen. With an item that has no interactions the prompt is text alone, without behaviour tokens.
            exclude: items to leave out.
            until: "test" reads of each user what came before the test row (the latest, under `ctr`), as the run's evaluation did.
            show_progress: a bar, where there is more than one batch.

        Returns:
            A row for each item: user, rank, item_id, title, score (the LLM's, P(Yes) of a model that asks about one item; NaN for what
            the CRM alone ranked), crm_rank
            (among what was ranked; NA without interactions), llm_rank.

        Raises:
            ValueError: an unknown user or item (near matches are named), a user without history, k above what is left to rank.
        """
        requests = self.requests.make(users, history, candidates, exclude, until)
        counts = [_count(request, k) for request in requests]
        ranked = self.ranker.rank(requests, counts, show_progress)
        return self._frame(requests, ranked, counts)

    def explain(self, users=None, history=None, k: int | None = None, candidates=None, exclude=(), until=None) -> str:
        """How lists come about, as text: prompts with their slots, the gate's weights, the scores.

        Args:
            users: as in `recommend`, like the rest.
            history: a new user's items.
            k: items for each.
            candidates: items to rank.
            exclude: items to leave out.
            until: "test", or None for the whole history.

        Raises:
            ValueError: as `recommend`.
        """
        from recbole_llm.model.explain import explanation

        requests = self.requests.make(users, history, candidates, exclude, until)
        return "\n\n".join(explanation(self.ranker, request, _count(request, k)) for request in requests)

    def _frame(self, requests: list[Request], ranked: list[Ranked], counts: list[int]) -> pd.DataFrame:
        lists = [np.concatenate((found.items, found.rest))[:k] for found, k in zip(ranked, counts, strict=True)]
        scored = [min(k, len(found.items)) for found, k in zip(ranked, counts, strict=True)]
        scores = [np.pad(found.scores[:n].astype(float), (0, k - n), constant_values=np.nan) for found, n, k in zip(ranked, scored, counts, strict=True)]
        places = [found.crm_rank.get(int(i), pd.NA) for found, items in zip(ranked, lists, strict=True) for i in items]
        rank = np.concatenate([np.arange(1, k + 1) for k in counts])
        items = np.concatenate(lists).tolist()
        frame = {
            "user": [request.user for request, k in zip(requests, counts, strict=True) for _ in range(k)], "rank": rank,
            "item_id": [self.names.tokens[i] for i in items], "title": [self.names.titles[i] for i in items],
            "score": np.concatenate(scores), "crm_rank": pd.array(places, dtype="Int64"),
            "llm_rank": pd.Series(rank, dtype="Int64").mask(rank > np.repeat(scored, counts)),
        }  # fmt: skip
        return pd.DataFrame(frame, columns=COLUMNS)


def _count(request: Request, k: int | None) -> int:
    """How many items a request is answered with."""
    if k is None:
        return K if request.candidates is None else min(K, len(request.candidates))
    try:
        return operator.index(k)
    except TypeError:
        raise ValueError(f"k is {k!r} and must be a whole number: how many items each list has") from None

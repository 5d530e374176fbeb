"""The CRM's top N per row, and the prompts in which an LLM recommender ranks them (`protocol: full`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from recbole_llm import registry
from recbole_llm.data.model_kinds import scores_catalogue
from recbole_llm.data.prompt_rows import Key
from recbole_llm.data.rows import match_rows
from recbole_llm.data.sample import sample_evaluation_rows
from recbole_llm.evaluation.full_ranking import BLOCK, PAIRWISE_BLOCK
from recbole_llm.evaluation.full_rows import FullRows, catalogue_ranks, full_rows, shuffled


@dataclass(frozen=True)
class Retrieved:
    """What the CRM found for the rows of one phase.

    Attributes:
        items: ``[n, N]`` catalogue indices of its top N, best first.
        rank: ``[n]`` the target's rank by the CRM, from 1.
        length: ``[n]`` number of items that the row ranks.
        rest: ``[n, K]`` the K that follow, which are recommended behind the N where a metric reads more than N; None for none.
    """

    items: np.ndarray
    rank: np.ndarray
    length: np.ndarray
    rest: np.ndarray | None = None

    @property
    def recall(self) -> float:
        """Share of rows whose target is among the N: no re-ranking can do better."""
        return float((self.rank <= self.items.shape[1]).mean())


def top_items(scores: np.ndarray, allowed: np.ndarray, keys: np.ndarray, n: int) -> np.ndarray:
    """Each row's n best allowed items, ties by ``keys``. int64 [B, n]; all arrays ``[B, M]``."""
    hidden = np.where(allowed, scores, -np.inf)
    least = -np.partition(-hidden, n - 1, axis=1)[:, n - 1]  # the n-th best score
    best = np.empty((len(scores), n), dtype=np.int64)
    for i, bound in enumerate(least):
        chosen = np.flatnonzero(hidden[i] >= bound)
        best[i] = chosen[np.lexsort((keys[i, chosen], -hidden[i, chosen]))][:n]
    return best


def catalogue_scores(model, interaction, item_features) -> torch.Tensor:
    """A RecBole model's scores of every item for each line. [B, item_num]

    Models without a full sort (DIN) score pair by pair, as RecBole's trainer lets them, in blocks of bounded memory.

    Args:
        model: a model of RecBole.
        interaction: B lines.
        item_features: the dataset's item features, one line per item.
    """
    if scores_catalogue(type(model)):
        return model.full_sort_predict(interaction).view(len(interaction), -1)
    n, parts = len(item_features), []
    for line in range(len(interaction)):
        pairs = interaction[line : line + 1].repeat_interleave(n)
        pairs.update(item_features)
        parts += [model.predict(pairs[start : start + PAIRWISE_BLOCK]) for start in range(0, n, PAIRWISE_BLOCK)]
    return torch.cat(parts).view(len(interaction), n)


@torch.no_grad()
def retrieve(crm, lines, item_features, rows: FullRows, internal: np.ndarray, n: int, k: int = 0) -> Retrieved:
    """Score the catalogue with a frozen CRM, in blocks of bounded memory.

    Args:
        crm: RecBole's model.
        lines: row numbers -> what it reads of these rows, an interaction of as many lines.
        item_features: the dataset's item features, one line per item.
        rows: the rows, and what each of them ranks.
        internal: internal ids of the catalogue.
        n: how many items are retrieved.
        k: how many items metrics look at, n or more of them.

    Raises:
        ValueError: a row ranks fewer than n or k items.
    """
    device = next(crm.parameters()).device
    step = max(1, BLOCK // len(item_features))
    item_features, parts = item_features.to(device), []
    for start in range(0, len(rows), step):
        row = np.arange(start, min(start + step, len(rows)))
        scores = catalogue_scores(crm, lines(row).to(device), item_features)[:, : len(item_features)]
        scores = scores.float().cpu().numpy()[:, internal]
        strict, _, length = catalogue_ranks(scores, rows, row)
        if length.min() < max(n, k):
            user, key = str(rows.users[row[length.argmin()]]), "rerank_n" if n >= k else "topk"
            raise ValueError(
                f"{key}: {max(n, k)} items cannot be retrieved for user {user!r}, who has {length.min()} left; lower {key}"
            )
        best = top_items(scores, rows.allowed(row), rows.tie_keys(row), max(n, k))
        parts.append((best[:, :n], strict, length, best[:, n:]))
    return Retrieved(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class RerankDataLoader(DataLoader):
    """Prompts whose candidates are the CRM's top N; empty until `attach` has been given the model, as the trainer does.

    Listwise models (LLaRA, iLoRA) see the N in one prompt; RecLoRA asks about each of them after one shared history.
    """

    is_sequential = True  # asked by RecBole's case_study

    def __init__(self, config, dataset, sampler=None, shuffle=False, phase: str = "test"):
        phase = getattr(dataset, "phase", None) or phase  # RecLoRA's released recipe validates on the test rows
        self.found: Retrieved | None = None
        self._dataset, self.config, self.phase, self.shuffle = dataset, config, phase, False
        self.full_rows = full_rows(config, phase)
        self.numbers = match_rows(dataset, getattr(self.full_rows.sets, phase))  # row -> line of the split
        canonical = {int(line): row for row, line in enumerate(self.numbers)}
        self.head = registry.head(config["model"])
        prompts = self.head.rows(config, dataset)
        if self.head.pointwise and prompts.per_item:
            raise ValueError("text_history, crm_history: protocol 'full' retrieves before it asks; set both to recent")
        collate = self.head.collate(prompts, canonical)
        self._keys: list[list[Key]] = []
        super().__init__(prompts, batch_sampler=self._keys, collate_fn=collate, num_workers=config["worker"])

    def _lines(self, row: np.ndarray):
        """What the CRM reads of these rows: the split's own lines, or RecLoRA's with their longer histories."""
        lines = self.numbers[row]
        if not self.head.pointwise:
            return self._dataset[torch.from_numpy(lines)]
        some = np.ones(1, dtype=np.int64)  # an item to ask about, which a recent history does not depend on
        return self.collate_fn([self.dataset[self.head.key(self.dataset, int(line), some)] for line in lines])

    def attach(self, model) -> Retrieved:
        """Retrieve with the model's CRM and lay out the batches, longest prompts first."""
        internal = self.full_rows.sets.internal_items(self._dataset)
        features = self._dataset.get_item_feature()
        n, k = self.config["rerank_n"], max(self.config["topk"])
        found = self.found = retrieve(model.crm.model, self._lines, features, self.full_rows, internal, n, k)
        size = self.config["valid_sample_size"] if self.phase == "valid" else None
        kept = sample_evaluation_rows(len(self.numbers), size, self.config["candidate_seed"], self.phase)
        shown = np.stack([shuffled(self.full_rows, row, found.items[row]) for row in kept])  # [k, N]
        candidates = internal[shown]
        at = (shown == self.full_rows.target[kept][:, None]).argmax(1)  # 0 where the target was not retrieved
        order = np.argsort(-self.dataset.token_lengths(self.numbers[kept], candidates), kind="stable")
        keys = [self.head.key(self.dataset, int(self.numbers[kept[i]]), candidates[i], int(at[i])) for i in order]
        size = self.config["eval_batch_size"]
        self._keys[:] = [keys[start : start + size] for start in range(0, len(keys), size)]
        return found


def attach_retriever(trainer, loader) -> None:
    """Give a loader of an LLM recommender its CRM's candidates, and the trainer's collector the CRM's ranks."""
    if isinstance(loader, RerankDataLoader) and len(loader.numbers):
        found = loader.found or loader.attach(trainer.model)
        trainer.eval_collector.retrieved[loader.phase] = found


def retriever(config, trainer) -> dict | None:
    """What an LLM row of ``full`` re-ranks: ``{"model", "n", "recall"}``, None elsewhere; the recall bounds its metrics."""
    retrieved = getattr(trainer.eval_collector, "retrieved", None)
    if not retrieved:
        return None
    return {"model": trainer.model.crm.name, "n": config["rerank_n"], "recall": round(retrieved["test"].recall, 6)}

"""`protocol: full`: the loader of RecBole's full sort and the collector of ranks in the whole catalogue (`evaluation.full_rows`).

LLM recommenders cannot score a catalogue title by title: their CRM retrieves `rerank_n` items, the LLM ranks those
(shown in a shuffled order), the rest follow in the CRM's order. A target that was not retrieved keeps the CRM's rank.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import get_model

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.model_kinds import scores_catalogue
from recbole_llm.data.rows import PHASE_FIELD, PHASES, ROW_FIELD, seen_items
from recbole_llm.evaluation.candidate_collector import CandidateCollector, target_ranks
from recbole_llm.evaluation.candidate_loaders import _CandidateRows
from recbole_llm.evaluation.full_rows import FullRows, catalogue_ranks, full_rows

BLOCK = 2**22  # scores ranked at once
PAIRWISE_BLOCK = 2**18  # (row, item) pairs at once, for models that score pair by pair


class FullRowsDataLoader(_CandidateRows, FullSortEvalDataLoader):
    """One line per row for RecBole's full sort, sequential or not, in the order of the row set."""

    def __init__(self, config, dataset, sampler=None, shuffle=False, phase=None):
        self._find_rows(config, dataset, sampler, phase)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def _init_batch_size_and_step(self):
        at_once = scores_catalogue(get_model(self.config["model"]))
        fits = (BLOCK if at_once else PAIRWISE_BLOCK) // self._dataset.item_num
        self.step = max(1, min(self.config["eval_batch_size"], fits))
        self.set_batch_size(self.step)

    @cached_property
    def uid2history_item(self) -> np.ndarray:
        """By internal user id the items that RecBole's `case_study` hides from general models: the history less the target."""
        hidden = np.array([torch.tensor([], dtype=torch.long)] * self._dataset.user_num + [None], dtype=object)[:-1]
        sets, known = candidate_sets(self.config), self._dataset.field2token_id[self.uid_field]
        seen = seen_items(self._dataset, sets.catalogue, sets.histories)
        for user, target in zip(self.candidate_set.user_ids.tolist(), self.items[range(len(self.items)), self.position], strict=True):
            items = torch.from_numpy(seen[known[user]])
            hidden[known[user]] = items[items != target]
        return hidden

    def collate_fn(self, index):
        index = torch.as_tensor(np.asarray(index))  # [B]
        lines = self._lines(index)
        phase = torch.full((len(index),), PHASES.index(self.phase))
        lines.update(Interaction({ROW_FIELD: index, PHASE_FIELD: phase}))
        return lines, None, torch.arange(len(index)), self.items[index, self.position[index]]


class FullCollector(CandidateCollector):
    """Ranks in the whole catalogue: of a baseline's scores [B, item_num], or of an LLM's re-ranked candidates.

    `retrieved` holds, by phase, what the retriever found (`recbole_llm.evaluation.rerank`); it is empty for baselines.
    """

    def __init__(self, config, dataset):
        super().__init__(config)
        self.retrieved: dict = {}
        self._dataset = dataset

    @cached_property
    def _full_rows(self) -> dict[str, FullRows]:
        return {phase: full_rows(self.config, phase) for phase in PHASES}

    @cached_property
    def _internal(self) -> np.ndarray:
        return candidate_sets(self.config).internal_items(self._dataset)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect RecBole's full-sort scores [B, item_num]."""
        phase = PHASES[int(interaction[PHASE_FIELD][0])]
        self._collect_catalogue(scores_tensor, interaction[ROW_FIELD].cpu().numpy(), phase)

    def _collect_catalogue(self, scores, row: np.ndarray, phase: str) -> None:
        """Rank in scores [B, item_num] of rows [B]."""
        scores = scores.detach().float().cpu().numpy()[:, self._internal]  # [B, M]
        rows = self._full_rows[phase]
        strict, average, length = catalogue_ranks(scores, rows, row)
        top = torch.empty(len(row), 0, dtype=torch.long)
        if self.register.need("rec.items"):
            hidden = torch.from_numpy(np.where(rows.allowed(row), scores, -np.inf))
            top = torch.from_numpy(self._internal)[hidden.topk(max(self.topk), dim=1).indices]
        self._keep(phase, row, strict, np.full(len(row), -1), average, length, top)

    def collect_candidate_scores(self, scores, row_index, phase="test", items=None) -> None:
        """Collect an LLM's scores: [B, N] of the retrieved candidates `items` [B, N] (internal ids), or [B, item_num] of all items."""
        scores, row = scores.detach().float().cpu(), np.asarray(torch.as_tensor(row_index).cpu())
        if phase not in self.retrieved:
            return self._collect_catalogue(scores, row, phase)
        found, items = self.retrieved[phase], items.cpu()
        bad = np.flatnonzero(~torch.isfinite(scores).all(1).numpy())
        if len(bad):
            raise ValueError(
                f"candidate scores are not finite in rows {row[bad][:5].tolist()} of {phase}; try llm_dtype: float32"
            )
        target = torch.from_numpy(self._internal[self._full_rows[phase].target[row]])
        here = items == target[:, None]
        position = torch.where(here.any(1), here.int().argmax(1), -1)
        strict, average = target_ranks(scores, position.clamp_min(0))
        crm = torch.from_numpy(found.rank[row])
        strict, average = torch.where(position >= 0, strict, crm), torch.where(position >= 0, average, crm.double())
        top = torch.empty(len(row), 0, dtype=torch.long)
        if self.register.need("rec.items"):
            order = scores.argsort(dim=1, descending=True, stable=True)
            rest = torch.from_numpy(self._internal[found.rest[row]])
            top = torch.cat((items.gather(1, order), rest), dim=1)[:, : max(self.topk)]
        self._keep(phase, row, strict.numpy(), position.numpy(), average.numpy(), found.length[row], top)

    def _keep(self, phase, row, strict, position, average, length, items) -> None:
        self._begin(phase)
        columns = (row, strict, position, np.asarray(average, dtype=np.float32))
        row, strict, position, average = (torch.as_tensor(np.ascontiguousarray(column)) for column in columns)
        self._lengths = getattr(self, "_lengths", {})
        self._lengths.update(zip(row.tolist(), length.tolist(), strict=True))
        self._batches.append((row.long(), strict.long(), position.long(), average, items))

    def _fill(self, rank: torch.Tensor, average: torch.Tensor, items: torch.Tensor) -> None:
        super()._fill(rank, average, items)
        one = torch.ones(len(rank), 1)
        lengths = torch.tensor([self._lengths[row] for row in self._finished.row.tolist()], dtype=torch.float)
        self.data_struct.set("rec.meanrank", torch.cat((average[:, None], lengths[:, None], one), dim=1))

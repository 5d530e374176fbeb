"""From candidate scores to ranks, to what RecBole's metric classes read, and to the rows of the result file.

A rank is strict: equal scores are ordered by candidate position. Since the target's position is uniform, ties are
neutral: a model that scores all alike has Hit@1 near 1/C. (RecBole's own `topk` leaves ties to the library, and
all-NaN scores give a plausible Hit@1.)
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from recbole.utils import EvaluatorType

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.candidates import CandidateSet
from recbole_llm.data.rows import ITEMS_FIELD, PHASE_FIELD, PHASES, ROW_FIELD
from recbole_llm.evaluation.row_collector import RowCollector


@dataclass(frozen=True)
class RankedRows:
    """Where the target of each evaluated row came. `rank` counts from 1 and ties are already broken. int64 [n] each."""

    phase: str
    row: np.ndarray
    rank: np.ndarray
    target_position: np.ndarray


def target_ranks(scores: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank the target among its candidates.

    Args:
        scores: [B, C] finite, higher is better.
        position: [B] column of the target.

    Returns:
        Ranks from 1 with equal scores ordered by column, int64 [B]; and ranks with equal scores sharing their mean, which AUC
        needs, float [B].
    """
    target = scores.gather(1, position[:, None])  # [B, 1]
    columns = torch.arange(scores.shape[1], device=scores.device)
    above, equal = scores > target, scores == target
    strict = 1 + above.sum(1) + (equal & (columns < position[:, None])).sum(1)
    return strict, 1 + above.sum(1) + (equal.sum(1) - 1) / 2


class CandidateCollector(RowCollector):
    """RecBole's collector for candidate scores: ranks with neutral ties, non-finite scores refused, every row kept.

    Baselines reach it through `eval_batch_collect`, models that score [B, C] directly call
    `collect_candidate_scores`. Rows may come in any order and several times (padded distributed batches); the last
    one counts. `rows()` gives the :class:`RankedRows` of the last finished evaluation.
    """

    def __init__(self, config):
        super().__init__(config)
        self.ranking = config["eval_type"] == EvaluatorType.RANKING

    @cached_property
    def _candidate_sets(self):
        return candidate_sets(self.config)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect a candidate loader's batch: scores [B, item_num], or [B*C] for value metrics."""
        if ITEMS_FIELD in interaction:  # one line per row
            items, row = interaction[ITEMS_FIELD], interaction[ROW_FIELD]
        else:  # C lines per row
            width = int(self.config["n_candidates"])
            items = interaction[self.config["ITEM_ID_FIELD"]].view(-1, width)  # [B, C]
            row = interaction[ROW_FIELD].view(-1, width)[:, 0]
        items = items.to(scores_tensor.device)
        scores = scores_tensor.gather(1, items) if self.ranking else scores_tensor.view(items.shape)
        phase = PHASES[int(interaction[PHASE_FIELD][0])]
        self.collect_candidate_scores(scores, row, phase, items)
        if not self.ranking:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)

    def collect_candidate_scores(self, scores, row_index, phase="test", items=None) -> None:
        """Collect scores of whole candidate rows.

        Args:
            scores: [B, C], in the order of the candidate set, higher is better.
            row_index: [B] row numbers in the candidate set of `phase`.
            phase: "valid" or "test".
            items: [B, C] internal item ids; needed for metrics over recommended items (coverage, popularity) only.

        Raises:
            ValueError: a score is NaN or infinite (rows are named), or scores do not have C columns.
        """
        chosen: CandidateSet = getattr(self._candidate_sets, phase)
        scores, row = scores.detach().float().cpu(), torch.as_tensor(row_index).long().cpu()
        if scores.shape != (len(row), chosen.n_candidates):
            raise ValueError(
                f"scores must be [{len(row)}, {chosen.n_candidates}] (rows, candidates), not {list(scores.shape)}"
            )
        self._begin(phase)
        self._refuse_non_finite(scores, row, chosen)
        position = torch.from_numpy(chosen.target_position[row.numpy()].astype(np.int64))
        strict, average = target_ranks(scores, position)
        self._batches.append((row, strict, position, average, self._recommended(scores, items)))

    def _refuse_non_finite(self, scores: torch.Tensor, row: torch.Tensor, chosen: CandidateSet) -> None:
        bad = torch.nonzero(~torch.isfinite(scores))
        if not len(bad):
            return
        self.reset()
        named = []
        for line, column in bad[:5].tolist():
            at = int(row[line])
            item, user = str(chosen.catalogue[chosen.candidates[at, column]]), str(chosen.user_ids[at])
            named.append(f"row {at} (user {user!r}, item {item!r}): {float(scores[line, column])}")
        n_rows = len(torch.unique(bad[:, 0]))
        raise ValueError(
            f"{len(bad)} non-finite candidate scores in {n_rows} {chosen.phase} rows: {'; '.join(named)}. The model "
            f"has diverged or divides by zero; lower learning_rate, or look at its predict()"
        )

    def _recommended(self, scores: torch.Tensor, items: torch.Tensor | None) -> torch.Tensor:
        """Internal ids of the top max(topk) candidates [B, K], where a metric asks for them."""
        if not (self.ranking and self.register.need("rec.items")):
            return torch.empty(len(scores), 0, dtype=torch.long)
        if items is None:
            raise ValueError(f"metrics {self.config['metrics']} look at the recommended items: pass items=")
        if max(self.topk) > scores.shape[1]:
            raise ValueError(
                f"metrics {self.config['metrics']} look at the recommended items, so max(topk) = {max(self.topk)} must "
                f"not exceed n_candidates = {scores.shape[1]}"
            )
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : max(self.topk)]
        return items.cpu().gather(1, order)

    def get_data_struct(self):
        """Close the evaluation: store its rows, hand RecBole's metrics their input, start afresh."""
        if self._batches:
            row, strict, position, average, items = (torch.cat(column) for column in zip(*self._batches, strict=True))
            last = np.unique(row.numpy()[::-1], return_index=True)[1]  # of each row, its last occurrence from the end
            keep = torch.from_numpy(len(row) - 1 - last)
            row, strict, position, average, items = (column[keep] for column in (row, strict, position, average, items))
            self._finished = RankedRows(self._phase, row.numpy(), strict.numpy(), position.numpy())
            if self.ranking:
                self._fill(strict, average, items)
        struct = super().get_data_struct()
        self.reset()
        return struct

    def _fill(self, rank: torch.Tensor, average: torch.Tensor, items: torch.Tensor) -> None:
        """Write ranks [n] as the tensors that RecBole's metrics read."""
        one = torch.ones(len(rank), 1)
        hits = rank[:, None] == torch.arange(1, max(self.topk) + 1)  # [n, K]; a rank beyond K hits nowhere
        self.data_struct.set("rec.topk", torch.cat((hits.int(), one.int()), dim=1))
        self.data_struct.set(
            "rec.meanrank", torch.cat((average[:, None], one * self.config["n_candidates"], one), dim=1)
        )
        if items.shape[1]:
            self.data_struct.set("rec.items", items)

"""Loaders and collector of `protocol: ctr`: RecBole's own loaders over the labelled rows, every row's score kept."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data import create_dataset
from recbole.data import utils as recbole_data
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.utils import ModelType

from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.data.click.splits import labelled_splits
from recbole_llm.data.rows import ROW_FIELD
from recbole_llm.evaluation.click_metrics import Platt, user_ranks
from recbole_llm.evaluation.row_collector import RowCollector
from recbole_llm.registry import is_plugin_model


@dataclass(frozen=True)
class ScoredRows:
    """Scores of one phase's labelled rows, in the order of the set; `row` says which: a sample leaves some out.

    `score` is a probability where `calibrated` or the model itself makes it one. int64 [n], float64 [n]
    """

    phase: str
    row: np.ndarray
    score: np.ndarray


class LabelledLoader(NegSampleEvalDataLoader):
    """RecBole's loader of labelled rows, which says what phase and rows its batches are."""

    def __init__(self, config, dataset, sampler=None, shuffle=False, phase="test"):
        self.phase = phase
        super().__init__(config, dataset, sampler, shuffle=False)

    def collate_fn(self, index):
        lines, *rest = super().collate_fn(index)
        lines.interaction[ROW_FIELD] = torch.as_tensor(np.asarray(index))
        lines.interaction["labelled_test"] = torch.full((len(lines),), self.phase == "test")
        return lines, *rest


def prepare_labelled(config, evaluation_loader):
    """(dataset, train, valid, test) of any model under `protocol: ctr`.

    Raises:
        FileNotFoundError, ValueError: as `labelled_rows` and `labelled_splits`.
    """
    if config["MODEL_TYPE"] in (ModelType.DECISIONTREE, ModelType.KNOWLEDGE, ModelType.TRADITIONAL):
        raise ValueError(f"{config['model']}: protocol ctr has no loaders for this type of model; choose another")
    labelled_rows(config)  # first: its errors are the clearer ones
    dataset = create_dataset(config)
    logging.getLogger().info(dataset)
    plugin = is_plugin_model(config["model"])
    splits = dataset.build() if plugin else labelled_splits(config, dataset)
    samplers = recbole_data.create_samplers(config, dataset, splits)
    train = recbole_data.get_dataloader(config, "train")(config, splits[0], samplers[0], shuffle=config["shuffle"])
    if plugin:
        loaders = [recbole_data.get_dataloader(config, phase) for phase in ("valid", "test")]
        valid, test = (loader(config, split, None) for loader, split in zip(loaders, splits[1:], strict=True))
    else:
        valid, test = (evaluation_loader(config, splits[i], None, phase=phase) for i, phase in ((1, "valid"), (2, "test")))
    return dataset, train, valid, test


class LabelledCollector(RowCollector):
    """Keeps the score of every labelled row (`rows()`: :class:`ScoredRows`) and hands RecBole's value metrics scores and labels in row order.

    Attributes:
        calibration: a function from scores to probabilities, or None; see `click_metrics.Platt`.
    """

    def __init__(self, config):
        super().__init__(config)
        self.calibration: Platt | None = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect a batch of `LabelledLoader`: scores [B]."""
        phase = "test" if bool(interaction["labelled_test"][0]) else "valid"
        self.collect_scores(scores_tensor, interaction[ROW_FIELD], phase)

    def collect_candidate_scores(self, scores, row_index, phase="test", items=None) -> None:
        """Collect scores [B, C] of prompts that ask about C rows each, `row_index` [B, C]; row -1 is padding."""
        self.collect_scores(scores.reshape(-1), row_index.reshape(-1), phase)

    def collect_scores(self, scores, row, phase) -> None:
        """Collect scores [n] of rows [n] of a phase.

        Raises:
            ValueError: a score is not finite; names the rows.
        """
        self._begin(phase)
        scores, row = scores.detach().double().cpu(), row.cpu()
        scores, row = scores[row >= 0], row[row >= 0]
        bad = torch.nonzero(~torch.isfinite(scores)).flatten()
        if len(bad):
            users, items, _ = labelled_rows(self.config).columns(phase)
            named = [f"row {i} (user {str(users[i])!r}, item {str(items[i])!r})" for i in row[bad[:5]].tolist()]
            self.reset()
            raise ValueError(
                f"{len(bad)} non-finite scores of {phase} rows: {', '.join(named)}. The model has diverged or divides "
                f"by zero; lower learning_rate, or look at its predict()"
            )
        self._batches.append((row, scores))

    def get_data_struct(self):
        """Close the evaluation: store its rows, hand the metrics their input, start afresh."""
        if self._batches:
            row, scores = (torch.cat(column).numpy() for column in zip(*self._batches, strict=True))
            row, first = np.unique(row, return_index=True)  # padded batches of several processes repeat rows
            scores = scores[first]
            if self.calibration is not None:
                scores = self.calibration(scores)
            self._finished = ScoredRows(self._phase, row, scores)
            users, _, labels = (column[row] for column in labelled_rows(self.config).columns(self._phase))
            if labels.min() == labels.max():
                raise ValueError(
                    f"all {len(labels)} {self._phase} rows that were scored are labelled {labels[0]}, so AUC is "
                    f"undefined; set valid_sample_size: null or larger"
                )
            self.data_struct.set("rec.score", torch.from_numpy(scores))
            self.data_struct.set("data.label", torch.from_numpy(labels.astype(np.float64)))
            if (ranks := user_ranks(users, scores, labels)) is not None:
                self.data_struct.set("rec.meanrank", ranks)
        struct = super().get_data_struct()
        self.reset()
        return struct


def calibrate(trainer, valid, config, load_best_model: bool) -> str | None:
    """Fit Platt scaling on the validation rows for a model whose scores are no probabilities.

    The trainer's later evaluations then give probabilities.

    Returns:
        "platt"; or None, and nothing is done, where the scores are probabilities already, or with `calibration: none` (AUC
        and GAUC alone are then reported).
    """
    if trainer.evaluator.probabilities or config["calibration"] == "none":
        return None
    trainer.evaluate(valid, load_best_model=load_best_model, show_progress=config["show_progress"])
    scored = trainer.eval_collector.rows()
    labels = labelled_rows(config).columns("valid")[2][scored.row]
    trainer.eval_collector.calibration = Platt(scored.score, labels)
    trainer.evaluator.probabilities = True
    return Platt.name

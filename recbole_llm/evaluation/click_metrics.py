"""Metrics of labelled rows: RecBole's AUC, LogLoss and GAUC, ACC as a metric of RecBole's registry, and Platt scaling.

A score that is no probability (SASRec's dot product) has an AUC and no LogLoss: its raw value, 8.35 on ml-100k, says
nothing. Platt scaling (Platt 1999) fits P(y=1) = sigmoid(a s + b) on the validation rows; such results are marked
`calibrated: platt`.
"""

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.base_metric import LossMetric
from recbole.evaluator.metrics import GAUC
from scipy.stats import rankdata

NEED_PROBABILITIES = ("logloss", "acc", "mae", "rmse")


class ACC(LossMetric):
    r"""Share of rows whose label is the likelier one: :math:`\frac1n\sum [\hat p \ge 0.5] = y`."""

    def calculate_metric(self, dataobject):
        return self.output_metric("acc", dataobject)

    def metric_info(self, preds, trues):
        return float(((preds >= 0.5) == (trues >= 0.5)).mean())


class ClickEvaluator(Evaluator):
    """RecBole's evaluator plus GAUC; without probabilities only the metrics that need none.

    Attributes:
        probabilities: whether scores are probabilities, as given or after calibration.
    """

    def __init__(self, config, probabilities: bool):
        super().__init__(config)
        self.gauc = GAUC(config)
        self.probabilities = probabilities

    def evaluate(self, dataobject):
        metrics = self.metrics
        if not self.probabilities:
            self.metrics = [metric for metric in metrics if metric not in NEED_PROBABILITIES]
        try:
            result = super().evaluate(dataobject)
        finally:
            self.metrics = metrics
        if "rec.meanrank" in dataobject:
            result.update(self.gauc.calculate_metric(dataobject))
        return result


def user_ranks(users: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> torch.Tensor | None:
    """What RecBole's GAUC reads: per user the liked rows' summed descending mean rank, the rows, the liked rows. [U, 3]

    Users with rows of one class are left out: their AUC is undefined. float64; None where no user is left
    """
    found = []
    order = np.argsort(users, kind="stable")
    bounds = np.flatnonzero(np.r_[True, users[order][1:] != users[order][:-1], True])
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        mine = order[start:end]
        liked = labels[mine] > 0.5
        if 0 < liked.sum() < len(mine):
            found.append((rankdata(-scores[mine])[liked].sum(), len(mine), liked.sum()))
    if not found:
        return None
    return torch.tensor(np.array(found, dtype=np.float64))


class Platt:
    """P(y=1 | s) = sigmoid(a s + b), fitted without a penalty on standardised scores.

    Raises:
        ValueError: the labels are of one class, or a score is not finite.
    """

    name = "platt"

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        from sklearn.linear_model import LogisticRegression

        scores = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(
                "calibration: a validation score is not finite; the model has diverged, lower learning_rate"
            )
        if len(np.unique(labels)) < 2:
            raise ValueError("calibration: all validation rows have one label; change threshold or eval_args.split")
        self.mean, self.scale = scores.mean(), scores.std() or 1.0
        fitted = LogisticRegression(C=np.inf, max_iter=1000).fit(
            self._standard(scores)[:, None], np.asarray(labels) > 0.5
        )
        self.slope, self.intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])

    def _standard(self, scores):
        return (np.asarray(scores, dtype=np.float64) - self.mean) / self.scale

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities, in (0, 1). float64, the shape of `scores`"""
        return 1 / (1 + np.exp(-np.clip(self.slope * self._standard(scores) + self.intercept, -500, 500)))

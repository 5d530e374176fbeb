"""`protocol: candidates`: rank the target among the frozen candidate set of its row (LLaRA, iLoRA).

RecBole chooses split, metrics and sampling by the kind of model: general models get a random split and the full catalogue. Here all
get leave-one-out by time and the same candidates.
"""

from __future__ import annotations

import numpy as np
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType, get_model

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.fingerprint import ROWS
from recbole_llm.data.model_kinds import scores_catalogue, training_negatives
from recbole_llm.evaluation import bias_checks
from recbole_llm.evaluation.candidate_collector import CandidateCollector
from recbole_llm.evaluation.candidate_loaders import CandidateEvalDataLoader, CandidateSequenceDataLoader
from recbole_llm.evaluation.preparation import prepare_ranked
from recbole_llm.protocols.base import Protocol

HISTORY = 10  # items that a sequential model reads, as in LLaRA and iLoRA


class Ranking(Protocol):
    """What `candidates` and `full` share: leave-one-out by time, ranking metrics, no labels from ratings."""

    columns = ("user_id", "item_id", "rank", "target_position")
    topk = (1, 3, 5, 10)

    def mode(self, final: dict) -> str | None:
        """RecBole's `eval_args.mode`; None where `n_candidates` is no number."""
        raise NotImplementedError

    def complete(self, final, given, model_class, chosen=()):
        default = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
        final["eval_args"] = {"mode": self.mode(final), **default, **(given.get("eval_args") or {})}
        defaults = {
            "metrics": ["Hit", "NDCG", "MRR"],
            "topk": list(self.topk),
            "valid_metric": "NDCG@10",
            "MAX_ITEM_LIST_LENGTH": max(HISTORY, final.get("history_max_len") or 0),
            "train_neg_sample_args": training_negatives(model_class, final),
        }
        final.update({key: value for key, value in defaults.items() if key not in given})
        if "threshold" not in chosen:  # a dataset's own is for protocol ctr
            final["threshold"] = None

    def problems(self, final, given, model_class=None):
        problems = _history_problems(final, given, model_class)
        eval_args = given.get("eval_args") or {}
        mode = eval_args.get("mode") if isinstance(eval_args, dict) else None
        modes = set(mode.values()) if isinstance(mode, dict) else {mode} - {None}
        if self.mode(final) and modes - {self.mode(final)}:
            problems.append(f"eval_args: mode {mode!r} contradicts protocol {self.name!r}, which ranks {self.ranked(final)}; leave mode out")
        metrics = given.get("metrics") or []
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if metric_types.get(str(metric).lower()) == EvaluatorType.VALUE:
                problems.append(f"metrics: {metric} needs labelled rows, protocol {self.name!r} ranks; use Hit, NDCG or MRR")
        return problems

    def ranked(self, final: dict) -> str:
        """What a row ranks, in an error's words."""
        raise NotImplementedError

    def prepare(self, config):
        if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
            raise ValueError(f"{config['model']}: decision trees do not rank candidates; choose another model or protocol")
        return prepare_ranked(config, self.evaluation_loader)

    def n_test_rows(self, config):
        return len(candidate_sets(config).rows.test[0])

    def tested_rows(self, config, collector):
        found, test = collector.rows(), candidate_sets(config).test
        columns = (test.user_ids, test.item_ids, found.rank, found.target_position)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def checks(self, config, rows):
        rank, position = (np.array([row[column] for row in rows]) for column in (2, 3))
        return bias_checks.row_checks(candidate_sets(config), rank, position if self.among_candidates else None)


class Candidates(Ranking):
    """The target and `n_candidates` - 1 items that the user never met, in a drawn order."""

    name = "candidates"
    metrics, main_metric = ("hit@1", "hit@5", "ndcg@5", "ndcg@10", "mrr@10"), "hit@1"
    among_candidates = True

    def mode(self, final):
        count = final.get("n_candidates")
        return f"uni{count - 1}" if isinstance(count, int) else None

    def ranked(self, final):
        return f"n_candidates={final.get('n_candidates')} items"

    def before_run(self, config):
        candidate_sets(config)

    def evaluation_loader(self, config):
        """By sequence where the model scores a whole catalogue at once, else pair by pair."""
        whole_catalogue = scores_catalogue(get_model(config["model"]))
        sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        ranks = config["eval_type"] == EvaluatorType.RANKING
        return CandidateSequenceDataLoader if sequential and whole_catalogue and ranks else CandidateEvalDataLoader

    def judge(self, trainer, config, dataset):
        trainer.eval_collector = CandidateCollector(config)

    def measured_on(self, config):
        return {"count": config["n_candidates"], "sha256": candidate_sets(config).test.sha256, "rows": ROWS}


def _history_problems(final, given, model_class):
    """A prompt shows what the dataset's rows hold: no more than MAX_ITEM_LIST_LENGTH, where that is set."""
    shown, held = final.get("history_max_len"), final.get("crm_history_len") or given.get("MAX_ITEM_LIST_LENGTH")
    head = getattr(model_class, "head", None)  # RecBole's models have none
    if head is None or head.pointwise or type(shown) is not int or type(held) is not int or shown <= held:
        return []
    key = "crm_history_len" if final.get("crm_history_len") else "MAX_ITEM_LIST_LENGTH"
    return [f"history_max_len: {shown} items cannot be shown, rows hold {key}={held}; raise {key} or lower it"]

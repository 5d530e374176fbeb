"""`protocol: ctr`: the click probability of labelled rows, split by global time (RecLoRA).

RecBole gives context models labelled rows in random order, DIN sampled negatives, and sequential models none of the two. Here all
get the labelled rows of :mod:`recbole_llm.data.click.rows`. GAUC is reported wherever a user has rows of both labels: RecBole calls
it a ranking metric, and those cannot be named beside AUC.
"""

from __future__ import annotations

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType, get_model

from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.data.fingerprint import ROWS
from recbole_llm.data.interactions import columns_of, interaction_files
from recbole_llm.data.model_kinds import gives_probabilities, reads_labels, training_negatives
from recbole_llm.evaluation.click_metrics import NEED_PROBABILITIES, ClickEvaluator
from recbole_llm.evaluation.labelled_rows import LabelledCollector, LabelledLoader, calibrate, prepare_labelled
from recbole_llm.protocols.base import Protocol

HISTORY = 60  # RecLoRA, section 5.1: the CRM reads 60 interactions; baselines read as many


class Clicks(Protocol):
    """AUC, LogLoss, ACC and GAUC of labelled rows."""

    name = "ctr"
    labelled = True
    columns = ("user_id", "item_id", "label", "score")
    metrics, main_metric = ("auc", "gauc", "logloss", "acc"), "auc"

    def complete(self, final, given, model_class, chosen=()):
        asked = dict(given.get("eval_args") or {})
        leave_one_out = "LS" in (asked.get("split") or {})
        default = {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "user" if leave_one_out else "none"}
        final["eval_args"] = default | asked | {"mode": "labeled"}
        labelled = final["LABEL_FIELD"] in ((final.get("load_col") or {}).get("inter") or ())
        defaults = {
            "metrics": ["AUC", "LogLoss", "ACC"],
            "valid_metric": "AUC",
            "threshold": None if labelled else {final["RATING_FIELD"]: 4},
            "train_neg_sample_args": None if reads_labels(model_class) else training_negatives(model_class, final),
            "MAX_ITEM_LIST_LENGTH": HISTORY,
        }
        if model_class.type == ModelType.SEQUENTIAL:
            defaults["repeatable"] = True
        final.update({key: value for key, value in defaults.items() if key not in given})
        metrics = final["metrics"] if isinstance(final["metrics"], list) else [final["metrics"]]
        final["metrics"] = [metric for metric in metrics if str(metric).lower() != "gauc"] or ["AUC"]
        _load_what_is_needed(final)

    def problems(self, final, given, model_class=None):
        problems = []
        metrics = given.get("metrics") or []
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if str(metric).lower() != "gauc" and metric_types.get(str(metric).lower()) == EvaluatorType.RANKING:
                problems.append(
                    f"metrics: {metric} ranks, protocol 'ctr' has labelled rows; use AUC, LogLoss, ACC (GAUC comes along)"
                )
        eval_args = given.get("eval_args") or {}
        mode = eval_args.get("mode") if isinstance(eval_args, dict) else None
        if mode not in (None, "labeled") and set(mode.values() if isinstance(mode, dict) else [mode]) != {"labeled"}:
            problems.append(f"eval_args: mode {mode!r} contradicts protocol 'ctr', whose rows are labelled; leave mode out")
        if isinstance(eval_args, dict) and eval_args.get("order") not in (None, "TO"):
            problems.append(f"eval_args: order {eval_args['order']!r}: rows of protocol 'ctr' are in order of time (TO)")
        wanted = str(given.get("valid_metric") or "").lower()
        if model_class is not None and wanted in NEED_PROBABILITIES and not gives_probabilities(model_class):
            problems.append(
                f"valid_metric: {given['valid_metric']} needs probabilities, which {model_class.__name__} gives only after "
                "training, by calibration; use AUC"
            )
        head = getattr(model_class, "head", None)  # RecBole's models have none
        if head and not head.pointwise:
            problems.append(
                f"protocol: {model_class.__name__} ranks candidates and gives no click probability; use RecLoRA, TALLRec or CoLLM"
            )
        return problems

    def prepare(self, config):
        _check_threshold(config)
        return prepare_labelled(config, self.evaluation_loader(config))

    def evaluation_loader(self, config):
        return LabelledLoader

    def judge(self, trainer, config, dataset):
        trainer.eval_collector = LabelledCollector(config)
        trainer.evaluator = ClickEvaluator(config, gives_probabilities(get_model(config["model"])))

    def before_test(self, trainer, valid, config, load_best_model):
        calibrate(trainer, valid, config, load_best_model)

    def measured_on(self, config):
        return {"count": None, "sha256": labelled_rows(config).sha256, "rows": ROWS}

    def n_test_rows(self, config):
        return labelled_rows(config).n_test

    def tested_rows(self, config, collector):
        found = collector.rows()
        users, items, labels = (column[found.row] for column in labelled_rows(config).columns("test"))
        return list(zip(users.tolist(), items.tolist(), labels.tolist(), found.score.tolist(), strict=True))

    def phase_counts(self, config, dataset):
        counts = {phase: len(rows) for phase, rows in labelled_rows(config).numbers.items()}
        return counts | {"test": self.n_test_rows(config)}

    def ranks(self, count):
        return "labelled rows"


def _check_threshold(config):
    """Refuse to make labels of ratings that the file lacks, where it holds labels.

    Raises:
        ValueError: names the file, both columns and the remedy.
    """
    source, label, file = next(iter(config["threshold"] or ()), None), config["LABEL_FIELD"], interaction_files(config)[0]
    present = columns_of(file, config)
    if source is not None and source not in present and label in present:
        raise ValueError(f"threshold: {config['threshold']} makes labels of {source!r}, which {file} lacks; it holds labels, {label!r}: name it in "
                         f"load_col: {{inter: [..., {label}]}}, or set threshold: null")  # fmt: skip


def _load_what_is_needed(final):
    """Load the columns that rows and labels come from; keep the time and the rating itself away from the models."""
    load = final.get("load_col")
    if load is None:
        return
    source = next(iter(final["threshold"])) if final.get("threshold") else final["LABEL_FIELD"]
    needed = (final["USER_ID_FIELD"], final["ITEM_ID_FIELD"], source, final["TIME_FIELD"])
    inter = list(load.get("inter") or ())
    final["load_col"] = {**load, "inter": inter + [name for name in needed if name not in inter]}
    hidden = [final["TIME_FIELD"]]
    if final["RATING_FIELD"] in inter and final["RATING_FIELD"] != source:
        hidden.append(final["RATING_FIELD"])
    unused = dict(final.get("unused_col") or {})
    final["unused_col"] = {**unused, "inter": [*dict.fromkeys([*(unused.get("inter") or ()), *hidden])]}
    if source != final["LABEL_FIELD"]:  # RecBole drops it when it makes the labels
        final["unused_col"]["inter"] = [name for name in final["unused_col"]["inter"] if name != source]

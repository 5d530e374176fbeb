"""What a protocol fixes in every model's configuration, so that a leaderboard's rows differ in nothing but the model.

RecBole chooses split, metrics and sampling by the kind of model: general models get a random split and the full
catalogue, DIN and DeepFM get AUC on labelled rows. A protocol replaces those choices; what the user or the plugin's own
properties set is kept.
"""

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_llm.click_metrics import register_metrics
from recbole_llm.ctr_protocol import apply_ctr, ctr_problems

HISTORY = 10  # items that a sequential model reads, as in LLaRA and iLoRA
WHOLE_CATALOGUE = ("RepeatNet",)  # pointwise by RecBole's input_type, yet its loss reads no labels
UNIFORM = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}


register_metrics()


def apply_protocol(final, given, model_class, chosen=()):
    """Set in `final` what its protocol asks for; no protocol leaves it as RecBole has it.

    final: the merged configuration, changed in place; given: the keys set by the plugin's properties and the user;
    chosen: those that the user set, which `recipe: released` leaves alone.
    """
    if final.get("recipe") == "released" and hasattr(model_class, "released_settings"):
        final.update({key: value for key, value in model_class.released_settings(final).items() if key not in chosen})
    if final.get("protocol") == "candidates":
        _candidates(final, given, model_class, chosen)
    elif final.get("protocol") == "full":
        _candidates(final, given, model_class, chosen)
        final["eval_args"] = final["eval_args"] | {"mode": "full"}
        if "topk" not in given:
            final["topk"] = [1, 5, 10, 20]
    elif final.get("protocol") == "ctr":
        apply_ctr(final, given, model_class, training_negatives)
    if final.get("crm_history_len"):  # the dataset's rows are as long as what the CRM reads
        final["MAX_ITEM_LIST_LENGTH"] = final["crm_history_len"]


def protocol_problems(final, given, model_class=None):
    """Lines for settings that contradict the protocol; read before `apply_protocol`."""
    if final.get("protocol") == "ctr":
        return ctr_problems(final, given, model_class)
    if final.get("protocol") not in ("candidates", "full"):
        return []
    problems = _history_problems(final, given, model_class)
    eval_args = given.get("eval_args") or {}
    mode = eval_args.get("mode") if isinstance(eval_args, dict) else None
    expected = f"uni{final['n_candidates'] - 1}" if isinstance(final.get("n_candidates"), int) else None
    modes = set(mode.values()) if isinstance(mode, dict) else {mode} - {None}
    protocol = final["protocol"]
    if protocol == "full":
        expected, ranked = "full", "the whole catalogue"
        if final.get("llm_eval") == "generate":
            problems.append("llm_eval: 'generate' names one of n_candidates; with protocol 'full' use likelihood")
        if final.get("selection") == "generation":
            problems.append("selection: 'generation' names one of n_candidates; with protocol 'full' use valid_metric")
    else:
        ranked = f"n_candidates={final.get('n_candidates')} items"
    if expected and modes - {expected}:
        problems.append(
            f"eval_args: mode {mode!r} contradicts protocol {protocol!r}, which ranks {ranked}; leave mode out"
        )
    metrics = given.get("metrics") or []
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if metric_types.get(str(metric).lower()) == EvaluatorType.VALUE:
            problems.append(f"metrics: {metric} needs labelled rows, protocol {protocol!r} ranks; use Hit, NDCG or MRR")
    return problems


def _history_problems(final, given, model_class):
    """A prompt shows what the dataset's rows hold: no more than MAX_ITEM_LIST_LENGTH, where that is set."""
    shown, held = final.get("history_max_len"), final.get("crm_history_len") or given.get("MAX_ITEM_LIST_LENGTH")
    if getattr(model_class, "scoring", None) != "title" or type(shown) is not int or type(held) is not int or shown <= held:
        return []
    key = "crm_history_len" if final.get("crm_history_len") else "MAX_ITEM_LIST_LENGTH"
    return [f"history_max_len: {shown} items cannot be shown, rows hold {key}={held}; raise {key} or lower it"]


def _candidates(final, given, model_class, chosen):
    """Rank the target among C items: leave-one-out by time, ranking metrics, no labels from ratings.

    A dataset's own threshold is for protocol ctr; only the user's counts here.
    """
    default = {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": f"uni{final['n_candidates'] - 1}",
    }
    final["eval_args"] = default | (given.get("eval_args") or {})
    defaults = {
        "metrics": ["Hit", "NDCG", "MRR"],
        "topk": [1, 3, 5, 10],
        "valid_metric": "NDCG@10",
        "MAX_ITEM_LIST_LENGTH": max(HISTORY, final.get("history_max_len") or 0),
        "train_neg_sample_args": training_negatives(model_class, final),
    }
    final.update({key: value for key, value in defaults.items() if key not in given})
    if "threshold" not in chosen:
        final["threshold"] = None


def training_negatives(model_class, final):
    """`train_neg_sample_args` by what the model's loss reads: None for losses over the whole catalogue, else uniform.

    RecBole raises for a sequential model with loss_type CE and sampled negatives, although that is its own default.
    """
    if model_class.type != ModelType.SEQUENTIAL:
        return dict(UNIFORM)
    if not hasattr(model_class, "input_type"):
        return None if final.get("loss_type") == "CE" else dict(UNIFORM)
    return None if model_class.__name__ in WHOLE_CATALOGUE else dict(UNIFORM)

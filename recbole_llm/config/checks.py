"""What is wrong with a merged configuration: values that break a rule, and values that contradict each other.

All problems are found at once, before anything runs.
"""

from recbole.evaluator import metric_types

from recbole_llm.config.known_keys import hint
from recbole_llm.config.rules import RULES

PICKLES = ("save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path")


def value_problems(final, model_class=None):
    """Lines for the values of `final` that break a rule of `RULES` or contradict each other."""
    problems = []
    for key, (holds, text) in RULES.items():
        if key in final and not holds(final[key]):
            problems.append(f"{key}: {text}, got {final[key]!r}")
    own = model_class.check_config(final) if hasattr(model_class, "check_config") else []
    return problems + pickle_problems(final) + own


def pickle_problems(final):
    """Lines for RecBole's settings that write or read pickled datasets, which the plugin never opens."""
    return [
        f"{key}: pickled datasets are neither written nor read, since a pickle runs the code it names; remove the key"
        for key in PICKLES
        if final.get(key)
    ]


def metric_problems(final):
    """Lines for metrics that RecBole does not have and a valid_metric that would be missing after the first epoch."""
    metrics, topk = final.get("metrics") or [], final.get("topk")
    metrics = [metrics] if isinstance(metrics, str) else metrics
    problems = [
        f"metrics: {metric!r} is not a metric of RecBole{hint(str(metric).lower(), metric_types)}"
        for metric in metrics
        if str(metric).lower() not in metric_types
    ]
    name, _, k = str(final.get("valid_metric")).partition("@")
    cutoffs = [topk] if isinstance(topk, int) else list(topk or [])
    if name.lower() not in [str(metric).lower() for metric in metrics] or (k and k not in map(str, cutoffs)):
        problems.append(
            f"valid_metric: {final.get('valid_metric')!r} is not among metrics {metrics} at topk {cutoffs}; "
            "add it there or choose one of them"
        )
    return problems


def time_split_problems(eval_args):
    """Lines for a split by a boundary in time (`TS`) whose rows are in no order of time, or whose shares are not three."""
    split, order = eval_args.get("split"), eval_args.get("order")
    if not isinstance(split, dict) or "TS" not in split:
        return []
    problems, shares = [], split["TS"]
    if order != "TO":
        problems.append(f"eval_args: split TS with order {order!r}: RecBole would hand out shuffled rows by the times of others; set order: TO")
    numbers = isinstance(shares, list) and all(isinstance(share, (int, float)) and share >= 0 for share in shares)
    if not numbers or len(shares) != 3 or not shares[0] + shares[1] > 0:
        problems.append(f"eval_args: split TS is {shares!r} and must be the shares of training, validation and test rows, e.g. [0.8, 0.1, 0.1]")
    return problems


def list_problems(final):
    """Lines for shared candidate lists (`users_per_list`, `history_from`) that say nothing of the target or cannot be."""
    users, later = final.get("users_per_list"), final.get("history_from")
    if type(users) is not int or type(later) not in (int, float):  # not a plugin model's, or a line of `RULES` says so
        return []
    problems = []
    if type(final.get("n_candidates")) is int and users >= final["n_candidates"]:
        problems.append(f"users_per_list: must be below n_candidates={final['n_candidates']}, got {users}: a list of targets alone "
                        "has no other item in it")  # fmt: skip
    if later and not problems and not final.get("user_token"):
        problems.append("history_from: prompts without a history say nothing of the user without user_token: True; set it, or "
                        "history_from: 0")  # fmt: skip
    if later and not problems and final.get("curriculum") == "linear":
        problems.append("history_from: text-only prompts, with which curriculum: linear begins, say nothing of the user without a "
                        "history; set curriculum: none, or history_from: 0")  # fmt: skip
    return problems

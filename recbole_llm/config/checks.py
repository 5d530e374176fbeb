"""What is wrong with a merged configuration: values that break a rule, and values that contradict each other.

All problems are found at once, before anything runs.
"""

from math import inf
from numbers import Real

from recbole.evaluator import metric_types

from recbole_llm.config.known_keys import hint
from recbole_llm.config.rules import RULES
from recbole_llm.config.stages import stages_hold, starts

LEFT_OUT = ("valid_and_test", "valid_only", "test_only")  # what RecBole's LS knows
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


def split_problems(eval_args):
    """Lines for a split, an order or a grouping that RecBole does not know, and for shares that cannot be; what is left open is no problem."""
    order, problems = eval_args.get("order", "TO"), []
    if order not in ("RO", "TO"):
        problems.append(f"eval_args: order is {order!r} and must be 'TO', by time, or 'RO', at random")
    if "split" not in eval_args:
        return problems
    split, group = eval_args["split"], eval_args.get("group_by")
    if not isinstance(split, dict) or len(split) != 1 or not set(split) <= {"LS", "RS", "TS"}:
        one = "{LS: valid_and_test}, {RS: [0.8, 0.1, 0.1]} or {TS: [0.8, 0.1, 0.1]}"
        return [*problems, f"eval_args: split is {split!r} and must say one way to split: {one}"]
    ((kind, value),) = split.items()
    if kind == "LS" and value not in LEFT_OUT:
        problems.append(f"eval_args: split LS is {value!r} and must be one of {', '.join(map(repr, LEFT_OUT))}")
    if kind == "RS" and not (are_shares(value) and sum(value) > 0):
        problems.append(f"eval_args: split RS is {value!r} and must be the shares of training, validation and test rows, none below 0 and not all 0, "
                        "e.g. [0.8, 0.1, 0.1]")  # fmt: skip
    if kind == "RS" and group != "user" and str(group).lower() != "none":
        problems.append(f"eval_args: group_by is {group!r} and must be 'user', or null to split all rows at once")
    return problems + time_split_problems(eval_args)


def are_shares(value):
    """Whether it lists three numbers that rows can be divided by; RecBole divides them by their sum."""
    return isinstance(value, list) and len(value) == 3 and all(isinstance(share, Real) and 0 <= share < inf for share in value)


def time_split_problems(eval_args):
    """Lines for a split by a boundary in time (`TS`) whose rows are in no order of time, or whose shares are not three."""
    split, order = eval_args.get("split"), eval_args.get("order")
    if not isinstance(split, dict) or "TS" not in split:
        return []
    problems, shares = [], split["TS"]
    if order != "TO":
        problems.append(f"eval_args: split TS with order {order!r}: RecBole would hand out shuffled rows by the times of others; set order: TO")
    if not are_shares(shares) or not shares[0] + shares[1] > 0:
        problems.append(f"eval_args: split TS is {shares!r} and must be the shares of training, validation and test rows, e.g. [0.8, 0.1, 0.1]")
    return problems


def rows_kept_together(final) -> int:
    """How many rows one forward pass must hold for lists (`users_per_list`) to stay whole; 1 where that changes nothing.

    With experts what a list's rows share takes the mean of their gates. Lists are made within a batch.
    """
    sizes = [final.get("users_per_list"), final.get("train_batch_size")]
    alike = final.get("num_experts") in (None, 1) or final.get("gate_input") == "uniform"
    return 1 if alike or any(type(size) is not int for size in sizes) else min(sizes)


def list_problems(final):
    """Lines for shared candidate lists (`users_per_list`, `history_from`) that say nothing of the target or cannot be."""
    users, later = final.get("users_per_list"), final.get("history_from")
    if type(users) is not int or type(later) not in (int, float):  # not a plugin model's, or a line of `RULES` says so
        return []
    problems = []
    if type(final.get("n_candidates")) is int and users >= final["n_candidates"]:
        problems.append(f"users_per_list: must be below n_candidates={final['n_candidates']}, got {users}: a list of targets alone "
                        "has no other item in it")  # fmt: skip
    few, whole = final.get("history_batch_size"), rows_kept_together(final)
    if type(few) is int and few < whole and later < 1:
        problems.append(f"history_batch_size: must be at least {whole}, the rows of a list, with experts, got {few}: what they share takes "
                        "the mean of their gates, so that a list must stay in one pass; raise it, or lower users_per_list")  # fmt: skip
    if later and not problems and not final.get("user_token"):
        problems.append("history_from: prompts without a history say nothing of the user without user_token: True; set it, or "
                        "history_from: 0")  # fmt: skip
    if later and not problems:
        stages = final.get("stages")
        if stages_hold(stages):
            early = [str(stage["name"]) for stage, start in zip(stages, starts(stages), strict=True) if start < later and stage.get("prompts") == "text"]
            shown, remedy = early and f"the stage {early[0]}", "prompts: hybrid there"
        else:
            shown, remedy = final.get("curriculum") == "linear" and "curriculum: linear", "curriculum: none"
        if shown:
            problems.append(f"history_from: text-only prompts, with which {shown} begins, say nothing of the user without a history; "
                            f"set {remedy}, or history_from: 0")  # fmt: skip
    return problems

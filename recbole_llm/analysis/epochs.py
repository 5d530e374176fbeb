"""epochs: how fast do models learn? HR@1 and ValidRatio of the validation rows after each epoch (iLoRA, figure 4b)

    python -m recbole_llm.analysis epochs --dataset=lastfm-llara --recipe=paper [--model=LLaRA,iLoRA] [--epochs=5]

One training of each model and seed, validated by generation after every epoch and not stopped early; RecLoRA, which does not
generate, by AUC. What is generated is trained with `likelihood_over: vocabulary`, as in the papers, unless you set it. These
are the epochs of one schedule, whose rate falls to the last. Cost: models x seeds trainings, and an answer to every
validation row after each epoch.
"""

from __future__ import annotations

import numpy as np
from recbole.utils import get_model

from recbole_llm.analysis import figures
from recbole_llm.analysis.common import Case, Request
from recbole_llm.analysis.report import Report
from recbole_llm.results.result_file import read_result

MODELS = ["LLaRA", "iLoRA"]
OPTIONS: dict = {}
GENERATED, RANKED, CLICKS = ("hit@1_all", "hit@1_valid", "valid_ratio", "hit@1"), ("hit@1",), ("auc", "logloss")
TITLES = {"hit@1_all": "HR@1 of generated answers, invalid ones counted as misses", "hit@1_valid": "HR@1 over valid answers",
          "valid_ratio": "ValidRatio", "hit@1": "Hit@1 by likelihood", "auc": "AUC", "logloss": "LogLoss"}  # fmt: skip


def run(request: Request) -> Report:
    """The report: a figure for each metric, a curve for each model, means over seeds."""
    table, runs, protocol = [], [], ""
    for name in request.models:
        head = get_model(name).head
        own = {"eval_step": 1, **({"selection": "generation"} if head.writes else {})}
        if head.writes and not request.sets("likelihood_over"):
            own["likelihood_over"] = "vocabulary"  # the default LLM's `candidates` teaches no words to generate
        followed = GENERATED if head.writes else CLICKS if head.pointwise else RANKED
        epochs = request.config(Case(name, name, own), request.seeds[0])["epochs"]
        case = Case(f"{name}@every epoch", name, {**own, "stopping_step": epochs})
        records = []
        for seed in request.seeds:
            path = request.result(case, seed)
            runs.append(path.name)
            records.append(read_result(path))
        protocol = records[0]["protocol"]
        table += [{"model": name, "epoch": epoch + 1, **_means([record["validations"][epoch] for record in records], followed)}
                  for epoch in range(min(len(record["validations"]) for record in records))]  # fmt: skip
    drawn = []
    for metric in (*GENERATED, *CLICKS):
        series: dict[str, list[tuple]] = {}
        for row in table:
            if row.get(metric) is not None:
                series.setdefault(row["model"], []).append((row["epoch"], row[metric], None, None))
        if series:
            drawn.append(figures.curves(TITLES[metric], f"Validation rows, mean over {len(request.seeds)} seed(s).", series, ("epoch", metric)))
    last = {row["model"]: row for row in table}
    head = [f"{name} after epoch {row['epoch']}: " + ", ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float)) + "."
            for name, row in last.items()]  # fmt: skip
    return Report("epochs", request.dataset, protocol, request.models, head, table, drawn, runs)


def _means(validations: list[dict], names: tuple[str, ...]) -> dict:
    """Means over seeds of one epoch's metrics; None where a seed lacks one (no valid answer has no HR@1 over valid answers)."""
    return {name: float(np.mean([v[name] for v in validations])) if all(name in v for v in validations) else None for name in names}

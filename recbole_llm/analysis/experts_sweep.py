"""experts-sweep: how many experts? (iLoRA, figure 4a)

    python -m recbole_llm.analysis experts-sweep --dataset=lastfm-llara --recipe=paper --seeds=3 [--model=iLoRA] [--values=1,2,4,8]

Trains the model for each number of experts and seed; iLoRA's must divide `lora_r`. Cost: values x seeds trainings.
"""

from __future__ import annotations

from recbole_llm.analysis.common import Case, Request, as_values
from recbole_llm.analysis.report import Report
from recbole_llm.analysis.sweep import swept

MODELS = ["iLoRA"]
OPTIONS = {"values": (1, 2, 4, 8)}


def run(request: Request, values) -> Report:
    """The report: one curve for each model."""
    cases = [Case(f"{model}@K={k}", model, {"num_experts": k}, k) for model in request.models for k in as_values(values, "values")]
    return swept("experts-sweep", request, cases, "experts", log=True)

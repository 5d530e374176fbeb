"""gate: what should the gate read? (iLoRA, figure 5)

    python -m recbole_llm.analysis gate --dataset=lastfm-llara --recipe=paper --seeds=3

The sequence representation (the paper's), the mean of the items' or of the prompt's token embeddings, a random vector of each
history through a learnt gate, and gates that are not learnt: random weights of each history, uniform ones, which are plain LoRA of
the same rank. Cost: 6 x seeds trainings.
"""

from __future__ import annotations

from recbole_llm.analysis.common import Case, Request
from recbole_llm.analysis.report import Report
from recbole_llm.analysis.sweep import beside
from recbole_llm.config.rules import GATE_INPUTS

MODELS = ["iLoRA"]
OPTIONS: dict = {}


def run(request: Request) -> Report:
    """The report of one model; the sequence representation is what the others are compared with."""
    cases = [Case(f"{model}@{name}", model, {"gate_input": name}) for model in request.models for name in GATE_INPUTS]
    return beside("gate", request, cases)

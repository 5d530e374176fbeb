"""components: a model without each of its parts (RecLoRA, its ablation table; LLaRA's and iLoRA's parts likewise)

    python -m recbole_llm.analysis components --dataset=ml-1m --model=RecLoRA --recipe=paper --seeds=3

Each part falls away by settings (`PARTS`); differences from the whole model are paired over users and seeds. Cost: for each model,
(parts + 1) x seeds trainings.
"""

from __future__ import annotations

from recbole_llm.analysis.common import Case, Request
from recbole_llm.analysis.report import Report
from recbole_llm.analysis.sweep import beside
from recbole_llm.config.values import ConfigError

MODELS = ["RecLoRA"]
OPTIONS: dict = {}
# {model: {part: settings that take it away}}; LSMR is the Long-Short Modality Retriever: without it, the recommender reads what the prompt shows
PARTS = {
    "RecLoRA": {
        "personalised LoRA": {"lora_mixing": "none"},
        "LSMR": {"crm_history_len": "text_history_len"},
        "Few2Many": {"crm_rows": "sample"},
    },
    "iLoRA": {"gate": {"gate_input": "uniform"}, "behaviour tokens": {"behaviour_tokens": "none"}, "tuning": {"epochs": 0}},
    "LLaRA": {"curriculum": {"curriculum": "none"}, "behaviour tokens": {"behaviour_tokens": "none"}, "tuning": {"epochs": 0}},
}


def run(request: Request) -> Report:
    """The report of one model."""
    if len(request.models) != 1 or request.models[0] not in PARTS:
        raise ConfigError([f"components: looks at one model, of {', '.join(PARTS)}; give --model=RecLoRA"])
    (model,) = request.models
    whole = Case(model, model)
    config = request.config(whole, request.seeds[0])
    cases, absent = [whole], []
    for part, settings in PARTS[model].items():
        own = {key: config[value] if isinstance(value, str) and value.endswith("_len") else value for key, value in settings.items()}
        if all(config[key] == value for key, value in own.items()):
            absent.append(f"{model} has no {part} with these settings ({', '.join(f'{key}: {value}' for key, value in own.items())}).")
        else:
            cases.append(Case(f"{model}@without {part}", model, own))
    if len(cases) == 1:
        raise ConfigError([f"components: {' '.join(absent)} There is nothing to take away"])
    report = beside("components", request, cases)
    report.head += absent
    return report

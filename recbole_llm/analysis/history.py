"""history: what is a longer history worth, and what does it cost? (RecLoRA, its figure of history length)

    python -m recbole_llm.analysis history --dataset=ml-1m --model=RecLoRA --recipe=paper --values=5,10,20,30,60 [--key=text_history_len]

Trains each model for each length of the history: what the prompt shows (`text_history_len` of RecLoRA, `history_max_len` of the
others), or with `--key=crm_history_len` what the recommender reads. Two figures: the main metric, and seconds for each test row on
this device. Cost: models x values x seeds trainings, the longer the history the longer.
"""

from __future__ import annotations

from recbole.utils import get_model

from recbole_llm.analysis import figures
from recbole_llm.analysis.common import Case, Outcome, Request, as_values
from recbole_llm.analysis.report import Report
from recbole_llm.analysis.sweep import by_model, swept
from recbole_llm.config.values import ConfigError

MODELS = ["RecLoRA"]
OPTIONS = {"values": (5, 10, 20), "key": None}
KEYS = ("text_history_len", "history_max_len", "crm_history_len")


def run(request: Request, values, key: str | None) -> Report:
    """The report: a curve for each model over the length, and one of seconds per row."""
    if key not in (None, *KEYS):
        raise ConfigError([f"key: {key!r} is no length of a history; choose {', '.join(KEYS)}, or leave it out"])
    cases = []
    for model in request.models:
        own = key or get_model(model).head.history_key
        cases += [Case(f"{model}@{own}={n}", model, {own: n}, n) for n in as_values(values, "values")]
    return swept("history", request, cases, "items of the history", extra=_seconds)


def _seconds(outcome: Outcome) -> list[dict]:
    series = by_model(outcome, "seconds_per_row", interval=False)
    note = "Wall time of the test, what was generated included, over its rows."
    return [figures.curves("Seconds per row", note, series, ("items of the history", "seconds per test row"))]

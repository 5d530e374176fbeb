"""What the analyses that train a model again and again make of it: curves along an axis, or rows beside a reference."""

from __future__ import annotations

from recbole_llm.analysis import figures
from recbole_llm.analysis.common import Case, Outcome, Request, run_all
from recbole_llm.analysis.report import Report


def swept(name: str, request: Request, cases: list[Case], axis: str, log: bool = False, lines=None, extra=None) -> Report:
    """A curve of the protocol's main metric against the cases' ``x`` for each model.

    Args:
        name: the analysis's.
        request: what the command line asks for.
        cases: a model at a place on the axis each.
        axis: the axis's name.
        log: whether it is logarithmic.
        lines: a function (outcome) -> {name: value} of dashed lines.
        extra: a function (outcome) -> further figures.
    """
    outcome = run_all(request, sorted(cases, key=lambda case: (request.models.index(case.model), case.x)))
    series = by_model(outcome, outcome.metric)
    dashed = lines(outcome) if lines else {}
    drawn = [figures.curves(f"{outcome.metric} against {axis}", _note(outcome), series, (axis, f"{outcome.metric} (test)"), log, dashed)]
    drawn += extra(outcome) if extra else []
    head = [f"{row['label']}: {outcome.metric} {row[outcome.metric]:.4f} [{row['low']:.4f}, {row['high']:.4f}]" for row in outcome.rows]
    head = ["; ".join(head) + "."] + [f"{line}, alone: {outcome.metric} {value:.4f}." for line, value in dashed.items()]
    return Report(name, request.dataset, outcome.protocol, request.models, head, outcome.rows, drawn, _names(outcome),
                  {"axis": axis}, {"lines": dashed})  # fmt: skip


def beside(name: str, request: Request, cases: list[Case], reference: int = 0) -> Report:
    """The cases' intervals under each other, and each one's difference from the reference, paired over users and seeds."""
    outcome = run_all(request, cases, against=reference)
    metric, rows = outcome.metric, outcome.rows
    points = [(row["label"], row[metric], row["low"], row["high"]) for row in rows]
    drawn = [figures.intervals(metric, _note(outcome), {"": points}, f"{metric} (test)")]
    head = [f"{row['label']}: {row['difference']:+.4f} {metric} against {rows[reference]['label']} (p {row['p']:.3f})."
            for i, row in enumerate(rows) if i != reference]  # fmt: skip
    return Report(name, request.dataset, outcome.protocol, request.models, head, rows, drawn, _names(outcome))


def by_model(outcome: Outcome, column: str, interval: bool = True) -> dict[str, list[tuple]]:
    """{model: [(x, value, low, high)]} of the cases that have an ``x``."""
    series: dict[str, list[tuple]] = {}
    for row in outcome.rows:
        bounds = (row["low"], row["high"]) if interval else (None, None)
        series.setdefault(row["model"], []).append((row["x"], row[column], *bounds))
    return series


def _note(outcome: Outcome) -> str:
    seeds = outcome.rows[0]["seeds"]
    return f"Mean over {seeds} seed{'s' * (seeds > 1)}, 95% interval over the users of {outcome.rows[0]['n']:,} test rows."


def _names(outcome: Outcome) -> list[str]:
    return [path.name for path in outcome.files]

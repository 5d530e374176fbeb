"""Boards as one self-contained HTML page: no request leaves it, it sorts without a server, and it follows light and
dark.

plotly.js is put inline from the plotly package that RecBole requires; the templates escape all they show, since row names
and reasons of failure are anybody's.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from recbole_llm.leaderboard.render.markdown import amount, check_lines, headline, number, p_text
from recbole_llm.leaderboard.render.plots import figures

_FOLDER = Path(__file__).parent / "template"
# (key of the cell's number, heading, order of the first click, keys of the small line with their words)
_COST = (
    ("trainable_parameters", "trainable", "ascending", (("parameters", "of {}"),)),
    ("seconds_train", "train s", "ascending", (("seconds_crm", "CRM {}"), ("seconds_evaluate", "test {}"))),
    ("latency_p50_ms", "p50 ms", "ascending", (("latency_p95_ms", "p95 {}"),)),
    ("rows_per_second", "rows/s", "descending", ()),
    ("peak_memory_mb", "MB", "ascending", ()),
)


_COSTS_MEAN = {
    "trainable_parameters": "weights that training changes; below, all of them.",
    "seconds_train": "wall time of training; below, of the CRM's training and of the test.",
    "latency_p50_ms": "median time to rank one row at batch size 1; below, the 95th percentile.",
    "rows_per_second": "test rows ranked a second, in the run's batches.",
    "peak_memory_mb": "peak memory of the run: of the GPU, else of the process.",
}
_METRICS = {
    "hit": "share of rows whose target stands among the first k",
    "ndcg": "1 / log2(1 + rank of the target) among the first k, else 0",
    "mrr": "1 / rank of the target among the first k, else 0",
    "auc": "chance that a liked row scores above another",
    "gauc": "AUC within a user, over users with rows of both labels",
    "logloss": "mean negative log-likelihood of the labels; less is better",
    "acc": "share of labels told right at probability .5",
}


@lru_cache(maxsize=1)
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    made.filters |= {"p_text": p_text, "cost": _cost}
    return made


def _fill(name: str, **values) -> Markup:
    return Markup(_templates().get_template(name).render(**values))


def render_page(boards: list[dict]) -> str:
    """One page with every board."""
    names = list(dict.fromkeys(board["dataset"] for board in boards))
    drawn = [figures(board, number) for number, board in enumerate(boards)]
    body = Markup("\n").join(_board(board, plots) for board, plots in zip(boards, drawn, strict=True))
    return document(f"Leaderboard: {', '.join(names)}", body, [figure for found in drawn for figure in found])


def document(title: str, body: Markup, plots: list[dict]) -> str:
    """A page.

    Args:
        title: as text.
        body: as HTML, with a place for each figure (plots.html).
        plots: the figures that those places are for.
    """
    css, js = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return str(_fill("page.html", title=title, css=css, body=body, plotly=get_plotlyjs(), js=js, plots=_json(plots)))


def _json(value) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def report_page(title: str, head: list[str], names: list[str], rows: list[list[str]], plots: list[dict]) -> str:
    """A page of lines, figures and one table, in the leaderboards' style.

    Args:
        title: as text.
        head: paragraphs, as text.
        names: of the columns.
        rows: their cells, as text.
        plots: the figures.
    """
    return document(title, _fill("report.html", head=head, names=names, rows=rows, plots=_fill("plots.html", plots=plots)), plots)


def _board(board: dict, plots: list[dict]) -> Markup:
    main, digest = board["main"], (board["candidates"] or {}).get("sha256")
    head = headline(board).replace(f", sha256 `{str(digest)[:12]}`", "") if board["rows"] else "No run finished"
    cells = [row["metrics"][main] for row in board["rows"] if row["metrics"][main]["mean"] is not None]
    span = (min(cell["low"] for cell in cells), max(cell["high"] for cell in cells)) if cells else (0.0, 1.0)
    return _fill(
        "board.html",
        board=board,
        head=head,
        lead=_lead(board),
        legend=_legend(board),
        digest=digest,
        costs=_COST,
        tuned=any(row["tuning"] for row in board["rows"]),
        best={name: _best(board["rows"], name) for name in board["metrics"]},
        rows=[row | _shown(board, row) | {"bar": _bar(row["metrics"][main], span)} for row in board["rows"]],
        places=_fill("plots.html", plots=plots),
        checks=check_lines(board),
    )


def _lead(board: dict) -> dict | None:
    """Who stands first, by how much, and with whom it is tied."""
    if not board["rows"] or board["rows"][0]["metrics"][board["main"]]["mean"] is None:
        return None
    first, second = board["rows"][0], (board["rows"][1:2] or [None])[0]
    lead = {"name": first["name"], "cell": first["metrics"][board["main"]], "margin": None, "second": "", "p": None, "word": ""}
    if second and second["metrics"][board["main"]]["mean"] is not None:
        margin = lead["cell"]["mean"] - second["metrics"][board["main"]]["mean"]
        p = ((first["vs_next"] or {}).get(board["main"]) or {}).get("p_holm")
        lead |= {"margin": abs(margin), "second": second["name"], "word": "above" if margin >= 0 else "below", "p": p}
    return lead | {"tied": [row["name"] for row in board["rows"][1:] if row["rank"] == first["rank"]]}


def _legend(board: dict) -> list[tuple[str, str]]:
    """(heading, what the column holds)."""
    meant = [
        ("rank", f"1 + the number of rows that are better in {board['main']} at p < {board['alpha']}; rows of one rank are tied. Tests are "
                 "paired, on the same rows and the seeds that both have, with Holm's correction over all pairs of the table."),
        ("model", "LLM recommenders in blue; below, the number of seeds, and under full what retrieved."),
        *((name, _METRICS.get(name.partition("@")[0], "as RecBole defines it") + "; mean over seeds ± their deviation, 95% interval over users.")
          for name in board["metrics"]),
        (f"Δ {board['main']}", f"difference from {board['reference']}, with Holm's p."),
        ("p next", "Holm's p against the row below, in the order of the table as it was made."),
        ("W/T/L", "rows beaten, tied with and lost to."),
        *((title, _COSTS_MEAN[key]) for key, title, _, _ in _COST),
    ]  # fmt: skip
    return [*meant, ("trials", "settings tried in tuning.")] if any(row["tuning"] for row in board["rows"]) else meant


def _best(rows: list[dict], name: str) -> float | None:
    means = [row["metrics"][name]["mean"] for row in rows if row["metrics"][name]["mean"] is not None]
    return (min(means) if name == "logloss" else max(means)) if means else None


def _shown(board: dict, row: dict) -> dict:
    """What the template shows of a row that is not in it word for word."""
    main, found, cost = board["main"], row["retriever"], row["cost"]
    under = f"{len(row['seeds'])} seed{'s' * (len(row['seeds']) > 1)}"
    under += f", {found['model']} top {found['n']}: recall {found['recall']:.3f}" if found else ""
    under += f", calibrated ({row['calibrated']})" if row["calibrated"] else ""
    against = (row["vs_reference"] or {}).get(main) or {}
    difference, p = against.get("difference"), against.get("p_holm")
    better = difference is not None and difference * (-1 if main == "logloss" else 1) > 0
    return {
        "under": under,
        "difference": difference,
        "p": p,
        "kind": ("up" if better else "down") if p is not None and p < board["alpha"] else "",
        "shown": "reference" if row["vs_reference"] is None else "–" if difference is None else f"{difference:+.4f}",
        "p_next": ((row["vs_next"] or {}).get(main) or {}).get("p_holm"),
        "smaller": {
            key: [words.format(_cost(cost[other], other)) for other, words in more if cost.get(other)]
            for key, _, _, more in _COST
        },
        "trials": (row["tuning"] or {}).get("trials", 0),
        "about": _about(row),
    }


def _cost(value: float | None, key: str) -> str:
    if "parameters" in key:
        return amount(value)
    return number(value, 0 if value is None or value >= 100 else 1)


def _bar(cell: dict, span: tuple[float, float]) -> dict | None:
    """The interval as places on a line 120 wide, all rows on one scale."""
    if cell["mean"] is None:
        return None
    low, width = span[0], max(span[1] - span[0], 1e-9)
    places = {name: f"{4 + 112 * (cell[name] - low) / width:.1f}" for name in ("low", "mean", "high")}
    return places | {"label": f"{cell['low']:.3f} to {cell['high']:.3f}"}


def _about(row: dict) -> list[tuple[str, str]]:
    """(name, value) of what a row was made with, its configuration last."""
    about = {
        "model": row["model"],
        "seeds": ", ".join(map(str, row["seeds"])),
        "result files": ", ".join(row["files"]),
        "candidates sha256": row["candidates_sha256"],
        "configuration sha256": row["config_sha256"],
        **{key: row[key] for key in ("commit", "device")},
        **{{"llm": "LLM", "crm": "CRM"}.get(key, key): row[key] for key in ("llm", "crm", "retriever", "generation", "tuning", "versions")},
    }
    lines = [(key, value) for key, value in about.items() if value] + sorted((row["config"] or {}).items())
    return [(str(key), _short(value)) for key, value in lines]


def _short(value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)

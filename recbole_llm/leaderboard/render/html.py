"""Boards as one self-contained HTML page: no request leaves it, it sorts without a server, and it follows light and
dark.

plotly.js is put inline from the plotly package that RecBole requires; text and data are escaped, since row names and
reasons of failure are anybody's.
"""

from __future__ import annotations

import json
from functools import lru_cache
from html import escape
from pathlib import Path
from string import Template

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


@lru_cache(maxsize=8)
def _part(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def render_page(boards: list[dict]) -> str:
    """One page with every board."""
    names = list(dict.fromkeys(board["dataset"] for board in boards))
    title = f"Leaderboard: {', '.join(names)}"
    drawn = [figures(board, number) for number, board in enumerate(boards)]
    body = "\n".join(_board(board, plots) for board, plots in zip(boards, drawn, strict=True))
    return document(title, body, [figure for found in drawn for figure in found])


def document(title: str, body: str, plots: list[dict]) -> str:
    """A page around ``body`` (HTML), with the figures that its places (:func:`plot_places`) are for."""
    return Template(_part("page.html")).substitute(
        title=escape(title),
        css=_part("page.css"),
        body=body,
        plotly=get_plotlyjs(),
        js=_part("page.js"),
        plots=_json(plots),
    )


def _json(value) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _board(board: dict, plots: list[dict]) -> str:
    digest = (board["candidates"] or {}).get("sha256")
    head = headline(board).replace(f", sha256 `{str(digest)[:12]}`", "") if board["rows"] else "No run finished."
    parts = [f"<section><h2>{escape(board['dataset'])}, protocol {escape(board['protocol'])}</h2>"]
    parts.append(f"<p>{escape(head)}." + (f" Candidates <code>{escape(digest)}</code>." if digest else "") + "</p>")
    parts += [f'<div class="warning">{escape(text[0].upper() + text[1:])}.</div>' for text in board["warnings"]]
    parts.append(_table(board))
    if board["rows"]:
        parts.append(_legend(board))
    parts.append(plot_places(plots))
    parts += [_checks(board), _left_out(board), _details(board), _published(board), "</section>"]
    return "\n".join(part for part in parts if part)


def _legend(board: dict) -> str:
    return (
        '<p class="soft">Mean over seeds, 95% interval over users, ± deviation over seeds. A row\'s rank is 1 '
        "+ the number of "
        f"rows that are better in {escape(board['main'])} at p &lt; {board['alpha']} (paired tests on the same "
        "rows and the seeds that both have, Holm over all pairs "
        f"of the table); rows of one rank are tied. Δ is against <b>{escape(board['reference'])}</b>. W/T/L "
        "counts rows beaten, "
        "tied with and lost to. Click a heading to sort.</p>"
    )


def _th(text: str, first: str = "ascending", kind: str = "", note: str = "") -> str:
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' title="{escape(note)}"' if note else ""
    attributes += f' data-first="{first}"'
    return f'<th scope="col"{attributes}><button type="button">{escape(text)}</button></th>'


def _td(value, text: str, kind: str = "") -> str:
    shown = "" if value is None else escape(str(value), quote=True)
    return f'<td data-value="{shown}"' + (f' class="{kind}"' if kind else "") + f">{text}</td>"


def _table(board: dict) -> str:
    metrics, main = board["metrics"], board["main"]
    tuned = any(row["tuning"] for row in board["rows"])
    heads = [_th("rank"), _th("model", kind="name")]
    heads += [_th(name, "ascending" if name == "logloss" else "descending") for name in metrics]
    heads += [_th(f"Δ {main or ''}", "descending", note=f"against {board['reference']}, with Holm's p")]
    heads += [_th("p next", note="Holm's p against the row below"), _th("W/T/L", "descending")]
    heads += [_th(title, first) for _, title, first, _ in _COST] + ([_th("trials", "descending")] if tuned else [])
    lows = [row["metrics"][main]["low"] for row in board["rows"] if row["metrics"][main]["low"] is not None]
    highs = [row["metrics"][main]["high"] for row in board["rows"] if row["metrics"][main]["high"] is not None]
    span = (min(lows), max(highs)) if lows else (0.0, 1.0)
    best = {name: _best(board["rows"], name) for name in metrics}
    body = [_tr(board, row, span, best, tuned) for row in board["rows"]]
    for failure in board["failed"]:
        reason = f"failed, seed {failure['seed']}: {failure['reason']}"
        body.append(
            "<tr "
            f'class="failed">{_td(None, "–")}{_td(failure["name"], "<b>" + escape(failure["name"]) + "</b>", "name")}'
            f'<td class="reason" colspan="{len(heads) - 2}">{escape(reason)}</td></tr>'
        )
    inside = f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table class="board">{inside}</table></div>'


def _best(rows: list[dict], name: str) -> float | None:
    means = [row["metrics"][name]["mean"] for row in rows if row["metrics"][name]["mean"] is not None]
    return (min(means) if name == "logloss" else max(means)) if means else None


def _tr(board: dict, row: dict, span: tuple[float, float], best: dict, tuned: bool) -> str:
    main = board["main"]
    seeds = f"{len(row['seeds'])} seed{'s' * (len(row['seeds']) > 1)}"
    found = row["retriever"]
    retriever = f", {escape(found['model'])} top {found['n']}: recall {found['recall']:.3f}" if found else ""
    note = f", calibrated ({escape(row['calibrated'])})" if row["calibrated"] else ""
    cells = [
        _td(row["rank"], str(row["rank"])),
        _td(row["name"], f"<b>{escape(row['name'])}</b><small>{seeds}{retriever}{note}</small>", "name"),
    ]
    for name in board["metrics"]:
        cell = row["metrics"][name]
        text = _metric(cell) + (_bar(cell, span) if name == main else "")
        cells.append(_td(cell["mean"], text, "best" if cell["mean"] is not None and cell["mean"] == best[name] else ""))
    against = (row["vs_reference"] or {}).get(main) or {}
    difference = against.get("difference")
    p = against.get("p_holm")
    sure = p is not None and p < board["alpha"]
    kind = ("up" if difference * (-1 if main == "logloss" else 1) > 0 else "down") if sure else ""
    shown = "reference" if row["vs_reference"] is None else "–" if difference is None else f"{difference:+.4f}"
    cells += [_td(difference, shown + (f"<small>p {escape(p_text(p))}</small>" if p is not None else ""), kind)]
    below = (row["vs_next"] or {}).get(main) or {}
    cells += [_td(below.get("p_holm"), escape(p_text(below.get("p_holm"))) if below else "")]
    cells += [_td(row["wins"] - row["losses"], f"{row['wins']}/{row['ties']}/{row['losses']}")]
    for key, _, _, more in _COST:
        value = row["cost"].get(key)
        under = "<br>".join(
            words.format(_cost(other, row["cost"][other])) for other, words in more if row["cost"].get(other)
        )
        cells.append(_td(value, _cost(key, value) + (f"<small>{under}</small>" if under else "")))
    cells += [_td((row["tuning"] or {}).get("trials", 0), str((row["tuning"] or {}).get("trials", 0)))] if tuned else []
    return f'<tr class="{"llm" if row["llm"] else "classic"}">{"".join(cells)}</tr>'


def _cost(key: str, value: float | None) -> str:
    if "parameters" in key:
        return amount(value)
    return number(value, 0 if value is None or value >= 100 else 1)


def _metric(cell: dict) -> str:
    if cell["mean"] is None:
        return "–"
    spread = f"<i> ±{cell['sd']:.3f}</i>" if cell["sd"] is not None else ""
    return f"{cell['mean']:.4f}{spread}<small>{cell['low']:.3f}–{cell['high']:.3f}</small>"


def _bar(cell: dict, span: tuple[float, float]) -> str:
    """The interval as a line with its mean, all rows on one scale."""
    if cell["mean"] is None:
        return ""
    low, width = span[0], max(span[1] - span[0], 1e-9)
    a, m, b = (4 + 112 * (value - low) / width for value in (cell["low"], cell["mean"], cell["high"]))
    return (
        '<svg class="interval" width="120" height="12" viewBox="0 0 120 12" role="img" '
        f'aria-label="{cell["low"]:.3f} to {cell["high"]:.3f}">'
        f'<line class="axis" x1="2" x2="118" y1="6" y2="6"/><line x1="{a:.1f}" x2="{b:.1f}" y1="6" '
        f'y2="6"/><circle cx="{m:.1f}" cy="6" r="3.5"/></svg>'
    )


def plot_places(plots: list[dict]) -> str:
    """Where the figures are drawn: a box for each, with its title, its note and, of several views, the choice."""
    parts = []
    for figure in plots:
        options = "".join(
            f'<option value="{i}">{escape(view["name"])}</option>' for i, view in enumerate(figure["views"])
        )
        choice = (
            f' <select id="{figure["id"]}-choice" aria-label="what to show">{options}</select>'
            if len(figure["views"]) > 1
            else ""
        )
        parts.append(
            f"<figure><figcaption>{escape(figure['title'])}{choice}<span>{escape(figure['note'])}</span></figcaption>"
            f'<div class="plot" id="{figure["id"]}"></div></figure>'
        )
    return f'<div class="plots">{"".join(parts)}</div>' if parts else ""


def _checks(board: dict) -> str:
    lines = check_lines(board)
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in lines)
    return f"<h3>Bias checks of the LLM rows</h3><ul>{items}</ul>" if lines else ""


def _left_out(board: dict) -> str:
    items = "".join(
        f"<li><code>{escape(item['file'])}</code>: {escape(item['reason'])}</li>" for item in board["left_out"]
    )
    return f"<h3>Left out</h3><ul>{items}</ul>" if items else ""


def _details(board: dict) -> str:
    parts = []
    for row in board["rows"]:
        about = {
            "model": row["model"],
            "seeds": ", ".join(map(str, row["seeds"])),
            "result files": ", ".join(row["files"]),
            "candidates sha256": row["candidates_sha256"],
            "configuration sha256": row["config_sha256"],
            "commit": row["commit"],
            "device": row["device"],
            "LLM": _short(row["llm"]),
            "CRM": _short(row["crm"]),
            "retriever": _short(row["retriever"]),
            "generation": _short(row["generation"]),
            "tuning": _short(row["tuning"]),
            "versions": _short(row["versions"]),
        }
        lines = [(key, value) for key, value in about.items() if value] + sorted((row["config"] or {}).items())
        cells = "".join(f"<tr><th>{escape(str(key))}</th><td>{escape(_short(value))}</td></tr>" for key, value in lines)
        parts.append(
            f"<details><summary><b>{escape(row['name'])}</b> "
            f"<code>{escape(str(row['candidates_sha256'])[:12])}</code></summary><table>{cells}</table></details>"
        )
    return f"<h3>Configuration and candidates of each row</h3>{''.join(parts)}" if parts else ""


def _short(value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _published(board: dict) -> str:
    block = board["published"]
    if not block:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.4f}</td></tr>" for name, value in block["rows"])
    return (
        f'<aside class="published"><h3>{escape(block["title"])} <span class="tag">not our '
        f"protocol</span></h3><p>{escape(block['note'])}</p>"
        f"<table><thead><tr><th>model</th><th>{escape(block['metric'])}</th></tr></thead><tbody>{rows}</tbody></table></aside>"
    )

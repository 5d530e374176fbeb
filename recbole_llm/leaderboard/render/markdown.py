"""A board as Markdown, for a README, and the words that its page and tables share.

Written by hand: pandas' ``to_markdown`` pads every cell to the width of its column, so one long reason changes every line.
"""

from __future__ import annotations

import re

from recbole_llm import registry
from recbole_llm.results.result_file import count_of_rows


def number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def cell_text(cell: dict) -> str:
    """``0.4212 [0.390, 0.453] ±0.006``: mean, interval, deviation over seeds."""
    if cell["mean"] is None:
        return "–"
    text = f"{cell['mean']:.4f} [{cell['low']:.3f}, {cell['high']:.3f}]"
    return text + (f" ±{cell['sd']:.3f}" if cell["sd"] is not None else "")


def p_text(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def amount(value: float | None) -> str:
    """1234567 -> 1.23M."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def headline(board: dict) -> str:
    """What was measured, in one sentence."""
    candidates = board["candidates"] or {}
    what = registry.protocol(board["protocol"]).ranks(candidates.get("count"))
    digest = f", sha256 `{str(candidates.get('sha256'))[:12]}`" if candidates.get("sha256") else ""
    rows = count_of_rows(board["n_rows"], board["n_test_rows"])
    return f"{rows} of {board['n_users']} users, {what}{digest}"


def markdown(board: dict) -> str:
    """For a README: the table, what it means, bias checks, failures, published numbers."""
    lines = [f"### {board['dataset']}, {board['protocol']}", "", headline(board) + ".", ""]
    lines += [f"> **Note:** {warning}." for warning in board["warnings"]]
    lines += [""] if board["warnings"] else []
    if board["rows"]:
        lines += [*_table(board), "", legend(board), ""]
    else:
        lines += [f"- {escaped(f['name'])} seed {f['seed']} failed: {escaped(f['reason'])}" for f in board["failed"]] + [""]
    lines += _markdown_checks(board)
    if board["left_out"]:
        lines += ["Left out:", ""] + [f"- `{item['file']}`: {item['reason']}" for item in board["left_out"]] + [""]
    if block := board["published"]:
        lines += [f"#### {block['title']} (not our protocol)", "", block["note"], "", f"| model | {block['metric']} |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in block["rows"]] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _table(board: dict) -> list[str]:
    head = ["rank", "model", *board["metrics"], f"Δ {board['main']} vs {escaped(board['reference'])}", "p (Holm)"]
    head += ["W/T/L", "trainable", "train s", "p50 ms"]
    tuned = any(row["tuning"] for row in board["rows"])
    head += ["trials"] if tuned else []
    rows = [_markdown_cells(board, row, tuned) for row in board["rows"]]
    for failure in board["failed"]:
        reason = f"failed (seed {failure['seed']}): {failure['reason']}"
        rows.append(["–", escaped(failure["name"]), escaped(reason), *("" for _ in head[3:])])
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def shown_name(row: dict) -> str:
    """A row's name, marked where its probabilities come from calibration on validation rows."""
    return row["name"] + (f" ({row['calibrated']}-calibrated)" if row["calibrated"] else "")


def _markdown_cells(board: dict, row: dict, tuned: bool) -> list[str]:
    against = (row["vs_reference"] or {}).get(board["main"]) or {}
    cost = row["cost"]
    cells = [str(row["rank"]), escaped(shown_name(row))] + [cell_text(row["metrics"][name]) for name in board["metrics"]]
    difference = against.get("difference")
    cells += ["reference" if row["vs_reference"] is None else "–" if difference is None else f"{difference:+.4f}"]
    cells += [p_text(against.get("p_holm")) if against else "", f"{row['wins']}/{row['ties']}/{row['losses']}"]
    cells += [amount(cost["trainable_parameters"]), number(cost["seconds_train"], 0), number(cost["latency_p50_ms"], 1)]
    return cells + ([str((row["tuning"] or {}).get("trials", 0))] if tuned else [])


def legend(board: dict, intervals: bool = True) -> str:
    """How to read the table; ``intervals``: whether it shows them and the counts of won rows (LaTeX does not)."""
    interval = " [95% interval over users]" if intervals else ""
    counts = " W/T/L: rows beaten / tied / lost to." if intervals else ""
    return (
        f"Mean over seeds{interval} ± deviation over seeds. A rank is 1 + the number of rows that are better in "
        f"{board['main']} at p < {board['alpha']} (paired tests on the same rows and the seeds "
        f"that both have, Holm over all pairs of the table); a row may also be tied with rows of other ranks.{counts}"
    )


def _markdown_checks(board: dict) -> list[str]:
    lines = [f"- **{escaped(name)}**: {text}" for name, text in check_lines(board)]
    return ["Bias checks:", "", *lines, ""] if lines else []


def check_lines(board: dict) -> list[tuple[str, str]]:
    """(name, what the bias checks found) for every LLM row."""
    lines = []
    for row in board["rows"]:
        checks = row["checks"]
        if not row["llm"] or not checks:
            continue
        parts = [retriever_text(row)] if row["retriever"] else []
        parts += [_group_text(kind, checks[kind]) for kind in ("position", "popularity", "history") if checks.get(kind)]
        if spread := checks["permutations"]:
            parts.append(
                f"{spread['k']} candidate orders {spread['low']:.3f}–{spread['high']:.3f}, same first item in "
                f"{spread['same_top']:.0%} of rows"
            )
        if leaks := checks["leaks"]:
            parts.append(
                f"leak check: {leaks['id_outside']} ids and {leaks['title_outside']} titles outside the "
                f"candidates in {leaks['rows']} prompts"
            )
        lines.append((row["name"], "; ".join(parts) + "."))
    return lines


def retriever_text(row: dict) -> str:
    """What an LLM row of protocol ``full`` re-ranks."""
    found = row["retriever"]
    return f"re-ranks {found['model']}'s top {found['n']}, which hold the target of {found['recall']:.1%} of the rows"


def _group_text(kind: str, found: dict) -> str:
    pairs = [(group, rate) for group, rate in zip(found["groups"], found["hit@1"], strict=True) if rate is not None]
    rates = [rate for _, rate in pairs]
    detail = f"{min(rates):.3f}–{max(rates):.3f}" if kind == "position" else ", ".join(f"{g} {r:.3f}" for g, r in pairs)
    title = {"position": "target position", "popularity": "popularity", "history": "history length"}[kind]
    return f"Hit@1 by {title} {detail} (p flat {p_text(found['p_flat'])})"


def escaped(text: str) -> str:
    """Text as a table's cell or a line shows it, whatever marks of Markdown and HTML are in it."""
    return re.sub(r"[\\|*`\[]", r"\\\g<0>", " ".join(str(text).split())).replace("<", "&lt;")

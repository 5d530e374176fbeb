"""Writes a board as Markdown, CSV, JSON, LaTeX and HTML, each whole or not at all, and as a DataFrame."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from recbole_llm.leaderboard.board import Options, board_path, build_board, stored_options
from recbole_llm.leaderboard.files import boards as boards_in
from recbole_llm.leaderboard.render.html import render_page
from recbole_llm.leaderboard.render.latex import latex
from recbole_llm.leaderboard.render.markdown import markdown
from recbole_llm.runtime.files import write_text

FORMATS = ("md", "csv", "json", "tex", "html")


def write_report(folder: str | Path, selected=None, options: Options | None = None, **over) -> list[dict]:
    """Build and write every board of a folder from its result files.

    Args:
        selected: (dataset, protocol) pairs; None: all that the folder holds.
        options: None: those of the board that is already there, else the usual ones.
        over: options that go over these, by name.

    Returns:
        The boards. Several also make ``leaderboard.html`` with all of them.

    Raises:
        FileNotFoundError: no result file.
        ValueError: files that cannot stand in one table (see :mod:`recbole_llm.leaderboard.contents`).
    """
    folder = Path(folder)
    made = []
    for dataset, protocol in selected or boards_in(folder):
        chosen = replace(options or stored_options(folder, dataset, protocol), **over)
        board = build_board(folder, dataset, protocol, chosen)
        write_board(folder, board)
        made.append(board)
    if len(made) > 1:
        write_pages(folder, made)
    return made


def write_pages(folder: str | Path, boards: list[dict]) -> None:
    """``leaderboard.html``: several boards on one page."""
    write_text(Path(folder) / "leaderboard.html", render_page(boards), "choose another folder")


def write_board(folder: str | Path, board: dict) -> dict[str, Path]:
    """All formats of one board."""
    texts = {"md": markdown(board), "csv": comma_separated(board), "tex": latex(board), "html": render_page([board])}
    texts["json"] = json.dumps(board, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    paths = {}
    for suffix in FORMATS:
        paths[suffix] = board_path(folder, board["dataset"], board["protocol"], suffix)
        write_text(paths[suffix], texts[suffix], "choose another folder")
    return paths


def written_files(folder: str | Path, boards: list[dict]) -> list[Path]:
    """What :func:`write_report` leaves for these boards."""
    paths = [board_path(folder, board["dataset"], board["protocol"], suffix) for board in boards for suffix in FORMATS]
    return paths + ([Path(folder) / "leaderboard.html"] if len(boards) > 1 else [])


def table_rows(board: dict) -> list[dict]:
    """One flat dictionary per row of the table, failed runs last: what CSV and DataFrame hold."""
    rows = [_flat(board, row) for row in board["rows"]]
    for failure in board["failed"]:
        reason = f"seed {failure['seed']}: {failure['reason']}"
        rows.append({"name": failure["name"], "model": failure["model"], "seeds": None, "failed": reason})
    return rows


def _flat(board: dict, row: dict) -> dict:
    main = (row["vs_reference"] or {}).get(board["main"]) or {}
    below = (row["vs_next"] or {}).get(board["main"]) or {}
    flat = {name: row[name] for name in ("rank", "name", "model")}
    flat |= {"seeds": len(row["seeds"]), "n": board["n_rows"], "calibrated": row["calibrated"]}
    for name, cell in row["metrics"].items():
        flat |= {name: cell["mean"], **{f"{name}_{part}": cell[part] for part in ("sd", "low", "high")}}
        flat[f"valid_{name}"] = row["valid"].get(name)
    return flat | {
        "vs_reference": main.get("difference"),
        "p_reference": main.get("p"),
        "p_holm_reference": main.get("p_holm"),
        "p_holm_next": below.get("p_holm"),
        **{name: row[name] for name in ("wins", "ties", "losses")},
        **row["cost"],
        "tuning_trials": (row["tuning"] or {}).get("trials"),
        **{name: row[name] for name in ("candidates_sha256", "config_sha256", "commit")},
        "failed": None,
    }


def data_frame(boards: list[dict]) -> pd.DataFrame:
    """All boards' rows, with ``dataset`` and ``protocol`` first."""
    rows = [{"dataset": b["dataset"], "protocol": b["protocol"], **row} for b in boards for row in table_rows(b)]
    return pd.DataFrame(rows)


def comma_separated(board: dict) -> str:
    """The rows of :func:`table_rows` as CSV, every number as it is."""
    return pd.DataFrame(table_rows(board), dtype=object).to_csv(index=False, lineterminator="\n")

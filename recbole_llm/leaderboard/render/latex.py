"""A board as a LaTeX table (booktabs): what RecBole's run_recbole_group.py writes, with ranks and tests.

Written by hand: pandas' ``to_latex`` has no row of failed runs that spans columns.
"""

from __future__ import annotations

from recbole_llm.leaderboard.render.markdown import legend, p_text, shown_name
from recbole_llm.results.result_file import count_of_rows

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in str(text))


def latex(board: dict) -> str:
    """A booktabs table; rows of rank 1 in bold, in the main metric's column."""
    metrics = board["metrics"]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small",
        r"\begin{tabular}{rl" + "r" * len(metrics) + "rr}",
        r"\toprule",
    ]
    head = ["Rank", "Model", *(_tex(m) for m in metrics), r"$\Delta$ " + _tex(board["main"] or ""), "$p$ (Holm)"]
    lines += [" & ".join(head) + r" \\", r"\midrule"]
    for row in board["rows"]:
        cells = [str(row["rank"]), _tex(shown_name(row))]
        for name in metrics:
            cell = row["metrics"][name]
            spread = f"$\\pm${cell['sd']:.3f}" if cell["sd"] is not None else ""
            text = "--" if cell["mean"] is None else f"{cell['mean']:.4f}{spread}"
            cells.append(rf"\textbf{{{text}}}" if row["rank"] == 1 and name == board["main"] else text)
        against = (row["vs_reference"] or {}).get(board["main"]) or {}
        difference = against.get("difference")
        cells += [
            "--" if difference is None else f"${difference:+.4f}$",
            p_text(against.get("p_holm")).replace("–", "--").replace("<", "$<$"),
        ]
        lines.append(" & ".join(cells) + r" \\")
    for failure in board["failed"]:
        lines.append(rf"-- & {_tex(failure['name'])} & \multicolumn{{{len(metrics) + 2}}}{{l}}{{failed}} \\")
    caption = f"{_tex(board['dataset'])}, protocol {_tex(board['protocol'])}: {count_of_rows(board['n_rows'], board['n_test_rows'])}."
    caption += f" {_tex(legend(board, intervals=False))}" if board["rows"] else ""
    caption += rf" $\Delta$ and $p$: against {_tex(board['reference'])}." if board["reference"] else ""
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    if any(row["valid"] for row in board["rows"]):
        lines += _validation(board)
    return "\n".join(lines) + "\n"


def _validation(board: dict) -> list[str]:
    """The best validation results, which chose each row's epoch: what run_recbole_group.py calls valid_latex."""
    metrics = [name for name in board["metrics"] if any(name in row["valid"] for row in board["rows"])]
    lines = ["", r"\begin{table}", r"\centering\small", r"\begin{tabular}{l" + "r" * len(metrics) + "}", r"\toprule"]
    lines += [" & ".join(["Model", *(_tex(name) for name in metrics)]) + r" \\", r"\midrule"]
    for row in board["rows"]:
        found = [row["valid"].get(name) for name in metrics]
        cells = ["--" if value is None else f"{value:.4f}" for value in found]
        lines.append(" & ".join([_tex(row["name"]), *cells]) + r" \\")
    caption = f"{_tex(board['dataset'])}: best validation, mean over seeds, each row on its own validation rows."
    return [*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]

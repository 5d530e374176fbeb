"""python -m benchmarks.readme [FOLDER]: write README's result tables and docs/leaderboards/ from result files (results/).

README's tables are those of the leaderboard (``recbole_llm.leaderboard``), with fewer columns: mean over seeds, 95% interval
over users, deviation over seeds, rank = 1 + the number of significantly better rows. The first one holds every row, the others those
with all seeds; docs/leaderboards/ has all columns of all rows. Nothing between the markers is written by hand. The table of a
board that FOLDER has no file of stays as it is.
"""

import re
import sys
from pathlib import Path

from recbole_llm.leaderboard.board import build_board, stored_options
from recbole_llm.leaderboard.files import boards
from recbole_llm.leaderboard.text import amount, cell_text, escaped, markdown, p_text, shown_name
from recbole_llm.result import count_of_rows, read_result

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "leaderboards"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
FIRST = ("ml-100k", "candidates")
SHOWN = {"candidates": ("hit@1", "ndcg@10"), "full": ("hit@10", "ndcg@10"), "ctr": ("auc", "logloss", "acc")}


def versus(test: dict, users: dict | None) -> str:
    """Difference to the reference (users with a better mean over seeds : users with a worse one, p of this pair alone)."""
    counts = f"{users['wins']} : {users['losses']}, " if users else ""
    return f"{test['difference']:+.3f} ({counts}p {p_text(test['p'])})"


def line(row: dict, metrics: list[str], main: str) -> str:
    """One row of a table."""
    against, cost = row["vs_reference"], row["cost"]
    cells = [
        str(row["rank"]), shown_name(row), str(len(row["seeds"])), *(cell_text(row["metrics"][name]) for name in metrics),
        "" if not against else versus(against[main], row["users_against_reference"]),
        amount(cost["trainable_parameters"]),
        " + ".join(f"{cost[f'seconds_{part}'] or 0:.0f}" for part in ("crm", "train", "evaluate")),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def table(folder: Path, board: dict, every_row: bool) -> str:
    """Markdown of one board, best first; ``every_row``: also rows with fewer seeds than others."""
    protocol, seeds = board["protocol"], max(len(row["seeds"]) for row in board["rows"])
    shown = [row for row in board["rows"] if every_row or len(row["seeds"]) == seeds]
    records = [read_result(folder / file) for row in shown for file in row["files"]]
    candidates = board["candidates"] or {}
    facts = [f"{count_of_rows(board['n_rows'], board['n_test_rows'])} of {board['n_users']:,} users"]
    if protocol == "candidates":
        facts.append(f"{candidates['count']} candidates (chance {1 / candidates['count']:.3f})")
    if candidates.get("sha256"):
        facts.append(f"sha256 `{candidates['sha256'][:12]}`")
    facts.append("; ".join(sorted({record["device"] for record in records})))
    facts.append("commit " + ", ".join(sorted({record["commit"][:7] for record in records})))
    metrics = [name for name in SHOWN[protocol] if name in board["metrics"]]
    head = ["", "model", "seeds", *metrics, f"{board['main']} vs {board['reference']}", "trained", "CRM + train + test, s"]
    rows = [line(row, metrics, board["main"]) for row in shown]
    for failure in board["failed"]:
        cells = ["–", escaped(failure["name"]), escaped(f"failed (seed {failure['seed']}): {failure['reason']}")]
        rows.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return "\n".join([f"**{board['dataset']}, `{protocol}`**: {', '.join(facts)}.", "", f"| {' | '.join(head)} |",
                      "|" + "---|" * len(head), *rows])  # fmt: skip


def stored_tables(text: str) -> dict[tuple[str, str], str]:
    """What stands between the markers now, by (dataset, protocol)."""
    heads = list(re.finditer(r"^\*\*(\S+), `(\w+)`\*\*:", text, re.MULTILINE))
    ends = [*(head.start() for head in heads), len(text)][1:]
    return {head.groups(): text[head.start() : end].strip() for head, end in zip(heads, ends, strict=True)}


def main(folder: str | None = None) -> None:
    """Replace what stands between README's markers, and the pages in docs/leaderboards/.

    Raises:
        FileNotFoundError: the folder holds no result file.
        ValueError: README does not hold both markers once.
    """
    folder = Path(folder or "results")
    found = boards(folder)
    if not found:
        raise FileNotFoundError(f"no result file in {folder}; run run_recbole_llm.py first")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md must hold {BEGIN} and {END} once each: the tables are written between them")
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    tables = stored_tables(old)
    for dataset, protocol in found:
        board = build_board(folder, dataset, protocol, stored_options(folder, dataset, protocol))
        (PAGES / f"{dataset}.{protocol}.md").write_text(markdown(board), encoding="utf-8")
        tables[dataset, protocol] = table(folder, board, every_row=(dataset, protocol) == FIRST)
    order = sorted(tables, key=lambda pair: (pair[1], pair != FIRST, pair))
    tables = "\n\n".join(tables[pair] for pair in order)
    (ROOT / "README.md").write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

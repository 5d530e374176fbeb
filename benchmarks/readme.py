"""python -m benchmarks.readme [FOLDER [NAME] | --check]: README's result table and docs/leaderboards/, from result files (results/).

README shows one board (ml-100k, candidates) in at most ten rows, those that have all seeds, with one metric and its 95% interval over users;
where more have them, the models at their own settings come before named variants, and better rows before worse ones. docs/leaderboards/ has a page for
each board: all rows and columns, bias checks, published numbers. Nothing between README's markers is written by hand; it stays as it is
where FOLDER has no file of its board.

A board is kept beside its page as JSON, since result files name users and items of data that may not be passed on. ``--check`` writes
nothing: it exits with 1 and names the files that are not what these boards give. With a NAME (`small`) the boards are kept beside those
that README shows, as <dataset>.<protocol>.<NAME>: runs at other settings, or on other test rows.
"""

import json
import sys
from pathlib import Path

from recbole_llm.leaderboard.board import build_board, stored_options
from recbole_llm.leaderboard.files import boards
from recbole_llm.leaderboard.render.markdown import amount, cell_text, escaped, markdown, p_text, shown_name
from recbole_llm.results.result_file import count_of_rows, read_result
from recbole_llm.runtime.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "leaderboards"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SHOWN = "ml-100k.candidates"
ROWS = 10


def chosen_rows(board: dict) -> list[dict]:
    """At most ``ROWS`` rows in the board's order: those with all seeds, models at their own settings first, then variants."""
    seeds = max((len(row["seeds"]) for row in board["rows"]), default=0)
    complete = [row for row in board["rows"] if len(row["seeds"]) == seeds]
    first = sorted(complete, key=lambda row: "@" in row["name"])[:ROWS]
    return [row for row in complete if any(row is one for one in first)]


def line(row: dict, main: str) -> str:
    """One row of the table: rank, name, seeds, the metric, the difference to the reference, trained weights, seconds."""
    against, cost = (row["vs_reference"] or {}).get(main), row["cost"]
    seconds = sum(cost[f"seconds_{part}"] or 0 for part in ("crm", "train", "evaluate"))
    cells = [
        str(row["rank"]), escaped(shown_name(row)), str(len(row["seeds"])), cell_text(row["metrics"][main]),
        f"{against['difference']:+.3f} (p {p_text(against['p_holm'])})" if against else "",
        amount(cost["trainable_parameters"]), f"{seconds:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def made_by(folder: Path, board: dict) -> dict:
    """The devices and commits of README's rows, over all their seeds."""
    records = [read_result(folder / file) for row in chosen_rows(board) for file in row["files"]]
    return {
        "devices": sorted({record["device"] for record in records}),
        "commits": sorted({str(record["commit"])[:7] for record in records}),
    }


def facts(board: dict) -> str:
    """On what the table was measured, by which code."""
    candidates = board["candidates"]
    parts = [
        f"{count_of_rows(board['n_rows'], board['n_test_rows'])} of {board['n_users']:,} users",
        f"{candidates['count']} candidates (chance {1 / candidates['count']:.3f}), sha256 `{candidates['sha256'][:12]}`",
        "; ".join(board["devices"]),
        "commit " + ", ".join(board["commits"]),
    ]
    return f"**{board['dataset']}, `{board['protocol']}`**: {', '.join(parts)}."


def table(board: dict) -> str:
    """README's block: what was measured, the table, how to read it."""
    main, rows = board["main"], chosen_rows(board)
    head = ["rank", "model", "seeds", f"{main} [95%]", f"vs {escaped(board['reference'])} (Holm)", "trained", "s a seed"]
    left = len(board["rows"]) + len(board["failed"]) - len(rows)
    more = f" and {left} more row{'s' if left > 1 else ''}" if left else ""
    page = f"[docs/leaderboards/](docs/leaderboards/{board['dataset']}.{board['protocol']}.md)"
    note = f"Mean over seeds [interval over users] ± deviation over seeds; a rank is 1 + the number of rows that are significantly better.\n{page} has more metrics"
    return "\n".join([
        *_wrapped(facts(board)), "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(line(row, main) for row in rows), "",
        f"{note}{more}. trained: weights; s a seed: recommender, training, test.",
    ])  # fmt: skip


def _wrapped(text: str, width: int = 150) -> list[str]:
    """Lines of at most ``width`` characters, cut at blanks."""
    lines = [""]
    for word in text.split():
        lines = lines + [word] if len(lines[-1]) + len(word) >= width else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    return lines


def texts() -> dict[Path, str]:
    """What README and the pages hold by the boards in docs/leaderboards/.

    Raises:
        ValueError: README does not hold both markers once.
    """
    boards = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(PAGES.glob("*.json"))}
    found = {file.with_suffix(".md"): markdown(board) for file, board in boards.items()}
    before, after = _around_the_table()
    for file, board in boards.items():
        if file.stem == SHOWN and board["rows"]:
            found[ROOT / "README.md"] = f"{before}{BEGIN}\n{table(board)}\n{END}{after}"
    return found


def _around_the_table() -> tuple[str, str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md must hold {BEGIN} and {END} once each: the table is written between them")
    before, _, rest = text.partition(BEGIN)
    return before, rest.partition(END)[2]


def differing() -> list[Path]:
    """Files that are not what the boards give, and pages without a board."""
    wanted = texts()
    pages = [page for page in sorted(PAGES.glob("*.md")) if page not in wanted]
    return pages + [file for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]


def write(folder: Path, name: str = "") -> None:
    """Make the boards of ``folder``, kept as those called ``name``, then what they give: README's table and the pages.

    Raises:
        FileNotFoundError: the folder holds no result file.
        ValueError: README does not hold both markers once.
    """
    found = boards(folder)
    if not found:
        raise FileNotFoundError(f"no result file in {folder}; run run_recbole_llm.py first")
    _around_the_table()
    PAGES.mkdir(parents=True, exist_ok=True)
    for dataset, protocol in found:
        board = build_board(folder, dataset, protocol, stored_options(folder, dataset, protocol))
        kept = json.dumps(board | made_by(folder, board), indent=1, ensure_ascii=False, allow_nan=False)
        stem = ".".join(part for part in (dataset, protocol, name) if part)
        write_text(PAGES / f"{stem}.json", kept + "\n", "make docs/leaderboards writable")
    for file, text in texts().items():
        write_text(file, text, f"make {file} writable")


def main(argument: str = "results", name: str = "") -> int:
    """Write from the folder ``argument`` the boards called ``name``, or compare where it is ``--check``; the exit code."""
    if argument != "--check":
        write(Path(argument), name)
        return 0
    wrong = differing()
    for file in wrong:
        print(f"{file.relative_to(ROOT)} is not what docs/leaderboards/*.json give: run python -m benchmarks.readme results")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

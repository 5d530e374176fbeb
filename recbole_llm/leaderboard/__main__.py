"""python -m recbole_llm.leaderboard report results/          makes every board of a folder from its files alone
python -m recbole_llm.leaderboard compare A.json B.json     prints the paired comparison of two runs
"""

from __future__ import annotations

import argparse
import sys

from recbole_llm.leaderboard.compare import compare_files
from recbole_llm.leaderboard.render.markdown import markdown
from recbole_llm.leaderboard.report import write_report


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 where a board holds failed runs, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "compare":
            print(compare_files(options.a, options.b, options.resamples))
            return 0
        return _report(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _report(options) -> int:
    over = {name: getattr(options, name) for name in ("metric", "reference", "resamples", "candidates")}
    made = write_report(options.folder, **{name: value for name, value in over.items() if value is not None})
    for board in made:
        print(markdown(board))
    return 1 if any(board["failed"] for board in made) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recbole_llm.leaderboard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="rebuild the boards of a folder of result files")
    report.add_argument("folder")
    report.add_argument("--metric", help="what ranks the rows, e.g. hit@1")
    report.add_argument("--reference", help="the row that all others are compared with")
    report.add_argument("--candidates", help="first digits of the candidate sha256 to keep, where there are several")
    compare = commands.add_parser("compare", help="two result files, row by row")
    compare.add_argument("a")
    compare.add_argument("b")
    for command in (report, compare):
        command.add_argument("--resamples", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main())

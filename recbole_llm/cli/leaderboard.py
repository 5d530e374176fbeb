"""The leaderboard on the command line of run_recbole_llm.py."""

from __future__ import annotations

from recbole_llm.leaderboard.render.markdown import markdown
from recbole_llm.leaderboard.run import run_leaderboard


def is_leaderboard(line) -> bool:
    """Whether a parsed command line asks for a leaderboard rather than a single run."""
    several = any("," in str(value or "") for value in (line.model, line.dataset, line.options.get("protocol")))
    return (
        several or line.seeds is not None or bool(line.leaderboard) or bool(line.tune) or "@" in str(line.model or "")
    )


def run_command_line(line) -> int:
    """Run what a command line asks for and print the boards; 1 if a row failed."""
    options = dict(line.options)
    protocols = options.pop("protocol", None)
    frame = run_leaderboard(
        line.model,
        line.dataset,
        protocols,
        line.seeds,
        line.config_files,
        options,
        line.leaderboard,
        line.rerun,
        line.reference,
        line.metric,
        line.resamples,
        line.tune,
    )
    for board in frame.attrs["boards"]:
        print("\n" + markdown(board))
    for file in frame.attrs["files"]:
        print(file)
    return 1 if frame.attrs["failed"] else 0

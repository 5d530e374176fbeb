"""Leaderboards whose rows differ in nothing but the model: runner, statistics, bias checks, report.

Result files are the interface: the runner fills a folder with them, everything else is made from that folder alone.
"""

__all__ = ["run_leaderboard"]


def __getattr__(name):
    """Load the runner on first use."""
    if name == "run_leaderboard":
        from recbole_llm.leaderboard.run import run_leaderboard

        return run_leaderboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Progress over all runs of a leaderboard."""

from __future__ import annotations

from recbole_llm.leaderboard.plan import Run


class Progress:
    """Says after each run how many are left and for how long, from the times of like runs (reused ones included)."""

    def __init__(self, runs: list[Run]):
        self.waiting = list(runs)
        self.total = len(runs)
        self.seconds: dict[str, list[float]] = {}
        self.shown = bool(runs) and bool(runs[0].config["show_progress"])

    def left(self) -> float | None:
        """Estimated seconds until the end; None before the first run has finished."""
        known = [value for values in self.seconds.values() for value in values]
        if not known:
            return None
        usual = sum(known) / len(known)
        rows = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        return sum(rows.get(run.entry.name, usual) for run in self.waiting)

    def started(self, run: Run) -> None:
        if self.shown:
            print(f"[{self.total - len(self.waiting) + 1}/{self.total}] {run.label} ...", flush=True)

    def done(self, run: Run, seconds: float | None = None, reused: float | None = None, failed: bool = False) -> None:
        number = self.total - len(self.waiting) + 1
        self.waiting.remove(run)
        self.seconds.setdefault(run.entry.name, []).append(seconds if reused is None else reused)
        if not self.shown:
            return
        what = "reused" if reused is not None else f"failed after {seconds:.0f} s" if failed else f"{seconds:.0f} s"
        print(f"[{number}/{self.total}] {run.label}: {what}; {_clock(self.left())} left", flush=True)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"

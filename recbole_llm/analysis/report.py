"""What an analysis leaves: a table, plots and a JSON, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from recbole_llm.analysis.common import digest
from recbole_llm.leaderboard.render.html import report_page
from recbole_llm.results.result_file import count_of_rows, file_name, read_result
from recbole_llm.runtime.files import write_text


@dataclass
class Report:
    """One analysis's outcome.

    Attributes:
        head: sentences over the table: what was measured, and what it says in numbers.
        rows: the table, mappings of the same keys.
        figures: as :mod:`recbole_llm.leaderboard.render.plots` makes them, without their ids.
        runs: names of the result files that it was made from.
        data: further plain values for the JSON.
        long_table: a larger table for the CSV in place of ``rows`` (a line for each sequence, say).
    """

    name: str
    dataset: str
    protocol: str
    models: list[str]
    head: list[str]
    rows: list[dict]
    figures: list[dict]
    runs: list[str]
    options: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    long_table: list[dict] | None = None

    @property
    def stem(self) -> str:
        """``<dataset>.<protocol>.<analysis>.<models>-<hash of the runs and options>``."""
        key = digest([self.runs, self.options])
        return f"{self.dataset}.{self.protocol}.{self.name}.{file_name('+'.join(self.models))}-{key}"

    @property
    def title(self) -> str:
        return f"{self.name}: {', '.join(self.models)} on {self.dataset}"

    def tell_origin(self, folder: str | Path) -> None:
        """Close the sentences with what the runs, result files of ``folder``, were measured on; the JSON holds it too."""
        records = [read_result(Path(folder) / run) for run in self.runs]
        found = {
            "test_rows": [count_of_rows(r["n_rows"], r["n_test_rows"]) for r in records],
            "training_rows": [r["train_sample"]["count"] for r in records if r["train_sample"]],
            "seeds": [r["seed"] for r in records],
            "llms": [r["llm"]["name"] for r in records if r["llm"]],
            "devices": [r["device"] for r in records],
            "commits": [str(r["commit"])[:7] for r in records],
        }
        found = {name: sorted(set(values)) for name, values in found.items()}
        told = {name: ", ".join(map(str, values)) for name, values in found.items()}
        self.data["origin"] = found
        self.head.append(f"Runs: {told['training_rows']} training rows, {told['test_rows']}, seed {told['seeds']}, {told['llms']}, "
                         f"{told['devices']}, commit {told['commits']}.")  # fmt: skip

    def text(self) -> str:
        """Title, sentences and table as Markdown."""
        return markdown(f"# {self.title}", self.head, self.rows)

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``.csv .md .html .json`` to a folder; their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain = {
            "schema": 1, "analysis": self.name, "dataset": self.dataset, "protocol": self.protocol, "models": self.models,
            "options": self.options, "runs": self.runs, "head": self.head, "rows": self.rows, **self.data,
        }  # fmt: skip
        contents = {
            ".csv": comma_separated(self.rows if self.long_table is None else self.long_table),
            ".md": self.text(),
            ".html": self.page(),
            ".json": json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        }
        paths = {folder / (self.stem + suffix): text for suffix, text in contents.items()}
        for path, text in paths.items():
            write_text(path, text, "choose another folder")
        return list(paths)

    def page(self) -> str:
        """A page in the leaderboards' style that fetches nothing and follows light and dark."""
        names = _filled(self.rows)
        plots = [figure | {"id": f"plot-{i}"} for i, figure in enumerate(self.figures)]
        cells = [[_shown(row.get(name)) for name in names] for row in self.rows]
        return report_page(self.title, self.head, names, cells, plots)


def markdown(title: str, head: list[str], rows: list[dict]) -> str:
    """A report's heading, sentences and table."""
    names = _filled(rows)
    lines = [[_shown(row.get(name)) for name in names] for row in rows]
    return "\n\n".join([title, *head, tabulate(lines, headers=names, tablefmt="github", disable_numparse=True)]) + "\n"


def comma_separated(rows: list[dict]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _filled(rows: list[dict]) -> list[str]:
    """The columns in which a row has a value: one seed has no deviation, what is no curve no place on an axis."""
    return list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))


def _shown(value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

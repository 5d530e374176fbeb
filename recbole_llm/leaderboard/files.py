"""Finds and reads result files with their rows, each file checked against itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recbole_llm import registry
from recbole_llm.data.fingerprint import ROWS
from recbole_llm.leaderboard.labelled import labelled_value
from recbole_llm.leaderboard.reuse import comparable
from recbole_llm.leaderboard.statistics import ranking_values
from recbole_llm.results.result_file import check_rows, read_result

NOT_RESULTS = (".leaderboard.json", ".failed.json", ".tuning.json")


@dataclass(frozen=True)
class Stored:
    """One result file with its test rows.

    Attributes:
        name: the variant's name, or the model's.
        rows: columns of the ``.rows.csv``, ids as strings.
    """

    path: Path
    record: dict
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        return self.record.get("variant") or self.record["model"]

    @property
    def sha256(self) -> str | None:
        return (self.record.get("candidates") or {}).get("sha256")

    @property
    def other_rules(self) -> str:
        """What to add where the file's rows are a sample, or were made by other rules than today's; "" where neither."""
        if (self.record.get("candidates") or {}).get("rows") == ROWS:
            size = (self.record.get("config") or {}).get("test_sample_size")
            return "" if size is None else f" (test_sample_size: {size}, which files of one table share)"
        return " (made by an earlier version, which put interactions in order by times of 32 bits: run it again)"

    @property
    def settings(self) -> dict:
        """What :func:`comparable` keeps of the configuration, less the seed: what makes a row one row."""
        kept = comparable(self.record.get("config") or {}, plugin=self.record.get("llm") is not None)
        return {key: value for key, value in kept.items() if key != "seed"}

    @property
    def config_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()


def result_files(folder: str | Path) -> list[Path]:
    """The result files in ``folder``, by name.

    Raises:
        FileNotFoundError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give the result_dir of earlier runs")
    names = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
    found = sorted(path for path in names if not path.name.endswith(NOT_RESULTS) and path.name != "leaderboard.json")
    if not found and not list(folder.glob("*.failed.json")):
        raise FileNotFoundError(
            f"{folder} holds no result file (<dataset>.<protocol>.<model>.seed<seed>.json); run a model first"
        )
    return found


def read_stored(path: str | Path) -> Stored:
    """A result file and its rows, checked against each other.

    Raises:
        ValueError: another schema, missing fields, rows that are missing or do not give the file's own metrics.
    """
    path = Path(path)
    record = read_result(path)
    missing = [
        key for key in ("model", "dataset", "protocol", "seed", "metrics", "n_rows", "rows") if key not in record
    ]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; run the model again")
    file = check_rows(path, record)
    rows = pd.read_csv(file, dtype={"user_id": str, "item_id": str}, keep_default_na=False, encoding="utf-8")
    if record["protocol"] not in registry.protocols():
        raise ValueError(f"{path}: protocol {record['protocol']!r} is unknown; known are {', '.join(registry.protocols())}")
    needed = [column for column in registry.protocol(record["protocol"]).columns if column != "target_position"]
    if absent := [column for column in needed if column not in rows.columns]:
        raise ValueError(f"{file} has no column {', '.join(absent)}; run the model again")
    if len(rows) != record["n_rows"]:
        raise ValueError(f"{file} holds {len(rows)} rows, {path.name} says {record['n_rows']}; run the model again")
    _check_metrics(path, record, rows)
    return Stored(path, record, rows)


def _check_metrics(path: Path, record: dict, rows: pd.DataFrame) -> None:
    """A file whose metrics do not follow from its rows was edited, or mixed from two runs."""
    ranks = not registry.protocol(record["protocol"]).labelled
    places = (record.get("config") or {}).get("metric_decimal_place")  # to which RecBole rounds
    tolerance = 1.01 * 10.0 ** -min(4 if places is None else places, 4)
    if ranks and len(rows) and rows["rank"].min() < 1:
        raise ValueError(f"{path}: ranks count from 1; run the model again")
    for name, value in record["metrics"].items() if len(rows) else ():
        if ranks and name.partition("@")[0] in ("hit", "ndcg", "mrr") and "@" in name:
            own = float(ranking_values(rows["rank"].to_numpy(), name).mean())
        elif not ranks and name in ("auc", "logloss", "acc", "gauc"):
            own = labelled_value(name, *(rows[column].to_numpy() for column in ("label", "score", "user_id")))
        else:
            continue
        if abs(own - value) > tolerance:
            raise ValueError(f"{path}: {name} is {value} but its rows give {own:.4f}; run the model again")


def boards(folder: str | Path) -> list[tuple[str, str]]:
    """The (dataset, protocol) pairs for which a folder holds results or failures.

    Raises:
        ValueError: a file of another schema.
    """
    found = {}
    for path in result_files(folder):
        record = read_result(path)
        found[record.get("dataset"), record.get("protocol")] = None
    for path in sorted(Path(folder).glob("*.failed.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[record["dataset"], record["protocol"]] = None
    return sorted(found)

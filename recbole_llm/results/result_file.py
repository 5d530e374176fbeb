"""Result files: what a run measured, on which rows, with what.

``<dataset>.<protocol>.<model>.seed<seed>.json`` (schema 1) and, beside it, ``.rows.csv`` with one line per test row
in external tokens. Leaderboards are built from these files alone.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import platform
import re
import resource
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from recbole_llm.runtime.files import explained, file_sha256, whole_file

SCHEMA = 1
ROW_COLUMNS = ("user_id", "item_id", "rank", "target_position")
_STATUS = Path("/proc/self/status")
_PACKAGES = ("recbole_llm", "recbole", "torch", "transformers", "peft", "accelerate", "numpy", "pandas", "scipy")


def result_path(config) -> Path:
    """Where the JSON of this run goes."""
    return Path(config["result_dir"]) / result_name(config)


def result_name(of) -> str:
    """The JSON's name, of a configuration or a record; with a ``variant`` that name stands in it instead of the model's."""
    name = ("variant" in of and of["variant"]) or of["model"]
    return f"{of['dataset']}.{of['protocol']}.{file_name(name)}.seed{of['seed']}.json"


def failure_path(path: Path) -> Path:
    """Where a run that should have left a result at ``path`` says why it failed; gone once a result is written."""
    return path.with_name(path.name.removesuffix(".json") + ".failed.json")


def file_name(name: str) -> str:
    """A row's name with what file systems refuse (``/``, blanks ...) replaced by ``_``."""
    return re.sub(r"[^\w@=+,.\-\[\]]", "_", name)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that shape a result."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+changes`` if files differ; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=20).stdout
        dirty = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"],
                               capture_output=True, text=True, check=True, timeout=20).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+changes" if dirty.strip() else "")


def peak_memory_mb() -> float:
    """Peak memory of this process: the GPU's where one was used, else the resident set's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if _STATUS.exists():  # Linux: the mark that reset_peak_memory lowers
        mark = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if mark:
            return round(int(mark.group(1)) / 2**10, 1)
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def reset_peak_memory() -> None:
    """Start the peak afresh, so that a run's figure is its own and not that of an earlier run in this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _STATUS.with_name("clear_refs").write_text("5")  # Linux: VmHWM becomes the present resident set
    except OSError:
        return  # no such file here: the figure stays that of the whole process


def device_name(device) -> str:
    """The GPU's name, or the processor's architecture and the threads torch uses."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def write_result(
    path: str | os.PathLike, record: dict, rows: list[tuple], columns: tuple[str, ...] = ROW_COLUMNS
) -> Path:
    """Write the JSON and its rows, each whole or not at all.

    Args:
        path: the JSON's place; its folder is made.
        record: the fields of schema 1 less ``schema``, ``n_rows``, ``rows`` and ``rows_sha256``.
        rows: one tuple per test row, in the order of ``columns``.

    Raises:
        ValueError: a metric is not finite.
        OSError: the disk is full, say; the files of an earlier run are then untouched.
    """
    path = Path(path)
    bad = {name: value for name, value in record["metrics"].items() if not math.isfinite(value)}
    if bad:
        raise ValueError(f"{path}: metrics are not finite: {bad}; nothing was written")
    csv_path = path.with_name(path.name.removesuffix(".json") + ".rows.csv")
    full = {"schema": SCHEMA, **record, "n_rows": len(rows), "rows": csv_path.name}
    with explained(path, "set result_dir elsewhere"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as record_aside, whole_file(csv_path) as rows_aside:  # the rows are there before their record
            with open(rows_aside, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(rows)
            full["rows_sha256"] = file_sha256(rows_aside)
            record_aside.write_text(json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        failure_path(path).unlink(missing_ok=True)
    return path


def check_rows(path: Path, record: dict) -> Path:
    """The rows file of a record, which must be that of the same run; a record of an earlier version has no hash to say so.

    Raises:
        ValueError: it is missing, or another than the record's.
    """
    file = path.with_name(str(record.get("rows")))
    if not file.is_file():
        raise ValueError(f"{path}: its rows {file.name} are not beside it; run the model again")
    if "rows_sha256" in record and record["rows_sha256"] != file_sha256(file):
        raise ValueError(f"{path}: {file.name} beside it was edited, or is of another run, one that ended while it wrote its result; run the model again")
    return file


def count_of_rows(n_rows: int, n_test_rows: int | None) -> str:
    """``943 test rows``, or ``300 of 943 test rows`` of a sample; files of earlier versions do not say of how many."""
    of = f" of {n_test_rows:,}" if n_test_rows and n_test_rows > n_rows else ""
    return f"{n_rows:,}{of} test rows"


def _there(path: Path) -> str:
    """The three result files of a folder, or of the folder of a file that is not there, whose names are most like it."""
    folder = path if path.is_dir() else path.parent
    names = sorted(file.name for file in folder.glob("*.seed*.json") if not file.name.endswith((".failed.json", ".tuning.json")))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0)
    return f"of {len(names)} in {folder}/: {', '.join(near)}" if near else f"{folder}/ holds none: run a model first, or name another folder"


def read_result(path: str | os.PathLike) -> dict:
    """Read one result file.

    Raises:
        FileNotFoundError: there is no such file; names those that are most alike.
        ValueError: it is no JSON, or of another schema.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{path} is no result file (<dataset>.<protocol>.<model>.seed<seed>.json); {_there(Path(path))}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a result file ({error}); remove it or run the model again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise ValueError(f"{path} has schema {found!r}, this version reads {SCHEMA}; run the model again")
    return record

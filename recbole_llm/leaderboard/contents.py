"""Which result files of a folder may stand in one table.

Rows of one table share dataset, protocol, candidate hash and test rows; seeds of one row share configuration and data, and
each has one file. What does not fit is left out with its reason, never mixed in. A run that failed leaves ``<name>.failed.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recbole_llm.leaderboard.files import Stored, read_stored, result_files
from recbole_llm.results.place import differing
from recbole_llm.results.result_file import result_name


@dataclass
class Contents:
    """A folder's results for one table: ``kept`` by row name (seeds in order), failures, and what was left out, why."""

    kept: dict[str, list[Stored]]
    failed: list[dict]
    left_out: list[dict]


def load_board(folder: str | Path, dataset: str, protocol: str, sha256: str | None = None, prefer=()) -> Contents:
    """The rows of one table.

    Args:
        sha256: the candidate hash to keep, or a beginning that no other one has; None: the one that all files share.
        prefer: file names of a plan; where seeds of a row disagree in configuration, the group with one of these stays.

    Raises:
        ValueError: several candidate hashes and none chosen, or a beginning that several have; no row left.
    """
    failed = _failures(Path(folder), dataset, protocol)
    gone = {entry["file"].removesuffix(".failed.json") for entry in failed}
    stored, left_out = [], []
    prefix = f"{dataset}.{protocol}."
    for path in result_files(folder):
        if not path.name.startswith(prefix) or path.name.removesuffix(".json") in gone:
            continue
        try:
            entry = read_stored(path)
        except ValueError as error:
            if "has schema" in str(error) or "not a result file" in str(error):
                raise
            left_out.append({"file": path.name, "reason": str(error)})
            continue
        if (entry.record["dataset"], entry.record["protocol"]) == (dataset, protocol):
            stored.append(entry)
    stored = _one_hash(stored, sha256, set(prefer), left_out)
    stored = _one_row_set(stored, set(prefer), left_out)
    kept: dict[str, list[Stored]] = {}
    for entry in stored:
        kept.setdefault(entry.name, []).append(entry)
    for name, group in kept.items():
        kept[name] = _one_row(group, set(prefer), left_out)
    return Contents(kept, failed, sorted(left_out, key=lambda item: item["file"]))


def _failures(folder: Path, dataset: str, protocol: str) -> list[dict]:
    found = []
    for path in sorted(folder.glob(f"{dataset}.{protocol}.*.failed.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if (record["dataset"], record["protocol"]) == (dataset, protocol):
            entry = {key: record.get(key) for key in ("name", "model", "seed", "reason")}
            found.append(entry | {"file": path.name})
    return found


def _one_hash(stored: list[Stored], sha256: str | None, prefer: set, left_out: list) -> list[Stored]:
    """Keep the files of one candidate hash; the others are refused."""
    hashes = Counter(entry.sha256 for entry in stored)
    if sha256 is None and len(hashes) > 1:
        planned = {entry.sha256 for entry in stored if entry.path.name in prefer}
        if len(planned) != 1:
            groups = "; ".join(
                f"{str(found)[:12]}: {', '.join(e.path.name + e.other_rules for e in stored if e.sha256 == found)}"
                for found in hashes
            )
            raise ValueError(
                "the result files were measured on different candidates and cannot stand in one table: "
                f"{groups}. Choose "
                "one with --candidates=<first digits>, or run the others again"
            )
        (sha256,) = planned
    if sha256 is None:
        return stored
    matching = [str(found) for found in hashes if str(found).startswith(sha256)]
    if len(matching) > 1:
        raise ValueError(f"--candidates={sha256} is the beginning of several candidate hashes: {', '.join(h[:12] for h in matching)}; give more digits")
    kept = [entry for entry in stored if str(entry.sha256).startswith(sha256)]
    for entry in stored:
        if entry not in kept:
            reason = f"other candidates: sha256 {str(entry.sha256)[:12]}, the table's is {sha256[:12]}{entry.other_rules}"
            left_out.append({"file": entry.path.name, "reason": reason})
    if stored and not kept:
        raise ValueError(
            f"no result file has candidates of sha256 {sha256[:12]}; there are {', '.join(str(h)[:12] for h in hashes)}"
        )
    return kept


def _one_row_set(stored: list[Stored], prefer: set, left_out: list) -> list[Stored]:
    """Keep the files over the row set that a preferred file, or else most files, have."""
    if not stored:
        return stored
    keys = {entry.path: _row_key(entry.rows) for entry in stored}
    planned = [keys[entry.path] for entry in stored if entry.path.name in prefer]
    chosen = Counter(planned or keys.values()).most_common(1)[0][0]
    for entry in stored:
        if keys[entry.path] != chosen:
            left_out.append({"file": entry.path.name, "reason": "other test rows (user_id, item_id) than the table's"})
    kept = [entry for entry in stored if keys[entry.path] == chosen]
    if len(keys) > 1 and len(set(keys.values())) == len(keys) and not planned:
        raise ValueError(f"no two of {', '.join(path.name for path in keys)} share their test rows: nothing to compare")
    return kept


def _row_key(rows: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for column in ("user_id", "item_id"):
        digest.update("\n".join(rows[column].astype(str)).encode() + b"\0")
    return digest.hexdigest()


def _one_row(group: list[Stored], prefer: set, left_out: list) -> list[Stored]:
    """Seeds of a row agree in configuration and data, and have one file each: a preferred one, else one with the name that a run gives.

    Of several configurations stays the one with a preferred file, else the one with most seeds.
    """
    by_origin: dict[tuple, dict[int, Stored]] = {}
    for entry in sorted(group, key=lambda e: (e.path.name not in prefer, e.path.name != result_name(e.record), e.path.name)):
        seeds = by_origin.setdefault((entry.config_sha256, entry.record.get("data")), {})
        stays = seeds.setdefault(entry.record["seed"], entry)
        if stays is not entry:
            reason = f"seed {entry.record['seed']} of {entry.name} a second time, beside {stays.path.name}: remove one of the two"
            left_out.append({"file": entry.path.name, "reason": reason})
    groups = [list(seeds.values()) for seeds in by_origin.values()]
    kept = max(groups, key=lambda members: (any(m.path.name in prefer for m in members), len(members)))
    for members in groups:
        if members is not kept:
            what = f"another configuration or other data than the other seeds of {members[0].name}"
            left_out.extend({"file": m.path.name, "reason": f"{what}: {_differing(members[0], kept[0])}"} for m in members)
    return sorted(kept, key=lambda entry: entry.record["seed"])


def _differing(a: Stored, b: Stored) -> str:
    return differing(*({**entry.settings, "data hash": str(entry.record.get("data"))[:12]} for entry in (a, b)))

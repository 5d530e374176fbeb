"""A folder of result files -> one table as plain data: what every output format is written from.

The same folder and options give the same board, bit for bit; options of an earlier board are kept beside it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from recbole_llm import registry
from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.caveats import caveats
from recbole_llm.leaderboard.contents import Contents, load_board
from recbole_llm.leaderboard.files import Stored
from recbole_llm.leaderboard.published import published
from recbole_llm.leaderboard.summary import Table, summary
from recbole_llm.leaderboard.table import ALPHA, CONFIDENCE, all_pairs, build_column

FORMAT = 1


@dataclass
class Options:
    """How a table is made.

    Attributes:
        metric: what ranks the rows; None: the protocol's usual one.
        reference: name of the row that all others are compared with; None: the best RecBole model.
        resamples, seed: of the bootstrap.
        candidates: the candidate hash that the table is about, where a folder holds several.
        prefer: file names of the plan that this table was made for.
    """

    metric: str | None = None
    reference: str | None = None
    resamples: int = st.RESAMPLES
    seed: int = 0
    candidates: str | None = None
    prefer: list[str] = field(default_factory=list)


def board_path(folder: str | Path, dataset: str, protocol: str, suffix: str = "json") -> Path:
    return Path(folder) / f"{dataset}.{protocol}.leaderboard.{suffix}"


def stored_options(folder: str | Path, dataset: str, protocol: str) -> Options:
    """The options of the board in the folder, or the usual ones."""
    path = board_path(folder, dataset, protocol)
    if not path.is_file():
        return Options()
    try:
        return Options(**json.loads(path.read_text(encoding="utf-8"))["options"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a leaderboard of this version ({error}); remove it and report again") from error


def build_board(folder: str | Path, dataset: str, protocol: str, options: Options | None = None) -> dict:
    """The table of one dataset and protocol.

    Raises:
        FileNotFoundError: an empty folder.
        ValueError: a file of another schema, different candidates with none chosen, an unknown metric or reference.
    """
    options = options or Options()
    contents = load_board(folder, dataset, protocol, options.candidates, options.prefer)
    if not contents.kept and not contents.failed:
        raise ValueError(f"{folder} holds no result of dataset {dataset!r} and protocol {protocol!r}")
    board = {
        "leaderboard": FORMAT,
        "dataset": dataset,
        "protocol": protocol,
        "options": asdict(options),
        "confidence": CONFIDENCE,
        "alpha": ALPHA,
    }
    if contents.kept:
        board |= _measured(contents, protocol, options)
    else:
        board |= dict.fromkeys(("main", "reference", "n_test_rows", "candidates"))
        board |= {"metrics": [], "n_rows": 0, "n_users": 0, "rows": [], "warnings": []}
    board |= {"failed": contents.failed, "left_out": contents.left_out, "published": published(dataset, protocol)}
    return _plain(board)


def _measured(contents: Contents, protocol: str, options: Options) -> dict:
    names = list(contents.kept)
    groups = list(contents.kept.values())
    metrics = _metrics(protocol, groups, options)
    usual = registry.protocol(protocol).main_metric
    main = options.metric or (usual if usual in metrics else metrics[0])
    columns = {name: build_column(name, protocol, groups, options.resamples, options.seed) for name in metrics}
    value = np.nan_to_num(columns[main].values * columns[main].sign, nan=-np.inf)
    order = sorted(range(len(names)), key=lambda i: (-value[i], names[i]))
    pairs = {name: all_pairs(column) for name, column in columns.items()}
    reference, missing = _reference(options, names, groups, order, contents.failed)
    ranks = st.shared_ranks(columns[main].sign * pairs[main].differences, pairs[main].adjusted, ALPHA)
    table = Table(names, groups, columns, pairs, main, reference)
    rows = [summary(table, i, below) | {"rank": int(ranks[i])} for i, below in zip(order, [*order[1:], None], strict=True)]
    first = groups[0][0]
    frame = first.rows
    return {
        "metrics": metrics,
        "main": main,
        "reference": names[reference],
        "n_rows": len(frame),
        "n_test_rows": first.record.get("n_test_rows"),
        "n_users": int(frame["user_id"].nunique()),
        "candidates": first.record.get("candidates"),
        "rows": rows,
        "pairs": [
            [i, j, pairs[main].against(order[i], order[j])["p_holm"]]
            for i in range(len(order))
            for j in range(i + 1, len(order))
        ],
        "warnings": missing + caveats(columns[main], order, len(frame), groups),
    }


def _metrics(protocol: str, groups: list[list[Stored]], options: Options) -> list[str]:
    count = (groups[0][0].record.get("candidates") or {}).get("count") or math.inf
    labelled, known = registry.protocol(protocol).labelled, list(registry.protocol(protocol).metrics)
    if not labelled:
        known = [name for name in known if int(name.split("@")[1]) < count or name == "hit@1"]
    else:
        known = [name for name in known if any(name in entry.record["metrics"] for group in groups for entry in group)]
    if options.metric and options.metric not in known:
        if labelled:
            raise ValueError(f"metric {options.metric!r} is in no result file; there are {', '.join(known)}")
        st.ranking_values(np.array([1]), options.metric)  # raises where it is no ranking metric
        known.insert(0, options.metric)
    return known


def _reference(options: Options, names: list[str], groups, order: list[int], failed: list[dict]) -> tuple[int, list]:
    """(the row that all others are compared with, a warning where it is not the one asked for, whose runs failed)."""
    wanted = options.reference
    if wanted in names:
        return names.index(wanted), []
    classical = [i for i in order if groups[i][0].record.get("llm") is None]
    chosen = (classical or order)[0]
    if wanted is None:
        return chosen, []
    if wanted in [entry["name"] for entry in failed]:
        return chosen, [f"the reference {wanted} failed; rows are compared with {names[chosen]} instead"]
    raise ValueError(f"reference {wanted!r} is not a row of the table; there are {', '.join(names)}")


def _plain(value):
    """Numbers that JSON holds: nan becomes null, floats are kept to 10 digits so that files compare."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return value

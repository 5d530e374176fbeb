"""The space of a hyper-parameter search, and whose it is.

The space is YAML, with RecBole's kinds (choice, uniform, quniform, loguniform):

    algorithm: tpe            # tpe, random or exhaustive
    budget: 10                # trials of every row
    spaces:
      SASRec: {choice: {n_layers: [1, 2]}, loguniform: {learning_rate: [1.0e-4, 1.0e-2]}}
      LLM: {...}              # every LLM recommender without a space of its own
      Pop: {}                 # has nothing to tune, and says so
      BPR: hyper.test         # a file as RecBole's tuner reads it, beside this one: a line for each key, `learning_rate loguniform -8,0`

Bounds of loguniform are values, not their logarithms; RecBole's files hold exponents, which are read as such.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

from recbole_llm import registry
from recbole_llm.config.values import ConfigError, parse_value, read_yaml
from recbole_llm.leaderboard.entries import NOT_OF_A_ROW

ALGORITHMS = ("tpe", "random", "exhaustive")
BOUNDS = {"uniform": 2, "loguniform": 2, "quniform": 3}


def read_space(file: str | Path) -> dict:
    """A search space.

    Raises:
        ConfigError: an unknown algorithm or kind, bad bounds, no budget, a key that is the same for all rows, a file of
            RecBole's tuner that is not there or not readable.
    """
    space = read_yaml(file)
    problems = [
        f"{file}: unknown key {key!r}; a space has algorithm, budget, spaces"
        for key in space.keys() - {"algorithm", "budget", "spaces"}
    ]
    if space.get("algorithm", "tpe") not in ALGORITHMS:
        problems.append(f"{file}: algorithm must be one of {', '.join(ALGORITHMS)}, got {space.get('algorithm')!r}")
    if type(space.get("budget")) is not int or space["budget"] < 1:
        problems.append(f"{file}: budget must be an integer >= 1, the trials of every row, got {space.get('budget')!r}")
    spaces = dict(space.get("spaces") or {})
    for name, kinds in spaces.items():
        if isinstance(kinds, str):
            kinds, wrong = _recbole_space(Path(file).parent / kinds)
            spaces[name], problems = kinds, problems + wrong
        for kind, keys in (kinds or {}).items():
            for key, value in (keys or {}).items():
                if problem := NOT_OF_A_ROW.get(key) or _bad(kind, value):
                    problems.append(f"{file}: {name}: {key}: {problem}")
    if problems:
        raise ConfigError(problems)
    return {"algorithm": "tpe", **space, "spaces": spaces}


def _recbole_space(file: Path) -> tuple[dict, list[str]]:
    """The space {kind: {key: value}} that a text file of RecBole's `HyperTuning` describes, and what is wrong with the file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{file}: cannot be read ({error}); name a file of lines `key kind values`, or give the space as a mapping"]
    space: dict[str, dict] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key, kind, values = line.split(maxsplit=2)
            value = ast.literal_eval(values.strip() if kind == "choice" else f"[{values}]")
            value = [parse_value(one) if isinstance(one, str) else one for one in value]  # '[64,32]' is a list, as on the command line
            if kind == "loguniform":
                value = [math.exp(bound) for bound in value]
        except (ValueError, SyntaxError, TypeError, OverflowError):
            problems.append(f"{file}, line {number}: {line.strip()!r} is not `key kind values`, such as `learning_rate loguniform -8,0`")
            continue
        space.setdefault(kind, {})[key] = value
    return space, problems


def _bad(kind: str, value) -> str | None:
    if kind == "choice":
        return None if isinstance(value, list) and value else "choice needs a list of values"
    if kind not in BOUNDS:
        return f"unknown kind {kind!r}; use choice, {', '.join(BOUNDS)}"
    numbers = isinstance(value, list) and len(value) == BOUNDS[kind] and all(isinstance(v, (int, float)) for v in value)
    if not numbers or value[0] >= value[1] or (kind == "loguniform" and value[0] <= 0):
        return (
            f"{kind} needs {BOUNDS[kind]} numbers [low, high{', step' if kind == 'quniform' else ''}] with low < high"
        )
    return None


def space_of(entry, space: dict) -> dict:
    """The space of a row: by its name, its model, or ``LLM``.

    Raises:
        ConfigError: none of these is there.
    """
    spaces = space["spaces"] or {}
    names = [entry.name, entry.model] + (["LLM"] if registry.is_plugin_model(entry.model) else [])
    for name in names:
        if name in spaces:
            return spaces[name] or {}
    raise ConfigError(
        [f"tune: no space for {entry.name}; the budget is equal for all rows: add one, or '{entry.model}: {{}}'"]
    )

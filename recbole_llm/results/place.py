"""The place of a run's result: what is wrong with it is known before anything trains, and settings that it replaces are named."""

from __future__ import annotations

import json
from pathlib import Path

from recbole_llm import registry
from recbole_llm.config.values import NON_RESULT_KEYS
from recbole_llm.results.result_file import failure_path, file_name, read_result, result_path

NAME_BYTES = 255  # that file systems take
ASIDE = len(".") + len(".01234567")  # what runtime.files adds to a name while it writes


def place_problems(config) -> list[str]:
    """Lines for a ``result_dir`` or ``variant`` with which the result could not be written, or would pass for another model's."""
    problems, path, variant = [], result_path(config), config["variant"]
    there = next((one for one in path.parents if one.exists()), None)
    if there is not None and not there.is_dir():
        problems.append(f"result_dir: {there} is a file, not a folder; give another")
    size = len(failure_path(path).name.encode()) + ASIDE  # no file beside the result has a longer name
    if size > NAME_BYTES:
        problems.append(f"variant: file names made with it would have {size} bytes, file systems take {NAME_BYTES}; "
                        f"make it {size - NAME_BYTES} bytes shorter")  # fmt: skip
    name = file_name(variant or config["model"]).lower()  # in either case: some file systems tell no difference
    if name != config["model"].lower():
        models = [one for names in registry.available_models() for one in names if one.lower() == name]
        problems += [f"variant: {variant!r} names the model {one}, whose result files are named so; choose another, e.g. "
                     f"{config['model']}@{variant}" for one in models]  # fmt: skip
    return problems


def replaced(path: Path, record: dict) -> str | None:
    """What a warning says of a result at ``path`` that ``record`` replaces; None where there is none, or none of other settings."""
    if not path.is_file():
        return None
    try:
        old = read_result(path)
    except ValueError:  # no result of this version: nothing to compare
        return None
    found = differing(*(_settings(one) for one in (old, record)))
    return f"{path} is replaced, its settings against this run's: {found}; another variant or result_dir keeps both" if found else None


def _settings(record: dict) -> dict:
    """A record's configuration, what is measured beside training included, as JSON gives it back."""
    values = record.get("config") or {}
    return json.loads(json.dumps({key: value for key, value in values.items() if key not in NON_RESULT_KEYS}))


def differing(one: dict, other: dict) -> str:
    """The first five settings in which two configurations differ, in words; "" where they agree."""
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return ", ".join(f"{key} {one.get(key)!r} against {other.get(key)!r}" for key in keys[:5])

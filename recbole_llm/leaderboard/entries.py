"""The rows of a leaderboard as they are written, in a list of names or in YAML.

A row is a model or a *variant* of one: ``iLoRA@num_experts=8`` sets the key that it names (``K`` and ``r`` are short
for ``num_experts`` and ``lora_r``; several are joined by ``+``), a YAML entry ``{name: LLaRA@qwen, model: LLaRA,
llm_path: ...}`` sets whatever it lists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from recbole_llm import registry
from recbole_llm.config.values import ConfigError, parse_value
from recbole_llm.results import result_file

ALIASES = {"K": "num_experts", "r": "lora_r"}
NOT_OF_A_ROW = {  # a table compares its rows on these, or finds their files by them
    "seed": "is the same for all rows: give --seed or --seeds",
    "protocol": "is the same for all rows: give --protocol, or protocols in the YAML",
    "dataset": "is the same for all rows: give --dataset, or datasets in the YAML",
    "result_dir": "is one folder for all rows: give --result_dir, or settings in the YAML",
    "variant": "is the row's name: give it in the YAML, as {name: ..., model: ...}",
    "model": "is what stands before '@', or the key 'model' beside 'name' in the YAML",
}


@dataclass(frozen=True)
class Entry:
    """A row of the table: its name, its model, and the settings that are its own."""

    name: str
    model: str
    settings: dict = field(default_factory=dict)


def as_list(value) -> list:
    """``"a,b"``, ``["a", "b"]`` or ``"a"`` as a list; None as an empty one."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def parse_entries(models) -> list[Entry]:
    """The rows that a list of names and mappings describes.

    Raises:
        ConfigError: unknown models, settings that cannot be read or are no row's own, duplicates: all of them at once.
    """
    entries, problems = [], []
    for item in as_list(models):
        try:
            entry = _entry(item)
            registry.check_model(entry.model)
            problems += shared_problems(entry.settings, f"{entry.name}: ")
            entries.append(entry)
        except ValueError as error:
            problems += error.problems if isinstance(error, ConfigError) else [f"models: {error}"]
    seen: dict[str, Entry] = {}
    for entry in entries:
        key = result_file.file_name(entry.name).lower()
        if key in seen:
            problems.append(
                f"models: {entry.name!r} is listed twice (as {seen[key].name!r}); give each variant its own name"
            )
        seen[key] = entry
    if not entries and not problems:
        problems.append("models: none given; name at least one, e.g. --model=Random,SASRec,iLoRA")
    if problems:
        raise ConfigError(problems)
    return entries


def shared_problems(settings: dict, where: str) -> list[str]:
    """Lines for settings of some rows, told by ``where``, that a table has for all of its rows."""
    return [f"{where}{key}: {NOT_OF_A_ROW[key]}" for key in settings if key in NOT_OF_A_ROW]


def pick_models(listed, names) -> list:
    """The items of a YAML's list of models that ``names`` ask for; what it does not list is a row of its own.

    Args:
        names: rows' names, or models' names, which stand for all their variants in the list.

    Raises:
        ConfigError: an item of the list cannot be read.
    """
    items = [(item, _entry(item)) for item in as_list(listed)]
    chosen = []
    for name in as_list(names):
        mine = [item for item, entry in items if name in (entry.name, entry.model)]
        chosen += [item for item in mine or [name] if item not in chosen]
    return chosen


def _entry(item) -> Entry:
    if isinstance(item, dict):
        if "model" in item:
            own = {key: value for key, value in item.items() if key not in ("name", "model")}
            return Entry(str(item.get("name") or item["model"]), item["model"], own)
        if len(item) == 1:
            ((name, own),) = item.items()
            if own is None or isinstance(own, dict):
                return Entry(name, name.partition("@")[0], dict(own) if own else _inline(name))
        raise ConfigError([f"models: {item!r} is neither a name, nor 'name: {{settings}}', nor has a key 'model'"])
    return Entry(str(item), str(item).partition("@")[0], _inline(str(item)))


def _inline(name: str) -> dict:
    """Settings written in a name: ``iLoRA@K=8+gate_form=mlp``."""
    _, separator, text = name.partition("@")
    if not separator:
        return {}
    settings = {}
    for part in re.split(r"\+(?=[A-Za-z_]\w*=)", text):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(
                [f"models: {name!r}: what follows '@' is key=value, several joined by '+', or comes from YAML"]
            )
        key = ALIASES.get(key, key)
        settings[key] = parse_value(value, key)
    return settings

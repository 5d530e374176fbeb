"""What a leaderboard is going to run, checked to the last setting before anything trains.

A row is a model or a *variant* of one: ``iLoRA@num_experts=8`` sets the key that it names (``K`` and ``r`` are short
for ``num_experts`` and ``lora_r``; several are joined by ``+``), a YAML entry ``{name: LLaRA@qwen, model: LLaRA,
llm_path: ...}`` sets whatever it lists. A setting given for all rows reaches the models that know it; one that no model
knows is an error.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llm import registry
from recbole_llm.config.known_keys import known_keys, unknown_problems
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError, parse_value, read_yaml
from recbole_llm.crm.settings import check_crm
from recbole_llm.leaderboard.reuse import llm_keys
from recbole_llm.results import result_file

ALIASES = {"K": "num_experts", "r": "lora_r"}
DEFAULT_SEED = 2020
SPEC_KEYS = {
    "models",
    "datasets",
    "protocols",
    "seeds",
    "settings",
    "llm",
    "baselines",
    "reference",
    "metric",
    "resamples",
    "tune",
}


@dataclass(frozen=True)
class Entry:
    """A row of the table: its name, its model, and the settings that are its own."""

    name: str
    model: str
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training and evaluation: a row on a dataset under a protocol with a seed."""

    entry: Entry
    dataset: str
    protocol: str
    seed: int
    settings: dict
    config: object

    @property
    def path(self) -> Path:
        return result_file.result_path(self.config)

    @property
    def label(self) -> str:
        return f"{self.entry.name} on {self.dataset} ({self.protocol}), seed {self.seed}"


def read_spec(file: str | Path) -> dict:
    """A leaderboard's YAML.

    Raises:
        ConfigError: unknown keys.
    """
    spec = read_yaml(file)
    unknown = sorted(spec.keys() - SPEC_KEYS)
    if unknown:
        raise ConfigError(
            [f"{file}: unknown key {key!r}; a leaderboard has {', '.join(sorted(SPEC_KEYS))}" for key in unknown]
        )
    return spec


def as_list(value) -> list:
    """``"a,b"``, ``["a", "b"]`` or ``"a"`` as a list; None as an empty one."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def seed_list(seeds, first: int = DEFAULT_SEED) -> list[int]:
    """``3`` -> three seeds from ``first`` on; a list stays.

    Raises:
        ConfigError: no seed, a negative one, or one twice.
    """
    found = list(range(first, first + seeds)) if type(seeds) is int else [parse_value(str(s)) for s in as_list(seeds)]
    if not found or any(type(seed) is not int or seed < 0 for seed in found) or len(set(found)) < len(found):
        raise ConfigError([f"seeds: must be a number >= 1 or a list of different integers >= 0, got {seeds!r}"])
    return found


def parse_entries(models) -> list[Entry]:
    """The rows that a list of names and mappings describes.

    Raises:
        ConfigError: unknown models, settings that cannot be read, duplicates: all of them at once.
    """
    entries, problems = [], []
    for item in as_list(models):
        try:
            entry = _entry(item)
            registry.check_model(entry.model)
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


def make_plan(
    models, datasets, protocols=None, seeds=1, settings=None, llm=None, baselines=None, extra=None
) -> list[Run]:
    """All runs of a leaderboard, rows in the order given, seeds innermost.

    Args:
        models, datasets, protocols: lists or comma-separated names; seeds: a number or a list.
        settings: for every row; llm: for LLM recommenders; baselines: for RecBole's models.
        extra: row name -> settings found for it, e.g. by tuning.

    Raises:
        ConfigError: every problem of every row at once.
    """
    entries = parse_entries(models)
    settings = {k: v for k, v in (settings or {}).items() if k not in ("model", "dataset", "variant")}
    first, protocols = settings.pop("seed", DEFAULT_SEED), protocols or settings.pop("protocol", None)
    settings.pop("protocol", None)
    numbers = seed_list(seeds, first if type(first) is int else DEFAULT_SEED)
    problems, runs = [], []
    names = as_list(datasets)
    if not names:
        problems.append("datasets: none given; name at least one, e.g. --dataset=ml-100k")
    problems += _unknown_everywhere(
        entries, names[:1], {"settings": settings, "llm": llm or {}, "baselines": baselines or {}}
    )
    for dataset in names:
        for protocol in as_list(protocols) or ["candidates"]:
            for entry in entries:
                shared = {**settings, **((llm if registry.is_plugin_model(entry.model) else baselines) or {})}
                own = {**entry.settings, **((extra or {}).get(entry.name) or {})}
                try:
                    runs += _runs(entry, dataset, protocol, numbers, shared, own)
                except (ValueError, FileNotFoundError) as error:
                    lines = error.problems if isinstance(error, ConfigError) else [str(error)]
                    problems += [f"{entry.name}: {line}" for line in lines]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return runs


def _runs(entry: Entry, dataset: str, protocol: str, seeds: list[int], shared: dict, own: dict) -> list[Run]:
    known = known_keys(entry.model, dataset)
    if not registry.is_plugin_model(entry.model):
        known = known - llm_keys()  # known to a RecBole model, read by none
    given = {key: value for key, value in shared.items() if key in known} | own
    given |= {"protocol": protocol, "variant": None if entry.name == entry.model else entry.name}
    base = LLMConfig(entry.model, dataset, command_line={**given, "seed": seeds[0]})
    if registry.is_plugin_model(entry.model):
        check_crm(base)
    runs = []
    for seed in seeds:
        config = copy.copy(base)
        config.final_config_dict = {**base.final_config_dict, "seed": seed}
        runs.append(Run(entry, dataset, protocol, seed, {**given, "seed": seed}, config))
    return runs


def _unknown_everywhere(entries: list[Entry], datasets: list[str], groups: dict[str, dict]) -> list[str]:
    """Lines for shared settings that none of the models they are for knows."""
    problems = []
    if not datasets:
        return problems
    known = {entry.model: known_keys(entry.model, datasets[0]) for entry in entries}
    for group, values in groups.items():
        wanted = {"settings": (True, False), "llm": (True,), "baselines": (False,)}[group]
        those = [keys for model, keys in known.items() if registry.is_plugin_model(model) in wanted]
        if not those:  # a group for rows that are not in this table (--model picks some of a YAML's)
            continue
        every = set().union(*those)
        for key in values:
            if key not in every:
                problems += unknown_problems({key: values[key]}, every)
    return problems

"""What a leaderboard is going to run, checked to the last setting before anything trains.

A setting given for all rows reaches the models that know it; one that no model knows is an error. entries.py reads the rows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from recbole_llm import registry
from recbole_llm.config.known_keys import known_keys, unknown_problems
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import recipe_settings
from recbole_llm.config.values import ConfigError, parse_value, read_yaml
from recbole_llm.crm.settings import check_crm
from recbole_llm.leaderboard.entries import NOT_OF_A_ROW, Entry, as_list, parse_entries, shared_problems
from recbole_llm.leaderboard.reuse import llm_keys
from recbole_llm.results import result_file
from recbole_llm.results.place import place_problems

DEFAULT_SEED = 2020
RECIPES_ROWS = ("load_col", "threshold", "test_sample_size", "n_candidates")  # what a recipe says of rows and columns: for baselines too
SPEC_KEYS = set("models datasets protocols seeds settings llm baselines reference metric resamples tune".split())


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
        raise ConfigError([f"{file}: unknown key {key!r}; a leaderboard has {', '.join(sorted(SPEC_KEYS))}" for key in unknown])
    return spec


def seed_list(seeds, first: int = DEFAULT_SEED) -> list[int]:
    """``3`` or ``"3"`` -> three seeds from ``first`` on; a list, or ``"1,2"``, stays.

    Raises:
        ConfigError: no seed, a negative one, or one twice; ``first`` is no seed.
    """
    problems, number = [], parse_value(seeds) if isinstance(seeds, str) and "," not in seeds else seeds
    if type(first) is not int or first < 0:
        problems, first = [f"seed: must be an integer >= 0, got {first!r}; several are given as --seeds=1,2,3"], 0
    found = list(range(first, first + number)) if type(number) is int else [parse_value(str(s)) for s in as_list(number)]
    if not found or any(type(seed) is not int or seed < 0 for seed in found) or len(set(found)) < len(found):
        problems.append(f"seeds: must be a number >= 1 or a list of different integers >= 0, got {seeds!r}")
    if problems:
        raise ConfigError(problems)
    return found


def make_plan(
    models, datasets, protocols=None, seeds=1, settings=None, llm=None, baselines=None, extra=None
) -> list[Run]:
    """All runs of a leaderboard, rows in the order given, seeds innermost.

    Args:
        models: a list or comma-separated names, as :func:`~recbole_llm.leaderboard.entries.parse_entries` takes them.
        datasets: a list or comma-separated names.
        protocols: a list or comma-separated names.
        seeds: a number or a list.
        settings: for every row.
        llm: settings for LLM recommenders.
        baselines: settings for RecBole's models.
        extra: row name -> settings found for it, e.g. by tuning.

    Raises:
        ConfigError: every problem of every row at once.
    """
    entries = parse_entries(models)
    settings = {k: v for k, v in (settings or {}).items() if k not in ("model", "dataset")}
    first, protocols = settings.pop("seed", DEFAULT_SEED), protocols or settings.pop("protocol", None)
    settings.pop("protocol", None)
    runs, problems = [], [] if settings.pop("variant", None) is None else [f"variant: {NOT_OF_A_ROW['variant']}"]
    problems += shared_problems(llm or {}, "llm: ") + shared_problems(baselines or {}, "baselines: ")
    try:
        numbers = seed_list(seeds, first)
    except ConfigError as error:
        numbers, problems = [DEFAULT_SEED], error.problems + problems
    names = as_list(datasets)
    if not names:
        problems.append("datasets: none given; name at least one, e.g. --dataset=ml-100k")
    problems += _unknown_everywhere(
        entries, names[:1], {"settings": settings, "llm": llm or {}, "baselines": baselines or {}}
    )
    for dataset in names:
        try:
            recipe = _of_recipes(entries, dataset, {**settings, **(llm or {})}.get("recipe"))
        except ConfigError as error:
            problems += error.problems
            continue
        for protocol in as_list(protocols) or recipe.pop("protocol", None) or ["candidates"]:
            for entry in entries:
                shared = {**recipe, **settings, **((llm if registry.is_plugin_model(entry.model) else baselines) or {})}
                own = {**entry.settings, **((extra or {}).get(entry.name) or {})}
                try:
                    runs += _runs(entry, dataset, protocol, numbers, shared, own)
                except (ValueError, FileNotFoundError) as error:
                    lines = error.problems if isinstance(error, ConfigError) else [str(error)]
                    problems += [f"{entry.name}: {line}" for line in lines]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return runs


def _of_recipes(entries: list[Entry], dataset: str, recipe) -> dict:
    """What the recipes of a table's LLM rows say of its rows, for all of them, and "protocol": those that they are for.

    Raises:
        ConfigError: two recipes say different things, or there is none of a model.
    """
    found: dict = {}
    for model in dict.fromkeys(entry.model for entry in entries if registry.is_plugin_model(entry.model)):
        own = recipe_settings(recipe, model, dataset)
        for key in RECIPES_ROWS:
            if key in own and found.setdefault(key, own[key]) != own[key]:
                raise ConfigError([f"{key}: recipes of {dataset} have {found[key]!r} and {own[key]!r} ({model}); set it for all rows"])
        if "protocol" in own:
            found.setdefault("protocol", [])
            found["protocol"] += [own["protocol"]] if own["protocol"] not in found["protocol"] else []
    return found


def _runs(entry: Entry, dataset: str, protocol: str, seeds: list[int], shared: dict, own: dict) -> list[Run]:
    known = known_keys(entry.model, dataset)
    if not registry.is_plugin_model(entry.model):
        known = known - llm_keys()  # known to a RecBole model, read by none
    given = {key: value for key, value in shared.items() if key in known} | own
    given |= {"protocol": protocol, "variant": None if entry.name == entry.model else entry.name}
    base = LLMConfig(entry.model, dataset, command_line={**given, "seed": seeds[0]})
    if problems := place_problems(base):
        raise ConfigError(problems)
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

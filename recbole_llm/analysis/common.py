"""What the analyses share: runs that are found again, and what a table says of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

import numpy as np

from recbole_llm import registry
from recbole_llm.config.known_keys import without_others
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError, parse_value, plain_values, read_yaml
from recbole_llm.leaderboard import reuse
from recbole_llm.leaderboard.files import read_stored
from recbole_llm.leaderboard.table import build_column
from recbole_llm.quick_start import run_recbole_llm
from recbole_llm.results.result_file import read_result, result_path
from recbole_llm.training.load_run import load_data_and_model

RESAMPLES = 10_000  # of intervals


@dataclass(frozen=True)
class Case:
    """One row of a figure: what it is called, its model, the settings that make it what it is, and its place on the axis."""

    label: str
    model: str
    settings: dict = field(default_factory=dict)
    x: float | None = None


@dataclass
class Request:
    """What the command line asks for, whichever the analysis.

    Attributes:
        models: None leaves the choice to the analysis.
        settings: ``--key=value`` for every run; a case's own go over them.
    """

    dataset: str
    models: list[str] | None = None
    seeds: Sequence[int] = (2020,)
    config_files: list[str] | None = None
    settings: dict = field(default_factory=dict)

    def sets(self, key: str) -> bool:
        """Whether the user sets a key, on the command line or in a file."""
        return key in self.settings or any(key in read_yaml(file) for file in self.config_files or ())

    def config(self, case: Case, seed: int) -> LLMConfig:
        """A run's configuration, filed under its model, its label and the hash of its settings in ``analysis/``.

        Raises:
            ConfigError: everything that is wrong in it.
        """
        given = self._given(case, seed)
        config = LLMConfig(case.model, self.dataset, command_line=given)
        config["result_dir"] = os.path.join(config["result_dir"], "analysis")
        config["variant"] = f"{case.label}-{settings_key(config)}"
        return config

    def result(self, case: Case, seed: int, weights: bool = False) -> Path:
        """The result file of a run: one that is there and would come out the same now, or made now.

        Args:
            case: the case.
            seed: the run's seed.
            weights: whether its checkpoint must be there too.
        """
        config = self.config(case, seed)
        path = result_path(config)
        if path.is_file():
            record = read_result(path)
            why = reuse.differences(record, reuse.expected(config))
            if weights and not checkpoint_of(path, record):
                why.append("its checkpoint is gone")
            if not why:
                getLogger().info(f"{path} is used again")
                return path
            getLogger().info(f"{path} is made again: {'; '.join(why[:5])}")
        given = {**self._given(case, seed), "result_dir": config["result_dir"], "variant": config["variant"]}
        return Path(run_recbole_llm(case.model, self.dataset, command_line=given)["result_file"])

    def _given(self, case: Case, seed: int) -> dict:
        """A case's own settings over those for every run, of which each model takes what it knows."""
        shared = {key: value for file in self.config_files or () for key, value in read_yaml(file).items()} | self.settings
        return {**without_others(case.model, self.dataset, shared), **case.settings, "seed": seed}

    def trained(self, case: Case, seed: int) -> tuple:
        """(config, model, dataset, train, valid, test) of a run with its best weights, trained where there is none."""
        path = self.result(case, seed, weights=True)
        found = load_data_and_model(checkpoint_of(path, read_result(path)))
        found[1].eval()
        return found


def settings_key(config) -> str:
    """Eight digits of the sha256 over all settings that change a result, the seed aside."""
    values = reuse.comparable(plain_values(config), registry.is_plugin_model(config["model"]))
    values = {key: value for key, value in values.items() if key != "seed"}
    return digest([values, config["test_sample_size"]])


def digest(values) -> str:
    """Eight digits of a sha256 over plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def checkpoint_of(path: Path, record: dict) -> Path | None:
    """The folder of the weights that a result file tested, if it is still there."""
    folder = path.parent / record["checkpoint"] if record.get("checkpoint") else None
    return folder if folder is not None and folder.is_dir() else None


def as_values(text, name: str) -> list:
    """``250,0.1,null`` (or what the command line makes of it) as a list.

    Raises:
        ConfigError: a value stands twice, or there is none.
    """
    parts = text.split(",") if isinstance(text, str) else text if isinstance(text, (list, tuple)) else [text]
    found = [parse_value(part.strip()) if isinstance(part, str) else part for part in parts]
    if not found or len(set(map(repr, found))) < len(found):
        raise ConfigError([f"{name}: give one or more values, each once, e.g. --{name}=1,2,4; got {text!r}"])
    return found


@dataclass
class Outcome:
    """Finished runs: the cases with their result files, seeds innermost, and a row of numbers for each case."""

    protocol: str
    metric: str
    rows: list[dict]
    files: list[Path]


def run_all(request: Request, cases: list[Case], metric: str | None = None, against: int | None = None) -> Outcome:
    """Run every case with every seed; all settings are checked before anything trains.

    Args:
        metric: of the table; None: the protocol's main one.
        against: the case that the others are compared with (paired over the same users and seeds).

    Returns:
        an :class:`Outcome` whose rows hold ``label, model, x, seeds, n, <metric>, low, high, sd`` (mean over seeds, 95% interval
        over users, deviation over seeds), ``difference, p`` where there is a reference, ``seconds_train``,
        ``seconds_per_row`` and, of generated answers, ``valid_ratio`` and ``hit@1_all``.

    Raises:
        ConfigError: everything wrong in any case.
    """
    problems, configs = [], []
    for case in cases:
        try:
            configs.append(request.config(case, request.seeds[0]))
        except ValueError as error:
            lines = error.problems if isinstance(error, ConfigError) else [str(error)]
            problems += [f"{case.label}: {line}" for line in lines]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    files = [[request.result(case, seed) for seed in request.seeds] for case in cases]
    groups = [[read_stored(path) for path in paths] for paths in files]
    protocol = configs[0]["protocol"]
    metric = metric or registry.protocol(protocol).main_metric
    column = build_column(metric, protocol, groups, RESAMPLES, seed=0)
    rows = []
    for i, (case, group) in enumerate(zip(cases, groups, strict=True)):
        low, high, _ = column.interval(i)
        row = {"label": case.label, "model": case.model, "x": case.x, "seeds": len(group), "n": len(group[0].rows),
               metric: float(column.values[i]), "low": low, "high": high, "sd": _deviation(column.per_seed[i])}  # fmt: skip
        if against is not None:
            found = column.compare(i, against) if i != against else {"difference": 0.0, "p": None}
            row |= {"difference": found["difference"], "p": found["p"]}
        rows.append(row | _beside([entry.record for entry in group]))
    return Outcome(protocol, metric, rows, [path for paths in files for path in paths])


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _beside(records: list[dict]) -> dict:
    """Cost, and what was generated, as means over seeds."""
    found = {
        "seconds_train": float(np.mean([r["seconds"]["train"] for r in records])),
        "seconds_per_row": float(np.mean([r["seconds"]["evaluate"] / max(1, r["n_rows"]) for r in records])),
    }
    answers = [r["generation"] for r in records if r.get("generation")]
    for name in ("valid_ratio", "hit@1_all") if answers else ():
        found[name] = float(np.mean([a[name] for a in answers]))
    return found

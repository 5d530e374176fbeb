"""Hyper-parameter search of every row before it is ranked: the same number of trials each, judged on validation alone.

search_space.py says what a space is. The search is hyperopt's, as in RecBole's own tuner, whose files of spaces it reads; Optuna
would be a second library for the same. A trial trains with the plan's first
seed and never reads the test rows (but under RecLoRA's ``recipe: released``); it is kept in ``<result>.tuning.json``, so that
a killed search goes on: hyperopt would resume from a pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from itertools import product
from logging import getLogger
from pathlib import Path

from recbole_llm import fit
from recbole_llm.config.known_keys import known_keys
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard import reuse
from recbole_llm.leaderboard.plan import Run
from recbole_llm.leaderboard.search_space import read_space, space_of
from recbole_llm.runtime.files import write_text


class AllTrialsFailed(ValueError):
    """No trial of a row gave a validation score."""


@dataclass
class Tuned:
    """What the search found: settings by row name, by (row, dataset, protocol) the record shown in the table, and the
    error of each row whose trials all failed."""

    settings: dict[str, dict] = field(default_factory=dict)
    records: dict[tuple, dict] = field(default_factory=dict)
    failed: dict[str, ValueError] = field(default_factory=dict)


def tune_rows(runs: list[Run], file: str | Path, rerun: bool = False) -> Tuned:
    """Search for every row of a plan, on its first dataset, protocol and seed.

    Args:
        runs: the plan.
        file: the search space.
        rerun: do not reuse trials of an earlier search.

    Raises:
        ConfigError: before any trial: bad spaces, rows without one, keys that a model does not know, hyperopt missing.
    """
    space = read_space(file)
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.entry.name, run)
    if len({(run.dataset, run.protocol) for run in runs}) > 1:
        raise ConfigError(["tune: one dataset and one protocol at a time; best settings of one need not suit another"])
    problems, spaces = [], {}
    for name, run in first.items():
        try:
            spaces[name] = space_of(run.entry, space)
            known = known_keys(run.entry.model, run.dataset)
            keys = [key for kinds in spaces[name].values() for key in kinds]
            if space["algorithm"] == "exhaustive" and set(spaces[name]) - {"choice"}:
                problems.append(f"tune: exhaustive search takes choices only, got {', '.join(spaces[name])} for {name}")
            problems += [f"tune: {name}: {key}: not a setting of {run.entry.model}" for key in keys if key not in known]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if space["algorithm"] != "exhaustive":
        _hyperopt()
    found = Tuned()
    for name, run in first.items():
        try:
            settings, record = _search(run, spaces[name], space["algorithm"], space["budget"], rerun)
        except AllTrialsFailed as error:  # this row is shown as failed; the others go on
            getLogger().error(str(error))
            found.failed[name] = error
            continue
        found.settings[name] = settings
        found.records[name, run.dataset, run.protocol] = record | {"file": Path(file).name}
    return found


def _search(run: Run, space: dict, algorithm: str, budget: int, rerun: bool) -> tuple[dict, dict]:
    """(best settings, record for the table) of one row."""
    base = {"algorithm": algorithm, "budget": budget}
    if not any(space.values()):
        return {}, base | {"trials": 0, "settings": {}, "valid_score": None}
    trials = Trials(run, rerun)
    suggest = {"exhaustive": _grid}.get(algorithm, _hyperopt_search)
    suggest(space, budget, trials, algorithm, run.seed)
    scored = [trial for trial in trials.done if trial["score"] is not None]
    if not scored:
        raise AllTrialsFailed(
            f"tune: every trial of {run.entry.name} failed, the last with: {trials.done[-1]['error']} ({trials.path} has them all; "
            "failed trials are tried again at the next call)"
        )
    best = max(scored, key=lambda trial: trial["score"] if trial["bigger"] else -trial["score"])
    getLogger().info(
        f"tuned {run.entry.name}: {best['settings']}, valid {best['score']} after {len(trials.done)} trials"
    )
    return best["settings"], base | {
        "trials": len(trials.done),
        "settings": best["settings"],
        "valid_score": best["score"],
    }


class Trials:
    """Trials of one row, each kept on disk as soon as it is done; one that gave a score is not done again, unless ``rerun``."""

    def __init__(self, run: Run, rerun: bool = False):
        self.run = run
        self.path = run.path.with_name(run.path.name.removesuffix(".json") + ".tuning.json")
        identity = json.dumps(reuse.expected(run.config), sort_keys=True, default=str)
        self.identity = hashlib.sha256(identity.encode()).hexdigest()
        self.kept: list[dict] = []
        if self.path.is_file() and not rerun:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored.get("identity") == self.identity:
                self.kept = [trial for trial in stored["trials"] if trial["score"] is not None]
        self.done: list[dict] = []

    def score(self, settings: dict) -> dict:
        """Train with ``settings`` and return the trial: settings, validation score, whether bigger is better, error."""
        known = next((trial for trial in self.kept if trial["settings"] == settings), None)
        trial = known or self._train(settings)
        self.done.append(trial)
        if known is None:
            self.kept.append(trial)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            record = {"schema": 1, "identity": self.identity, "trials": self.kept}
            write_text(self.path, json.dumps(record, indent=1) + "\n", "set result_dir elsewhere")
        return trial

    def _train(self, settings: dict) -> dict:
        try:
            config = LLMConfig(self.run.entry.model, self.run.dataset, command_line={**self.run.settings, **settings})
            fitted = fit.fit(config)
            score, bigger = float(fitted.best_valid_score), bool(config["valid_metric_bigger"])
            return {
                "settings": settings,
                "score": score if math.isfinite(score) else None,
                "bigger": bigger,
                "error": None,
            }
        except Exception as error:  # a bad corner of the space ends its trial alone, as a failed row does
            getLogger().warning(f"a trial of {self.run.entry.name} with {settings} failed: {error}")
            return {"settings": settings, "score": None, "bigger": True, "error": str(error)[:300]}


def _grid(space: dict, budget: int, trials: Trials, algorithm: str, seed: int) -> None:
    """Every combination of the choices, in order, up to the budget."""
    keys = list(space["choice"])
    for values in list(product(*space["choice"].values()))[:budget]:
        trials.score(dict(zip(keys, values, strict=True)))


def _hyperopt_search(space: dict, budget: int, trials: Trials, algorithm: str, seed: int) -> None:
    """Hyperopt's TPE or random search; the same seed proposes the same first trials again."""
    import numpy as np

    hyperopt = _hyperopt()
    expressions, steps = {}, {}
    for kind, keys in space.items():
        for key, value in (keys or {}).items():
            arguments = [math.log(v) for v in value] if kind == "loguniform" else value
            expressions[key] = (
                hyperopt.hp.choice(key, value) if kind == "choice" else getattr(hyperopt.hp, kind)(key, *arguments)
            )
            if kind == "quniform" and all(float(v).is_integer() for v in value):
                steps[key] = int

    def objective(settings: dict) -> dict:
        settings = {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}  # hyperopt makes tuples of lists
        plain = {key: steps.get(key, lambda v: v)(getattr(v, "item", lambda v=v: v)()) for key, v in settings.items()}
        trial = trials.score(plain)
        if trial["score"] is None:
            return {"status": hyperopt.STATUS_FAIL}
        return {"status": hyperopt.STATUS_OK, "loss": -trial["score"] if trial["bigger"] else trial["score"]}

    algorithms = {"tpe": hyperopt.tpe.suggest, "random": hyperopt.rand.suggest}
    try:
        hyperopt.fmin(
            objective,
            expressions,
            algo=algorithms[algorithm],
            max_evals=budget,
            rstate=np.random.default_rng(seed),
            show_progressbar=False,
            verbose=False,
        )
    except hyperopt.exceptions.AllTrialsFailed:
        getLogger().warning(f"all trials of {trials.run.entry.name} failed")


def _hyperopt():
    try:
        import hyperopt
    except ImportError as error:
        raise ConfigError(
            [f"tune: needs hyperopt ({error}); pip install 'recbole_llm[tune]', or algorithm: exhaustive"]
        ) from error
    return hyperopt

"""Tuning: equal budgets, validation only, kept on disk, clear errors. Hyperopt's own search where it is installed."""

import json
import sys
from types import SimpleNamespace

import pytest

from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard import tune
from recbole_llm.leaderboard.plan import make_plan
from tests import tiny

SPACE = """
algorithm: {algorithm}
budget: 3
spaces:
  Pop: {{}}
  BPR: {{choice: {{embedding_size: [8, 16, 32, 64]}}}}
"""


@pytest.fixture
def runs(tiny_data, tiny_llm, tmp_path):
    return make_plan("Pop,BPR", "tiny", None, 2, tiny.settings(tiny_data, tiny_llm, tmp_path))


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.format(algorithm="exhaustive"))
    return file


@pytest.fixture
def trained(monkeypatch):
    """Stands in for training: the validation score is best at embedding_size 16; evaluating the test rows "
    "would raise."""
    seen = []

    def fit(config, saved=True):
        seen.append((config["model"], config["embedding_size"], config["seed"]))
        return SimpleNamespace(best_valid_score=1 / (1 + abs(config["embedding_size"] - 16)))

    monkeypatch.setattr(tune.fit, "fit", fit)
    return seen


def test_every_row_gets_its_budget_and_the_best_validation_score_wins(runs, space, trained):
    found = tune.tune_rows(runs, space)
    assert trained == [("BPR", 8, 2020), ("BPR", 16, 2020), ("BPR", 32, 2020)]
    assert found.settings == {"Pop": {}, "BPR": {"embedding_size": 16}}
    assert found.records["BPR", "tiny", "candidates"] == {
        "algorithm": "exhaustive",
        "budget": 3,
        "trials": 3,
        "settings": {"embedding_size": 16},
        "valid_score": 1.0,
        "file": "space.yaml",
    }
    assert found.records["Pop", "tiny", "candidates"]["trials"] == 0


def test_a_killed_search_goes_on_with_the_trials_that_are_on_disk(runs, space, trained):
    tune.tune_rows(runs, space)
    trained.clear()
    assert tune.tune_rows(runs, space).settings["BPR"] == {"embedding_size": 16} and trained == []
    path = runs[-1].path.with_name("tiny.candidates.BPR.seed2020.tuning.json")
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"trials": stored["trials"][:1]}))
    tune.tune_rows(runs, space)
    assert [size for _, size, _ in trained] == [16, 32]
    trained.clear()
    path.write_text(json.dumps(stored | {"identity": "of another configuration"}))
    tune.tune_rows(runs, space)
    assert len(trained) == 3


def test_a_trial_that_fails_ends_alone(runs, space, monkeypatch):
    def fit(config, saved=True):
        if config["embedding_size"] == 16:
            raise FloatingPointError("not finite")
        return SimpleNamespace(best_valid_score=float(config["embedding_size"]))

    monkeypatch.setattr(tune.fit, "fit", fit)
    assert tune.tune_rows(runs, space).settings["BPR"] == {"embedding_size": 32}


def test_a_row_without_a_space_is_an_error_and_so_are_unknown_keys(runs, tmp_path, trained):
    file = tmp_path / "bad.yaml"
    file.write_text("algorithm: exhaustive\nbudget: 2\nspaces:\n  BPR: {choice: {embeding_size: [8]}}\n")
    with pytest.raises(ConfigError) as caught:
        tune.tune_rows(runs, file)
    assert (
        "no space for Pop" in str(caught.value)
        and "embeding_size: not a setting of BPR" in str(caught.value)
        and not trained
    )


def test_an_exhaustive_search_of_a_range_is_refused_before_any_trial(runs, tmp_path, trained):
    file = tmp_path / "bad.yaml"
    spaces = "  BPR: {choice: {embedding_size: [8]}}\n  Pop: {uniform: {learning_rate: [0.1, 0.2]}}\n"
    file.write_text("algorithm: exhaustive\nbudget: 2\nspaces:\n" + spaces)
    with pytest.raises(ConfigError, match="exhaustive search takes choices only, got uniform for Pop"):
        tune.tune_rows(runs, file)
    assert not trained


def test_without_hyperopt_the_extra_is_named(runs, space, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "hyperopt", None)
    space.write_text(SPACE.format(algorithm="tpe"))
    with pytest.raises(ConfigError, match="recbole_llm\\[tune\\]"):
        tune.tune_rows(runs, space)
    assert trained == []


def test_hyperopt_searches_with_the_same_budget_and_proposes_the_same_again(runs, space, trained):
    pytest.importorskip("hyperopt")
    space.write_text(SPACE.format(algorithm="tpe"))
    found = tune.tune_rows(runs, space)
    assert found.records["BPR", "tiny", "candidates"]["trials"] == 3 and found.settings["BPR"]["embedding_size"] in (
        8,
        16,
        32,
        64,
    )
    first = list(trained)
    trained.clear()
    assert tune.tune_rows(runs, space).settings == found.settings and trained == [] and len(first) == 3


def test_choices_that_are_lists_are_found_again(tiny_data, tiny_llm, tmp_path, monkeypatch):
    pytest.importorskip("hyperopt")
    file = tmp_path / "space.yaml"
    file.write_text("algorithm: random\nbudget: 2\nspaces:\n  Pop: {}\n  NeuMF: {choice: {mlp_hidden_size: [[64, 32], [32, 16]]}}\n")
    runs = make_plan("Pop,NeuMF", "tiny", None, 1, tiny.settings(tiny_data, tiny_llm, tmp_path))
    seen = []
    monkeypatch.setattr(tune.fit, "fit", lambda config, saved=True: seen.append(config["mlp_hidden_size"]) or SimpleNamespace(best_valid_score=0.5))
    tune.tune_rows(runs, file)
    first = len(seen)
    assert first and all(type(value) is list for value in seen)
    tune.tune_rows(runs, file)
    assert len(seen) == first


def test_failed_trials_are_tried_again_and_rerun_tries_all(runs, space, trained, monkeypatch):
    good = tune.fit.fit

    def fit(config, saved=True):
        if config["embedding_size"] == 32:
            raise RuntimeError("out of memory")
        return good(config)

    monkeypatch.setattr(tune.fit, "fit", fit)
    tune.tune_rows(runs, space)
    monkeypatch.setattr(tune.fit, "fit", good)
    trained.clear()
    assert tune.tune_rows(runs, space).records["BPR", "tiny", "candidates"]["trials"] == 3
    assert [size for _, size, _ in trained] == [32]
    tune.tune_rows(runs, space)
    assert len(trained) == 1
    tune.tune_rows(runs, space, rerun=True)
    assert [size for _, size, _ in trained] == [32, 8, 16, 32]

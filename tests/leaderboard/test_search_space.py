"""A space that cannot be searched is refused with its reason."""

import pytest

from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard import search_space


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("budget: 0\nspaces: {}", "budget must be"),
        ("budget: 1\nalgorithm: bayes\nspaces: {}", "algorithm must be one of"),
        ("budget: 1\nspaces: {BPR: {uniform: {a: [2, 1]}}}", "uniform needs 2 numbers"),
        ("budget: 1\nspaces: {BPR: {normal: {a: [1]}}}", "unknown kind 'normal'"),
        ("budget: 1\nspace: {}", "unknown key 'space'"),
    ],
)
def test_bad_spaces(tmp_path, text, complaint):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        search_space.read_space(file)


def test_the_shipped_space_is_readable():
    from recbole_llm.config.properties import properties_dir

    for file in (properties_dir() / "hyper").glob("*.yaml"):
        assert search_space.read_space(file)["budget"] >= 1

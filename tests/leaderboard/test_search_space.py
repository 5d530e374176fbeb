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
        ("budget: 1\nspaces: {BPR: {choice: {seed: [1, 2]}}}", "BPR: seed: is the same for all rows"),
        ("budget: 1\nspace: {}", "unknown key 'space'"),
        ("budget: 1\nspaces: {BPR: none.hyper}", r"none\.hyper: cannot be read"),
        ("budget: 1\nspaces: {BPR: space.yaml}", r"space\.yaml, line 1: 'budget: 1' is not `key kind values`"),
    ],
)
def test_bad_spaces(tmp_path, text, complaint):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        search_space.read_space(file)


def test_a_file_of_recboles_tuner_is_the_space_that_it_searches(tmp_path):
    """RecBole's own reader is the reference: the same kinds, bounds of loguniform as exponents."""
    from hyperopt.pyll.base import as_apply, dfs
    from recbole.trainer import HyperTuning

    (tmp_path / "hyper.test").write_text(
        "learning_rate loguniform -8,0\nembedding_size choice [64, 96]\n\ntrain_batch_size quniform 128,512,64\nmlp choice ['[64]','[32,16]']\nreg uniform 0, 1\n"
    )
    (tmp_path / "space.yaml").write_text("budget: 2\nspaces: {BPR: hyper.test, Pop: {}}\n")
    found = search_space.read_space(tmp_path / "space.yaml")["spaces"]
    assert found == {
        "BPR": {
            "loguniform": {"learning_rate": pytest.approx([0.00033546, 1.0], rel=1e-4)},
            "choice": {"embedding_size": [64, 96], "mlp": [[64], [32, 16]]},
            "quniform": {"train_batch_size": [128, 512, 64]},
            "uniform": {"reg": [0, 1]},
        },
        "Pop": {},
    }
    own = HyperTuning._build_space_from_file(str(tmp_path / "hyper.test"))
    rate = [node.obj for node in dfs(as_apply(own["learning_rate"])) if getattr(node, "name", "") == "literal"]
    assert own.keys() == {key for keys in found["BPR"].values() for key in keys} and {-8.0, 0.0} <= set(rate)


def test_the_shipped_space_is_readable():
    from recbole_llm.config.properties import properties_dir

    for file in (properties_dir() / "hyper").glob("*.yaml"):
        assert search_space.read_space(file)["budget"] >= 1

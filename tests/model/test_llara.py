from recbole_llm.model.llara import LLaRA
from tests.model.contract import ModelContract


class TestLLaRA(ModelContract):
    name = "LLaRA"
    settings = {"curriculum": "none"}


def test_curriculum_is_the_share_of_steps_done():
    config = {"curriculum": "linear", "recipe": "paper", "epochs": 5}
    assert [LLaRA.hybrid_probability(config, p) for p in (0.0, 0.25, 0.9)] == [0.0, 0.25, 0.9]
    assert LLaRA.hybrid_probability({**config, "curriculum": "none"}, 0.1) == 1.0


def test_released_curriculum_restarts_each_epoch_and_is_a_tenth_on_average():
    config = {"curriculum": "linear", "recipe": "released", "epochs": 5}
    shares = [LLaRA.hybrid_probability(config, step / 1000) for step in range(1000)]
    assert abs(sum(shares) / 1000 - 0.1) < 0.001
    assert shares[199] > 0.19 and shares[200] == 0.0

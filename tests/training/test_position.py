"""Every step of every process has a seed of its own."""



from recbole_llm.training.position import step_seed


def test_step_seeds_differ_and_are_fixed():
    seeds = {step_seed(*key) for key in [(1, 2, 3), (12, 3, 0), (1, 23, 0), (2020, 0, 0), (2020, 0, 1)]}
    assert len(seeds) == 5 and step_seed(2020, 0, 0) == step_seed(2020, 0, 0) < 2**63

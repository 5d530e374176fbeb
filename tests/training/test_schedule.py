"""The rate of every step."""


import pytest
import torch

from recbole_llm.training.schedule import share_of_peak
from tests.training.making import trainer_of


def test_warm_up_then_cosine():
    shares = [share_of_peak(step, 100, 0.1, 0.01) for step in range(101)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)]) and shares[10] == 1
    assert shares[55] == pytest.approx(0.505) and shares[100] == pytest.approx(0.01)
    assert all(a > b for a, b in zip(shares[10:], shares[11:], strict=False))


def test_linear_decay_is_a_straight_line_to_the_floor():
    shares = [share_of_peak(step, 100, 0.1, 0.01, "linear") for step in range(101)]
    assert shares[:11] == [share_of_peak(step, 100, 0.1, 0.01) for step in range(11)]
    assert shares[10:] == pytest.approx([1 - 0.99 * i / 90 for i in range(91)])


@pytest.mark.parametrize("total", [2, 7, 100])
def test_the_way_down_is_transformers_own(total):
    """Its schedules at the same step, after a warm-up that begins above zero here."""
    from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

    optimizer, warmup = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), max(1, round(0.1 * total))
    cosine = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=0.01).lr_lambdas[0]
    linear = get_linear_schedule_with_warmup(optimizer, warmup, total).lr_lambdas[0]
    for step in range(warmup, total):
        assert share_of_peak(step, total, 0.1, 0.01) == pytest.approx(cosine(step), abs=1e-15)
        assert share_of_peak(step, total, 0.1, 0.0, "linear") == pytest.approx(linear(step), abs=1e-15)


def test_a_schedule_may_be_longer_than_the_training(fresh):
    """RecLoRA's released script: five epochs' linear schedule, ended after the first, at four fifths of the peak."""
    config, data, model = fresh
    config["epochs"], config["lr_epochs"], config["lr_schedule"], config["warmup_ratio"], config["min_lr_ratio"] = 1, 5, "linear", 0.1, 0.0
    trainer = trainer_of(config, data, model)
    assert (trainer.schedule.total, trainer.schedule.until_floor) == (2, 10)
    trainer.fit(data[1], data[2])
    group = trainer.optimizer.param_groups[0]
    assert trainer.position.step == 2 and group["lr"] / group["peak_lr"] == pytest.approx(1.0)  # step 1 of 10, after one of warm-up
    assert share_of_peak(20, 100, 0.0, 0.0, "linear") == pytest.approx(0.8, abs=0.01)

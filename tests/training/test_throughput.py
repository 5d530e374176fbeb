"""The operations that are counted are those of the layers."""

import copy

import pytest
import torch

from recbole_llm.training import throughput
from tests.training.making import steps


def test_flops_are_those_of_the_layers(built):
    """Against a count of every matrix product, forward pass only: 2 of the 4 operations that a frozen weight costs."""
    from torch.utils.flop_counter import FlopCounterMode

    _, data, model = built
    model = copy.deepcopy(model).eval()
    batch = steps(data, 2)[0]
    rows = (batch["prompt_mask"].shape[1] + batch["answer_mask"].shape[1] - 1,) * len(batch)  # padding is computed too
    counted = throughput.ModelFlops(model.llm)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    answers = batch["answer_mask"].numel()
    ours = 2 * (counted.body + counted.trained) * sum(rows) + 2 * counted.output * answers
    matrix = sum(v for name, v in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    assert matrix == pytest.approx(ours, rel=0.06)  # the rest: projector, router, CRM

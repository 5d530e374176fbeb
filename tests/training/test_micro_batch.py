"""auto_batch_size finds what fits and changes nothing else."""

import logging
import math

import pytest
import torch

from recbole_llm.runtime import memory
from tests import workers
from tests.training.making import trainer_of


@pytest.mark.parametrize("room", [1, 3, 5, 100])
def test_auto_batch_size_finds_what_fits_and_keeps_the_effective_batch(fresh, monkeypatch, room):
    config, data, model = fresh
    config["auto_batch_size"], config["max_steps"] = True, 2
    forward, sizes, longest = type(model).forward, [], []

    def limited(self, batch):
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        longest.append(int((batch["prompt_mask"].sum(1) + batch["answer_mask"].sum(1)).max()))
        return forward(self, batch)

    monkeypatch.setattr(type(model), "forward", limited)
    fitted = workers.train((config, data, model), config["checkpoint_dir"])
    assert fitted.position.micro_batch == min(room, 8)
    passes = 2 * math.ceil(8 / min(room, 8))
    assert sum(sizes[-passes:]) == 16 and max(sizes[-passes:]) <= room
    assert max(longest[:-passes]) >= max(longest[-passes:])  # what was tried was the worst case


@pytest.mark.parametrize("experts, told", [(4, True), (1, False)])
def test_lists_that_do_not_fit_are_told_of_where_gates_differ(fresh, monkeypatch, caplog, experts, told):
    config, data, model = fresh
    monkeypatch.setattr(memory, "largest_that_fits", lambda most, fits: 3)
    for key, value in {"auto_batch_size": True, "users_per_list": 4, "num_experts": experts, "gate_input": "sequence"}.items():
        config[key] = value
    found = trainer_of(config, data, model)
    with caplog.at_level(logging.WARNING):
        found._prepare(None, data[1])
    assert found.position.micro_batch == 3 and ("3 prompts fit, fewer than the 4 of a list" in caplog.text) == told


def test_auto_batch_size_with_nothing_to_train_asks_for_nothing(fresh, monkeypatch):
    config, data, model = fresh
    config["auto_batch_size"], config["epochs"] = True, 0
    monkeypatch.setattr(data[1].batches, "epochs", 0)
    found = trainer_of(config, data, model)
    found._prepare(None, data[1])
    assert found.position.micro_batch is None


def test_auto_batch_size_where_nothing_fits(fresh, monkeypatch):
    config, data, model = fresh
    config["auto_batch_size"] = True

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(memory.OutOfMemory, match="at 1 prompts of"):
        workers.train((config, data, model), config["checkpoint_dir"])

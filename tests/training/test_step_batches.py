"""Batches are made ahead of the device, and draw nothing from the global generator."""

import threading
import time

import pytest
import torch

from recbole_llm.training.step_batches import Prefetch
from tests.training.making import steps


def test_prefetch_hides_tokenisation_behind_the_step():
    def slow():
        for i in range(6):
            time.sleep(0.02)
            yield i

    waits = {}
    for depth in (0, 3):
        with Prefetch(slow(), depth) as ahead:
            found = []
            for item in ahead:
                time.sleep(0.05)  # the device's work
                found.append(item)
        assert found == list(range(6))
        waits[depth] = ahead.waited
    assert waits[0] > 0.1 and waits[3] < 0.6 * waits[0]


def test_prefetch_makes_as_many_items_ahead_as_asked():
    made = []
    with Prefetch((made.append(i) or i for i in range(10)), 3) as ahead:
        assert next(iter(ahead)) == 0
        ahead._pool.submit(int).result()  # its one thread has done what was asked of it before
        assert made == [0, 1, 2, 3]


def test_prefetch_hands_errors_on_and_ends_its_thread():
    def broken():
        yield 1
        raise ValueError("row 7 is bad")

    with pytest.raises(ValueError, match="row 7"), Prefetch(broken(), 2) as ahead:
        list(ahead)
    with Prefetch(iter(range(100)), 1) as ahead:
        for item in ahead:
            if item == 3:
                break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokenise")]


def test_loaders_leave_the_global_generator_alone(fresh):
    config, data, _ = fresh
    torch.manual_seed(3)
    before = torch.get_rng_state()
    steps(data, 2)
    next(iter(data[1])), next(iter(data[2]))
    assert torch.equal(torch.get_rng_state(), before)

"""Batches are made ahead of the device, and draw nothing from the global generator."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from recbole_llm.data.prompt_rows import Key
from recbole_llm.training.step_batches import Prefetch, Steps
from tests import workers
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


def test_prefetch_takes_no_threads_from_the_step():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Prefetch((torch.get_num_threads() for _ in range(4)), 2) as ahead:
            assert list(ahead) == [1, 1, 1, 1]
            assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as later:  # a server's, say
            assert later.submit(torch.get_num_threads).result() == 2
        with Prefetch((torch.get_num_threads() for _ in range(2)), 0) as ahead:
            assert list(ahead) == [2, 2]  # in the caller's thread, which keeps its own
    finally:
        torch.set_num_threads(before)


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


@pytest.mark.parametrize(("world", "micro_batch", "expected"), [
    (1, None, [[5, 5], [2, 2, 1, 2, 2, 1]]),
    (1, 4, [[4, 4, 2], [2, 2, 2, 2, 2]]),
    (2, None, [[3, 3], [2, 1, 2, 1]]),
])  # fmt: skip
def test_prompts_that_show_histories_go_in_smaller_passes(world, micro_batch, expected):
    short, long = ([Key(0, (), 0, history=shown) for _ in range(5)] for shown in (False, True))
    passes = list(Steps([short, short, long, long], 2, 0, world, micro_batch, history_batch=2))
    assert [[len(keys) for keys, _ in step] for step in passes] == expected


def shared(*sizes, first=0):
    """A batch whose candidate lists have these numbers of rows."""
    return [Key(0, (), 0, group=group, unseen=()) for group, size in enumerate(sizes, first) for _ in range(size)]


@pytest.mark.parametrize(("world", "micro_batch", "history_batch", "expected"), [
    (1, None, None, [[0, 1, 2], [3, 4]]),
    (2, None, None, [[0, 2], [3]]),
    (3, None, None, [[0], [3]]),
    (1, None, 10, [[0, 1], [2], [3, 4]]),
    (1, None, 5, [[0], [1], [2], [3], [4]]),
    (1, 8, None, [[0, 1], [2, 3], [4]]),
    (2, 8, None, [[0, 2], [4]]),
    (1, None, 2, [[0], [0], [1], [1], [2], [2], [3], [3], [4]]),
])  # fmt: skip
def test_rows_that_share_a_list_stay_together(world, micro_batch, history_batch, expected):
    batches = [shared(4, 4, 4), shared(4, 2, first=3)]
    steps = [list(Steps(batches, 2, rank, world, micro_batch, history_batch)) for rank in range(world)]
    assert [len(passes) for (passes,) in steps] == [len(expected)] * world
    assert [sorted({key.group for key in keys}) for keys, _ in steps[0][0]] == expected
    counted = [key for (passes,) in steps for keys, weight in passes if weight for key in keys]
    assert sorted(key.group for key in counted) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 2


def test_lists_of_an_epoch_have_numbers_of_their_own(fresh):
    config, data, _ = fresh
    config["users_per_list"] = 2
    data[1].set_epoch(0)
    members = [{key.group for key in keys} for keys in data[1].batch_sampler]
    assert len(members) > 2 and all(len(groups) > 1 for groups in members)
    assert len(set().union(*members)) == sum(map(len, members))


def test_history_batch_size_changes_the_passes_and_not_the_training(fresh, monkeypatch):
    config, data, model = fresh
    config["max_steps"], config["history_from"], sizes = 2, 0.4, []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, batch: sizes.append(len(batch)) or forward(self, batch))
    start = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    ends = []
    for config["history_batch_size"] in (None, 2):
        model.load_state_dict(start, strict=False)
        workers.train((config, data, model), config["checkpoint_dir"])
        ends.append({name: weight.detach().clone() for name, weight in model.named_parameters() if name in start})
    assert sizes == [4, 4, 4, 4, 4, 4, 2, 2, 2, 2]
    for name, end in ends[0].items():
        torch.testing.assert_close(ends[1][name], end, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(ends[0][name], weight) for name, weight in start.items())

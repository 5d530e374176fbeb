"""From a training loader's batches to the optimizer steps of one process, tokenised ahead of the device.

The rows of a step are those of ``accumulation_steps`` batches of the loader, whatever the number of processes and the
size of a micro-batch: rows are dealt out before they are tokenised, one after another to the processes in turn. Rows that share a
candidate list (`users_per_list`) stay together, since tokens that they share pass through the mean of their gates. A process
without a row takes the pass's first with weight 0, so that all of them run the same number of forward passes and wait
for each other at the same places.
"""

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice

import torch
from recbole.data.interaction import Interaction
from torch.utils.data import DataLoader, Dataset, Sampler

WEIGHT_FIELD = "row_weight"


class Steps(Sampler):
    """Yields an optimizer step as a list of (keys of this process, weight) for its micro-batches.

    Args:
        batches: iterable of lists of keys.
        accumulation: batches per step.
        rank: number of this process.
        world: number of processes.
        micro_batch: rows per forward pass and process; None: the loader's own batches, shared out.
        history_batch: the same where prompts show histories; the smaller of the two counts.
    """

    def __init__(self, batches, accumulation, rank=0, world=1, micro_batch=None, history_batch=None):
        self.batches, self.accumulation = batches, accumulation
        self.rank, self.world, self.micro_batch, self.history_batch = rank, world, micro_batch, history_batch

    def __iter__(self):
        batches = iter(self.batches)
        while group := list(islice(batches, self.accumulation)):
            passes = [one for keys in self.joined(group) for one in self.passes(keys)]
            yield [(keys[self.rank], 1.0) if keys[self.rank] else (keys[0][:1], 0.0) for keys in passes]

    def joined(self, group):
        """The batches of a step, or all their keys as one where micro-batches have a size of their own."""
        return group if self.micro_batch is None else [[key for keys in group for key in keys]]

    def passes(self, keys):
        """The forward passes of some keys: for each, what every process takes, at most ``size`` keys in whole lists."""
        limits = [self.micro_batch, self.history_batch if any(key.history for key in keys) else None]
        size = min((limit for limit in limits if limit is not None), default=len(keys))
        found = [[[] for _ in range(self.world)]]
        for some in _lists(keys, size):
            if len(min(found[-1], key=len)) + len(some) > size:
                found.append([[] for _ in range(self.world)])
            min(found[-1], key=len).extend(some)
        return found


def _lists(keys, size):
    """Runs of keys that share a candidate list, cut where one is longer than ``size``; others each alone."""
    for shared, run in groupby(keys, key=lambda key: None if key.unseen is None else key.group):
        run = list(run)
        width = 1 if shared is None else size
        yield from (run[start : start + width] for start in range(0, len(run), width))


class _MicroBatches(Dataset):
    """Makes the Interactions of a step from its keys, with ``row_weight`` [B] added."""

    def __init__(self, rows, collate):
        self.rows, self.collate = rows, collate

    def __getitem__(self, share):
        keys, weight = share
        batch = self.collate([self.rows[key] for key in keys])
        return Interaction({**batch.interaction, WEIGHT_FIELD: torch.full((len(keys),), weight)})


def step_loader(loader, accumulation, rank=0, world=1, micro_batch=None, history_batch=None):
    """A DataLoader whose items are optimizer steps, lists of Interactions; one pass is what ``loader.set_epoch`` set.

    Its generator is its own: iterating draws nothing from torch's global one.
    """
    return DataLoader(
        _MicroBatches(loader.dataset, loader.collate_fn),
        batch_sampler=Steps(loader.batch_sampler, accumulation, rank, world, micro_batch, history_batch),
        collate_fn=list,
        num_workers=loader.num_workers,
        generator=torch.Generator(),
    )


def evaluation_loader(loader, rank=0, world=1):
    """``loader`` with every ``world``-th batch, from ``rank`` on; the batches stay whole.

    Every process gets as many, since sharded models are put together by all of them: the last may be one of another's.
    """
    batches = list(loader.batch_sampler)
    passes = -(-len(batches) // world)
    return DataLoader(
        loader.dataset,
        batch_sampler=[batches[(i * world + rank) % len(batches)] for i in range(passes)],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        generator=torch.Generator(),
    )


class Prefetch:
    """Iterates over items, some of them made ahead in a thread. Use as a context manager: leaving it ends the thread.

    A DataLoader prefetches in worker processes alone; each would hold the tokenised titles again, and start anew every epoch.
    An error in the thread is raised to the reader.

    Args:
        items: an iterable.
        depth: items ahead; 0 iterates in the caller's thread.
        pin: whether items go to page-locked memory.

    Attributes:
        waited: seconds that the reader waited for items.
    """

    def __init__(self, items, depth: int, pin: bool = False):
        self.items, self.depth, self.pin = items, depth, pin
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(1, "tokenise")  # its thread starts with the first item asked of it

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self):
        items = iter(self.items)
        if self.depth:
            self._leave_cores_alone()
        ahead = deque(self._pool.submit(self._next, items) for _ in range(self.depth))
        while True:
            start = time.perf_counter()
            found = ahead.popleft().result() if ahead else self._next(items)
            self.waited += time.perf_counter() - start
            if found is self:
                return
            if self.depth:
                ahead.append(self._pool.submit(self._next, items))
            yield found

    def _leave_cores_alone(self) -> None:
        """Give torch one thread in the pool's thread.

        With more threads than the machine has cores, those that compute do not wait for each other by spinning any more, and a
        training step on two cores takes a third longer. Torch notes the last number set for threads to come: it is set again here.
        """
        threads = torch.get_num_threads()
        self._pool.submit(_have_one_thread).result()
        torch.set_num_threads(threads)

    def _next(self, items):
        """The next item; this object at their end, since a StopIteration does not pass a future."""
        found = next(items, self)
        return pinned(found) if self.pin and found is not self else found


def _have_one_thread() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the number last set when it first asks for it: now


def pinned(item):
    """A batch, or a list of batches, in page-locked memory: copies to a GPU then overlap with its work."""
    if isinstance(item, list):
        return [pinned(batch) for batch in item]
    return Interaction({name: column.pin_memory() for name, column in item.interaction.items()})


def to_device(batch, device):
    """A batch on ``device``; from page-locked memory without waiting."""
    return Interaction({name: column.to(device, non_blocking=True) for name, column in batch.interaction.items()})

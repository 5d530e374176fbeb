"""From a training loader's batches to the optimizer steps of one process, tokenised ahead of the device.

The rows of a step are those of ``accumulation_steps`` batches of the loader, whatever the number of processes and the
size of a micro-batch: rows are dealt out before they are tokenised, row i of a micro-batch to process i modulo the
number of processes. A process without a row takes the micro-batch's first with weight 0, so that all of them run the
same number of forward passes and wait for each other at the same places.
"""

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

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
        history_batch: rows per forward pass, of all processes together, where prompts show histories; None: as elsewhere.
    """

    def __init__(self, batches, accumulation, rank=0, world=1, micro_batch=None, history_batch=None):
        self.batches, self.accumulation = batches, accumulation
        self.rank, self.world, self.micro_batch, self.history_batch = rank, world, micro_batch, history_batch

    def __iter__(self):
        batches = iter(self.batches)
        while group := list(islice(batches, self.accumulation)):
            yield [self.share(keys) for keys in self.micro_batches(group)]

    def micro_batches(self, group):
        """The step's rows as the forward passes of all processes together: a list of lists of keys."""
        if self.micro_batch is not None:
            group = _parts([key for keys in group for key in keys], self.micro_batch * self.world)
        if self.history_batch is not None:
            sizes = [self.history_batch if any(key.history for key in keys) else len(keys) for keys in group]
            group = [part for keys, size in zip(group, sizes, strict=True) for part in _parts(keys, size)]
        return group

    def share(self, keys):
        """This process's keys of one micro-batch, with their weight."""
        mine = keys[self.rank :: self.world]
        return (mine, 1.0) if mine else (keys[:1], 0.0)


def _parts(keys, size):
    return [keys[start : start + size] for start in range(0, len(keys), size)]


class _MicroBatches(Dataset):
    """Makes the Interactions of a step from its keys, with ``row_weight`` [B] added."""

    def __init__(self, rows, collate):
        self.rows, self.collate = rows, collate

    def __getitem__(self, share):
        keys, weight = share
        batch = self.collate([self.rows[key] for key in keys])
        return Interaction({**batch.interaction, WEIGHT_FIELD: torch.full((len(keys),), weight)})


def _as_list(step):
    return step


def step_loader(loader, accumulation, rank=0, world=1, micro_batch=None, history_batch=None):
    """A DataLoader whose items are optimizer steps, lists of Interactions; one pass is what ``loader.set_epoch`` set.

    Its generator is its own: iterating draws nothing from torch's global one.
    """
    return DataLoader(
        _MicroBatches(loader.dataset, loader.collate_fn),
        batch_sampler=Steps(loader.batch_sampler, accumulation, rank, world, micro_batch, history_batch),
        collate_fn=_as_list,
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

    def _next(self, items):
        """The next item; this object at their end, since a StopIteration does not pass a future."""
        found = next(items, self)
        return pinned(found) if self.pin and found is not self else found


def pinned(item):
    """A batch, or a list of batches, in page-locked memory: copies to a GPU then overlap with its work."""
    if isinstance(item, list):
        return [pinned(batch) for batch in item]
    return Interaction({name: column.pin_memory() for name, column in item.interaction.items()})


def to_device(batch, device):
    """A batch on ``device``; from page-locked memory without waiting."""
    return Interaction({name: column.to(device, non_blocking=True) for name, column in batch.interaction.items()})

"""How many optimizer steps a run has, and at what share of its peak rate each is made.

The shapes are those of ``transformers.get_scheduler``'s "cosine_with_min_lr" and "linear". Its own are not used: they
begin at rate 0, where a step is lost, "linear" has no floor, and "warmup_stable_decay", which has one, lifts the warm-up too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def share_of_peak(step: int, total: int, warmup_ratio: float, floor: float, schedule: str = "cosine") -> float:
    """Share of the peak rate at a step, a function of the step alone, as resuming needs it.

    Args:
        step: number of the step, from 0.
        total: steps until the floor.
        warmup_ratio: share of ``total`` over which the rate rises in a straight line.
        floor: the last share.
        schedule: "cosine" or "linear", the way down.
    """
    warmup = max(1, round(warmup_ratio * total))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Schedule:
    """The steps of a run.

    Attributes:
        per_epoch: optimizer steps of an epoch.
        total: of the run.
        until_floor: after which the rate is at its floor; more than ``total`` with ``lr_epochs``.
        shape: the further arguments of :func:`share_of_peak`.
    """

    per_epoch: int
    total: int
    until_floor: int
    shape: tuple

    @classmethod
    def of(cls, config, n_batches: int) -> Schedule:
        """The schedule of a run whose epochs have ``n_batches`` batches."""
        per_epoch = math.ceil(n_batches / config["accumulation_steps"])
        total = per_epoch * config["epochs"]
        if config["max_steps"] is not None:
            total = min(total, config["max_steps"])
        until_floor = total if config["lr_epochs"] is None else max(total, per_epoch * config["lr_epochs"])
        return cls(per_epoch, total, until_floor, (config["warmup_ratio"], config["min_lr_ratio"], config["lr_schedule"]))

    def share(self, step: int) -> float:
        """Share of the peak rate at ``step``."""
        return share_of_peak(step, self.until_floor, *self.shape)

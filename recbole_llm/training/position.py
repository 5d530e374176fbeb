"""Where training stands: with the weights and the optimizer's moments, all that going on takes.

Everything random is a function of (seed, step), so a resumed run ends bitwise where an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field


@dataclass
class Position:
    """How far training has come; what ``state.json`` holds besides hashes.

    Attributes:
        step: optimizer steps done.
        epoch, epoch_step: the next step is step ``epoch_step`` of ``epoch``.
        loss_sum, token_sum: of this epoch so far.
        cur_step: validations since the best, RecBole's count for early stopping.
        valid_step: validations done.
        best_valid_score, best_valid_result: of the best validation.
        history: the validations, ``{"epoch" (from 1), "step", metric: value}``.
        best: name of the best folder.
        micro_batch: rows per forward pass that ``auto_batch_size`` chose.
        scaler: state of float16's loss scaler.
        finished: whether training has ended.
        seconds: on the clock since training began, less the time between a kill and its resumption.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    loss_sum: float = 0.0
    token_sum: float = 0.0
    cur_step: int = 0
    valid_step: int = 0
    best_valid_score: float | None = None
    best_valid_result: dict | None = None
    history: list = field(default_factory=list)
    best: str | None = None
    micro_batch: int | None = None
    scaler: dict | None = None
    finished: bool = False
    seconds: float = 0.0

    @classmethod
    def of(cls, state: dict) -> Position:
        """The position in a checkpoint's state."""
        return cls(**{name: state[name] for name in cls.__dataclass_fields__ if name in state})

    def record(self) -> dict:
        """The position as plain values."""
        return asdict(self)

    def next_epoch(self) -> None:
        """Stand at the first step of the next epoch."""
        self.epoch, self.epoch_step, self.loss_sum, self.token_sum = self.epoch + 1, 0, 0.0, 0.0


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generators for one optimizer step of one process."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

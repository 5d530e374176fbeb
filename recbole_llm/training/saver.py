"""What a run writes while it trains, and reads when it goes on: weights, optimizer, generators, position."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_llm.training.checkpoint import load_checkpoint_into, save_checkpoint
from recbole_llm.training.checkpoint_files import OPTIMIZER, RNG, read_tensors
from recbole_llm.training.optimizer_state import load_optimizer, optimizer_tensors, restore_rng, rng_tensors
from recbole_llm.training.position import Position
from recbole_llm.training.resume import open_run


class Saver:
    """Saves to the folder of one run; every process must call its methods, the main one writes.

    Args:
        config: the run's configuration.
        model: the model in training.
        folder: where a new run is kept.

    Attributes:
        folder: the run's folder: ``folder``, or that of the run which ``resume`` names.
    """

    def __init__(self, config, model, folder: str):
        self.config, self.model, self.folder = config, model, folder
        self.run = None  # the locked folder, in the main process

    def open(self) -> tuple[Path | None, Position]:
        """Begin the run's folder, or go on with one.

        Returns:
            (the step folder to go on from, None in a new run; the position there, its weights are in the model).

        Raises:
            ValueError: ``resume`` names a run of other settings, or one that cannot be read.
        """
        self.run, folder, found, best_there = open_run(self.config, self.folder, self.model)
        self.folder = str(folder)
        if found is None:
            return None, Position()
        position = Position.of(load_checkpoint_into(self.model, found))
        if not best_there:
            position.best = position.best_valid_score = position.best_valid_result = None
            position.cur_step = 0
        return found, position

    def restore(self, found: Path, position: Position, optimizer, scaler) -> None:
        """Put back the states of the optimizer, of float16's scaler (None: none) and of the generators."""
        load_optimizer(self._names(), optimizer, read_tensors(found / OPTIMIZER))
        restore_rng(read_tensors(found / RNG))
        if position.scaler and scaler is not None:
            scaler.load_state_dict(position.scaler)

    def save_step(self, position: Position, optimizer) -> None:
        """Save where training stands, then drop what ``save_total_limit`` does not keep."""
        tensors = {OPTIMIZER: optimizer_tensors(self._names(), optimizer), RNG: rng_tensors()}
        save_checkpoint(self.model, os.path.join(self.folder, f"step-{position.step:08d}"), position.record(), tensors)
        if self.run is not None:
            self.run.prune(self.config["save_total_limit"], position.best)

    def save_best(self, position: Position) -> str:
        """Save the weights as the best so far; returns their folder."""
        position.best = f"best-{position.step:08d}"
        folder = os.path.join(self.folder, position.best)
        save_checkpoint(self.model, folder, position.record())
        return folder

    def close(self) -> None:
        """Give the run's folder back."""
        if self.run is not None:
            self.run.close()

    def _names(self) -> dict:
        return {weight: name for name, weight in self.model.named_parameters()}

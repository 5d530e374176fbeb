"""``auto_batch_size``: the most prompts that one forward and backward pass holds in memory."""

from __future__ import annotations

import math
from logging import getLogger

import torch

from recbole_llm.config.checks import rows_kept_together
from recbole_llm.runtime import distributed, memory
from recbole_llm.training.step_batches import to_device


def choose_micro_batch(steps, loader, rows: int) -> int:
    """Rows per forward pass and process, found on the longest prompts; the rows of a step stay as they are.

    Args:
        steps: the run's :class:`~recbole_llm.training.optimizer_step.OptimizerSteps`.
        loader: the training loader.
        rows: of an optimizer step, in all processes.

    Raises:
        OutOfMemory: not even one prompt fits.
    """
    rows = min(rows, loader.n_rows)
    most = math.ceil(rows / distributed.world_size())
    longest = loader.longest(most)
    steps.model.train()
    fits = memory.largest_that_fits(most, lambda n: _pass(steps, loader.batch(longest[:n])))
    fits = min(distributed.gather(fits))
    steps.optimizer.zero_grad(set_to_none=True)
    if not fits:
        with memory.explained(loader.batch(longest[:1]), training=True):
            raise MemoryError("not even one prompt fits")
    if fits < (whole := rows_kept_together(steps.config.final_config_dict)):
        getLogger().warning(f"auto_batch_size: {fits} prompts fit, fewer than the {whole} of a list: gates are averaged over parts of lists, "
                            f"which trains other weights; users_per_list: {fits} keeps lists whole")  # fmt: skip
    getLogger().info(
        f"auto_batch_size: {fits} prompts per forward pass and process, {math.ceil(most / fits)} passes per step; "
        f"the effective batch stays {rows}"
    )
    return fits


def _pass(steps, batch) -> bool:
    """A forward and backward pass over a batch, with room kept for AdamW's moments."""
    moments = [torch.empty_like(w) for w in steps.model.parameters() if w.requires_grad for _ in range(2)]
    batch = to_device(batch, steps.device)
    with steps.autocast():
        log_likelihood, _ = steps.model(batch)
    log_likelihood.sum().backward()
    steps.optimizer.zero_grad(set_to_none=True)
    return bool(moments)

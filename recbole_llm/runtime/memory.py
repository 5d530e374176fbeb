"""Out of device memory: an error that says what to change, and a search for the largest micro-batch that fits.

Accelerate's ``find_executable_batch_size`` is not used: it goes down by a tenth at a time to a size that fits, in up to dozens
of passes, where bisection finds the largest.
"""

from contextlib import contextmanager

import torch
from accelerate.utils import release_memory


class OutOfMemory(RuntimeError):
    """The device's memory did not hold a batch; the message names its size, its length and three remedies."""


def is_out_of_memory(error):
    """Whether an error is an allocator's, of a GPU or of the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def explained(batch, training):
    """Turn an out-of-memory error in the block into :class:`OutOfMemory`, about this batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_advice(batch, training)) from error


def _advice(batch, training):
    shape = batch["prompt_ids"].shape  # [B, P], or [B, C, P] with a prompt for each candidate
    rows, prompt = shape[:-1].numel(), shape[-1]
    if training:
        answer = batch["answer_ids"].shape[1] if "answer_ids" in batch else 1
        return (
            f"out of memory in training at {rows} prompts of {prompt} + {answer} tokens. What helps: "
            "gradient_checkpointing: true (up to half more time); a smaller train_batch_size with more "
            "accumulation_steps, or auto_batch_size: true, which does that by itself; a smaller history_batch_size, history_max_len, "
            "n_candidates or title_max_tokens. llm_quantization: 4bit shrinks the frozen weights"
        )
    return (
        f"out of memory in evaluation at {rows} prompts of {prompt} tokens. What helps: a smaller eval_batch_size; "
        "scoring_method: separate; a smaller history_max_len, n_candidates or title_max_tokens"
    )


def largest_that_fits(most, fits):
    """The largest n in 1..most for which ``fits(n)``, by bisection; 0 where not even 1 fits.

    Args:
        most: the largest n to try.
        fits: gives True or False, or raises an out-of-memory error, which counts as False. It must be monotone.
    """
    low, high = 0, most
    while low < high:
        middle = high if (low, high) == (0, most) else (low + high + 1) // 2  # all of them first: often that fits
        if _holds(fits, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _holds(fits, n):
    try:
        return fits(n)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()  # outside the handler: the traceback holds the tensors of the failed pass
    return False

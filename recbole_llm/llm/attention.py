"""Attention on a CPU where `attn_implementation` is left open: the faster of transformers' two for each pass.

Where a gradient is wanted, eager attention takes less time than sdpa, whose backward pass is the slow part; where none is, more
(docs/measured.md). Eager keeps the weights of every layer until the backward pass, so that long passes take sdpa all the same.
"""

from __future__ import annotations

import inspect
import re
import sys

import torch

BY_PASS = "cpu_by_pass"
HELD = 2**29  # bytes of attention weights that a pass may keep for its backward pass


def choose_by_pass(llm) -> None:
    """Let ``llm`` choose for each pass, if it would take sdpa and has eager attention that transformers can exchange for it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    if llm.config._attn_implementation == "sdpa" and eager_of(llm) is not None and not _asks_for_names(llm):
        AttentionInterface.register(BY_PASS, attention)
        AttentionMaskInterface.register(BY_PASS, eager_mask)  # both read an additive mask; sdpa's own may be none, which eager cannot read
        llm.set_attn_implementation(BY_PASS)


def attention(module, query, key, value, attention_mask, **options):
    """One layer's attention, as transformers calls it: ``[B, H, Q, d]`` against ``[B, H', K, d]`` under an additive mask ``[B, 1, Q, K]``."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    eager, layers = eager_of(module), getattr(getattr(module, "config", None), "num_hidden_layers", None)
    suits = None not in (eager, layers) and attention_mask is not None and torch.is_grad_enabled() and query.requires_grad
    if suits and held_bytes(layers, query, key) <= HELD:
        return eager(module, query, key, value, attention_mask, **options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def eager_of(module):
    """The eager attention of the family of models that ``module`` is of, or None."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def _asks_for_names(llm) -> bool:
    """Whether the family's code does something else under ``sdpa``, by its name, as sparse attention (DeepSeek-V3.2) does."""
    try:
        code = inspect.getsource(sys.modules[type(llm).__module__])
    except (OSError, TypeError):  # typed into a notebook: unknown
        return True
    return re.search(r"_attn_implementation\s*(==|!=|in\b|not in\b)", code) is not None


def held_bytes(layers: int, query: torch.Tensor, key: torch.Tensor) -> int:
    """What eager attention keeps of all layers: weights ``[B, H, Q, K]`` in float32, and in the LLM's own precision if that is another."""
    element = 4 + (query.element_size() if query.dtype != torch.float32 else 0)
    return layers * query.shape[:3].numel() * key.shape[2] * element

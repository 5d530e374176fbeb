"""What suits the machine where a setting leaves it open: the precision of the LLM, the memory of matrix kernels.

A CPU with bfloat16 instructions (avx512_bf16 or amx_bf16) computes a small LLM about twice as fast in bfloat16 as in
float32; one without them many times more slowly. GPUs take weights as stored.
"""

from __future__ import annotations

import os

import torch

KERNEL_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def keep_few_kernels() -> None:
    """Let oneDNN keep 128 matrix kernels in place of 1,024, unless the environment says how many.

    It makes one for each shape, and prompts have all lengths: after 330 steps of the default LLM on a CPU the peak is 2.1 GB
    in place of 2.6 (docs/measured.md). Read when the first is made, so this is called on import.
    """
    os.environ.setdefault(KERNEL_CACHE, "128")


def computes_bf16() -> bool:
    """Whether this CPU has bfloat16 matrix instructions, as far as torch can tell."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name) for name in BF16_INSTRUCTIONS)
    return torch.cpu._is_avx512_bf16_supported()  # earlier torch has this alone


def llm_dtype(device: str | torch.device) -> torch.dtype | str:
    """The precision of ``llm_dtype: auto``: as stored on a GPU; on a CPU bfloat16 where it is fast, else float32."""
    if torch.device(device).type != "cpu":
        return "auto"
    return torch.bfloat16 if computes_bf16() else torch.float32

"""What suits the machine where a setting leaves it open: the precision of the LLM.

A CPU with bfloat16 instructions (avx512_bf16 or amx_bf16) computes a small LLM about twice as fast in bfloat16 as in
float32; one without them many times more slowly. GPUs take weights as stored.
"""

from __future__ import annotations

import torch

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


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

"""Behaviour slots: the projector of LLaRA (section 3.2), several of them at once, and batches turned into embeddings.

Pretraining uses a handful of trainable projectors for vectors of several widths. Projectors drawn afresh, which are never
trained, serve its probe alone: how far does the model compare slots whatever the projector?
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from recbole_llm.builtin.worlds import DIMENSIONS

PROJECTORS = "projectors.safetensors"


class Projector(nn.Module):
    """Linear-GELU-Linear from centred vectors ``[n, d]`` (unit mean square) to ``[n, hidden]`` of about norm ``length``.

    ``marker [hidden]``, where given, is added: it says "a slot stands here" (the embedding of ``<|item|>``).
    ``space [rows, hidden]``, where given, holds the output at the start.
    """

    def __init__(
        self,
        d: int,
        hidden: int,
        marker: torch.Tensor | None = None,
        space: torch.Tensor | None = None,
        length: float = 1.0,
    ):
        super().__init__()
        self.first, self.second = nn.Linear(d, hidden), nn.Linear(hidden, hidden)
        with torch.no_grad():
            if space is not None:
                self._isometric(space[space.norm(dim=1) > 0.5])
            out = self(torch.randn(64, d))
            gain = length / out.norm(dim=-1).mean()
            self.second.weight.mul_(gain)
            self.second.bias.mul_(gain)
            if marker is not None:
                self.second.bias.add_(marker)

    def _isometric(self, space: torch.Tensor) -> None:
        """Start as a linear map into ``space [rows, hidden]`` that keeps inner products: gelu(x) - gelu(-x) = x."""
        (hidden, d), rows = self.first.weight.shape, len(space)
        width = min(d, hidden // 2, max(rows, 1))
        turn = torch.linalg.qr(torch.randn(max(d, rows), max(d, rows))).Q
        down, up = turn[:width, :d], torch.linalg.qr(torch.randn(rows, rows)).Q[:, :width]
        self.first.weight.zero_()
        self.first.weight[:width], self.first.weight[width : 2 * width] = down, -down
        self.first.bias.zero_()
        self.second.weight.zero_()
        self.second.weight[:, :width] = space.T @ up
        self.second.weight[:, width : 2 * width] = -space.T @ up
        self.second.bias.zero_()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.second(functional.gelu(self.first(vectors)))


class Projectors(nn.Module):
    """``copies`` trainable projectors for each width, and fresh ones on demand."""

    def __init__(self, hidden: int, marker: torch.Tensor, space: torch.Tensor, length: float, copies: int = 2):
        super().__init__()
        self.hidden, self.copies, self.marker, self.length = hidden, copies, marker, length
        self.trained = nn.ModuleDict(
            {
                f"{d}_{copy}": Projector(d, hidden, marker, space, length)
                for d in DIMENSIONS
                for copy in range(copies)
            }
        )

    def forward(self, vectors: torch.Tensor, which: int) -> torch.Tensor:
        """``which < copies`` names a trained projector; otherwise one is drawn from torch's generator."""
        d = vectors.shape[1]
        if which < self.copies:
            return self.trained[f"{d}_{which}"](vectors)
        with torch.no_grad():
            marked = torch.rand(()).item() < 0.7  # a projector downstream may not know of the marker
            fresh = Projector(d, self.hidden, self.marker if marked else None, length=self.length)  # drawn on the CPU
            return fresh.to(vectors.device)(vectors)


def embed(model: nn.Module, ids: torch.Tensor, slots: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
    """Token embeddings ``[B, S, hidden]`` with row ``slots - 1`` of ``projected`` wherever ``slots > 0``."""
    embedded = model.get_input_embeddings()(ids)
    if projected.shape[0] == 0:
        return embedded
    rows = projected[(slots - 1).clamp(min=0)]
    return torch.where(slots[..., None] > 0, rows.to(embedded.dtype), embedded)


def save_projectors(projectors: Projectors, folder: Path) -> None:
    """Write the first trained projector of each width, named as the parts of ``Sequential(Linear, GELU, Linear)``."""
    tensors = {}
    for d in DIMENSIONS:
        trained = projectors.trained[f"{d}_0"]
        for name, layer in (("0", trained.first), ("2", trained.second)):
            tensors |= {f"{d}.{name}.{key}": value.detach().cpu().clone() for key, value in layer.state_dict().items()}
    temporary = folder / (PROJECTORS + ".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, folder / PROJECTORS)


def is_pretrained_here(folder: str | Path) -> bool:
    """Whether :mod:`recbole_llm.builtin.pretrain` wrote this LLM."""
    return (Path(folder) / PROJECTORS).is_file()


def pretrained_projector(folder: str | Path, d: int) -> dict[str, torch.Tensor] | None:
    """Where a projector of ``d``-wide vectors may start: what pretraining read its made-up vectors with.

    Worlds are turned at random, so that no direction of a vector means anything: the weights suit any centred vectors
    of unit mean square. A width between the trained ones takes the columns of the next larger.

    Returns:
        ``{"0.weight" [hidden, d], "0.bias", "2.weight", "2.bias"}``, or None where the folder has no such file or ``d``
        is larger than any trained width.
    """
    file, widths = Path(folder) / PROJECTORS, [width for width in DIMENSIONS if width >= d]
    if not file.is_file() or not widths:
        return None
    prefix = f"{widths[0]}."
    weights = {key[len(prefix) :]: value for key, value in load_file(file).items() if key.startswith(prefix)}
    weights["0.weight"] = (weights["0.weight"][:, :d] * math.sqrt(widths[0] / d)).contiguous()
    return weights

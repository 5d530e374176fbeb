"""From the recommender's vectors to the LLM's embeddings: what stands in a behaviour slot."""

from __future__ import annotations

import math

import torch
from torch import nn

FORMS = ("mlp", "linear")
_SEED = 2312  # of the isometry, the same in every run


class Projector(nn.Sequential):
    """CRM vectors ``[..., d]`` -> LLM embeddings ``[..., hidden]``.

    Inputs are standardised with the table's own mean and deviation (fixed), so that one learning rate suits every CRM.
    User vectors are scaled only: their inner product with an item vector is the CRM's score, which centring would change.

    Args:
        table: ``[n, d]`` vectors to standardise by; the first is RecBole's padding item and does not count.
        hidden: width of the LLM's embeddings.
        out_std: deviation of a slot's entries at the start.
        form: ``mlp``, Linear-GELU-Linear (LLaRA, section 3.2); ``linear``, ``c Q (W z + b)`` with a trained ``d x d`` map ``W``
            that starts at the identity, a fixed random isometry ``Q`` and a fixed scale ``c``: the LLM's embeddings start with
            the inner products of the CRM's. ``Q`` is a function of ``d`` and ``hidden``: item and user projectors share it.
        centred: False for user vectors.

    Raises:
        ValueError: the form is unknown, or ``linear`` and ``hidden < d``.
    """

    def __init__(
        self, table: torch.Tensor, hidden: int, out_std: float, form: str = "mlp", centred: bool = True
    ):
        if form not in FORMS:
            raise ValueError(f"projector_form={form!r}: must be one of {', '.join(FORMS)}")
        width = table.shape[1]
        if form == "linear":
            layers = nn.Linear(width, width), Isometry(width, hidden, out_std)
        else:
            layers = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        super().__init__(*layers)
        mean = table[1:].mean(0) if centred else torch.zeros(width)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", (table[1:] - mean).square().mean().sqrt().clamp_min(1e-6), persistent=False)
        if form == "linear":
            nn.init.eye_(self[0].weight)
            nn.init.zeros_(self[0].bias)
        else:
            self._scale_output(table[1:1025], out_std)

    @torch.no_grad()
    def _scale_output(self, sample: torch.Tensor, out_std: float) -> None:
        """Give an ``mlp``'s outputs for the vectors ``sample`` the deviation ``out_std``."""
        self[2].weight.mul_(out_std / self(sample).std().clamp_min(1e-6))
        self[2].bias.zero_()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return super().forward((vectors - self.mean) / self.std)


class Isometry(nn.Module):
    """A fixed map ``[..., d] -> [..., hidden]`` that keeps angles: entries of unit scale come out at the scale ``out_std``.

    Its columns are orthonormal but for their length and are drawn at random from a constant seed, so that nothing is saved.
    """

    def __init__(self, width: int, hidden: int, out_std: float):
        super().__init__()
        if hidden < width:
            raise ValueError(
                f"projector_form: linear keeps all {width} numbers of a recommender's vector apart, which the LLM's embeddings "
                f"of {hidden} cannot; set projector_form: mlp, or narrower vectors by crm_config (hidden_size or embedding_size)"
            )
        noise = torch.randn(hidden, width, generator=torch.Generator().manual_seed(_SEED + width), dtype=torch.float64)
        columns, upper = torch.linalg.qr(noise)
        columns = columns * upper.diagonal().sign()  # unique, whichever library factorises
        scale = out_std * math.sqrt(hidden / width)  # an isometry spreads d numbers over `hidden`
        self.register_buffer("weight", (columns * scale).float(), persistent=False)  # [hidden, d]

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(vectors, self.weight)


def untouched(module: nn.Module) -> torch.Tensor:
    """Zero, with a gradient (of zero) for weights that a batch does not use: a distributed wrapper waits for it."""
    return 0.0 * sum(weight.sum() for weight in module.parameters())

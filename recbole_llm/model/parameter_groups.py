"""Trainable weights as the optimizer's groups."""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import Parameter


def parameter_groups(named: Iterable[tuple[str, Parameter]], scales: dict[str, float], decay: float) -> list[dict]:
    """Groups of AdamW by kind of weight (``projector`` in its name, ``router`` at its start, else ``adapter``).

    Biases, norms and vectors are spared weight decay.

    Args:
        named: names and weights; frozen ones are left out.
        scales: of the learning rate, by kind.
        decay: weight decay of matrices.
    """
    members: dict[tuple[str, bool], list[Parameter]] = {(kind, full): [] for kind in scales for full in (True, False)}
    for name, weight in named:
        if weight.requires_grad:
            kind = "projector" if "projector" in name else "router" if name.startswith("router") else "adapter"
            spared = weight.ndim < 2 or name.endswith("bias") or "norm" in name
            members[kind, not spared].append(weight)
    return [
        {"params": weights, "name": kind, "lr_scale": scales[kind], "weight_decay": decay if full else 0.0}
        for (kind, full), weights in members.items()
        if weights
    ]

"""Dropout of an adapter's input at the cost of its weights: one mask for each row, shared by the row's tokens.

PEFT draws a random number for every element of [B, L, d_in] and keeps the dropped copy of the input for backward; on a
CPU that is a third of a training step of a small LLM. A mask m of a row (Gal and Ghahramani, arXiv 1512.05287: variational
dropout) needs d_in numbers, and ``(x * m) A^T = x (A * m)^T``: the mask goes into A, [B, r, d_in], and the input is not
copied. Each element of the input is still dropped with probability p and scaled by 1 / (1 - p); tokens of one row share
what is dropped, rows and projections do not.
"""

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn


class RowDropout(nn.Dropout):
    """Drops features of x [B, .., d], the same ones along a row; of x [N, d], each row is on its own."""

    def mask(self, x: Tensor) -> Tensor | None:
        """[B, d] float32 of 0 and 1 / (1 - p); None where nothing is dropped."""
        if not self.training or self.p == 0:
            return None
        kept = torch.empty(x.shape[0], x.shape[-1], device=x.device, dtype=torch.float32).bernoulli_(1 - self.p)
        return kept / (1 - self.p)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x)
        return x if mask is None else x * mask.view(x.shape[0], *[1] * (x.dim() - 2), -1).to(x.dtype)


def drop(dropout: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """``(x, mask)`` with the mask [B, d] still to be put into A, or ``(dropped x, None)`` for other dropouts and shapes."""
    if isinstance(dropout, RowDropout) and x.dim() == 3:
        return x, dropout.mask(x)
    return dropout(x), None


def drop_by_row(model: PeftModel) -> None:
    """Replace the element-wise dropout of every LoRA layer by `RowDropout` of the same p."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for adapter, dropout in layer.lora_dropout.items():
                if type(dropout) is nn.Dropout:
                    layer.lora_dropout[adapter] = RowDropout(dropout.p).train(dropout.training)

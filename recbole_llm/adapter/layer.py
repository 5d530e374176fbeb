"""The modules in PEFT's lora_A / lora_B slots: one layer for iLoRA (split) and RecLoRA (weight or output mixing).

Every PEFT backend (plain, bitsandbytes 8- and 4-bit, GPTQ, AWQ, HQQ ...) computes
``base(x) + lora_B(lora_A(dropout(x))) * scaling``, so a gate inside the slots covers them all. Backends that also know
PEFT's variants (plain, bitsandbytes, GPTQ, HQQ) get `GatedVariant`: the same result with the scaling in the bottleneck
and the sum in the matrix product, one pass over [B, S, d_out] where PEFT's own expression takes three.
Parameters are called ``weight``, so state-dict keys are those of plain LoRA: [r, d_in] and [d_out, r] for "split",
with a leading N for "weight" and "output".
"""

import math

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn

from recbole_llm.adapter import functional as fn
from recbole_llm.adapter.config import GatedLoraConfig, check_rank
from recbole_llm.adapter.dropout import drop
from recbole_llm.adapter.gate import Gate, GateHolder

MERGE_REFUSED = ("a gated adapter cannot be merged into the base weights: its gate differs from row to row. "
                 "Keep it unmerged, or drop it with unload()")


class Slot(nn.Module):
    """What both slots share: the weight, and the way to the gate of the current batch.

    Args:
        weight: [r, d_in] or [d_out, r]; with a leading N unless mixing is "split"
        holder: shared by all slots of the model
        adapter: the adapter's name, for the gate and for messages
        module: the adapted module's, likewise
        num_experts: as in `GatedLoraConfig`
        mixing: as in `GatedLoraConfig`
    """

    bias = None

    def __init__(self, weight: nn.Parameter, holder: GateHolder, adapter: str, module: str, num_experts: int,
                 mixing: str) -> None:
        super().__init__()
        self.weight = weight
        self.holder, self.adapter, self.module_name = holder, adapter, module
        self.index = holder.index(adapter, module)
        self.num_experts, self.mixing = num_experts, mixing

    def gate(self) -> tuple[Gate, Tensor]:
        """The gate in force and this module's share of it, [B, K] or [B, S, K]."""
        gate = self.holder.current(self.adapter)
        weights = gate.of(self.index)
        if weights.shape[-1] != self.num_experts:
            raise ValueError(f"a gate over {weights.shape[-1]} experts for adapter {self.adapter!r} at "
                             f"{self.module_name}, which has num_experts={self.num_experts}; they must agree")
        return gate, weights

    def mixed(self, scaling: float, like: Tensor) -> Tensor:
        """One matrix per row, mixed in the weight's precision and cast to that of `like`: [B, p, q]."""
        gate, weights = self.gate()
        weights = weights.to(self.weight.device)

        def compute() -> Tensor:
            return fn.mix(weights * scaling, self.weight).to(like.dtype)

        settings = (scaling, like.dtype, torch.is_autocast_enabled(like.device.type))
        return self.holder.remember(self, gate.weights, settings, compute)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, num_experts={self.num_experts}, mixing={self.mixing}"


class GatedA(Slot):
    """x [.., d_in] -> the gated bottleneck, [.., r] ([.., N r] with output mixing), times `scaling`; mask: dropout's."""

    def forward(self, x: Tensor, scaling: float = 1.0, mask: Tensor | None = None) -> Tensor:
        if self.mixing == "weight":
            return fn.masked_linear(x, self.mixed(scaling, x), mask)
        if self.mixing == "split":
            # PEFT's scaling is alpha/r; an expert's is alpha/(r/K)
            return fn.split_bottleneck(x, self.weight, self.gate()[1], scaling * self.num_experts, mask)
        return fn.output_bottleneck(x, self.weight, self.gate()[1], scaling, mask)


class GatedB(Slot):
    """The bottleneck z -> z B^T, [.., d_out], added to `base` where one is given."""

    def forward(self, z: Tensor, base: Tensor | None = None) -> Tensor:
        if self.mixing == "weight":
            fused = base if base is not None and base.dtype == z.dtype else None
            out = fn.mixed_linear(z, self.mixed(1.0, z), fused)
            return out if base is fused else base + out.to(base.dtype)
        weight = self.weight.to(z.dtype)
        if self.mixing == "output":
            weight = fn.stacked_columns(weight)
        return nn.functional.linear(z, weight) if base is None else fn.add_linear(base, z, weight)


class GatedVariant(LoraVariant):
    """PEFT's hook for a layer's whole adapter term: the fast path, and the refusal to merge."""

    def supports_lora_conversion(self) -> bool:
        return False

    @staticmethod
    def init(module: LoraLayer, adapter_name: str, **kwargs) -> None:
        """Nothing to prepare: `gate_layer` sets the slots."""

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs) -> Tensor:
        x, mask = drop(module.lora_dropout[active_adapter], x)
        z = module.lora_A[active_adapter](x, module.scaling[active_adapter], mask)
        return module.lora_B[active_adapter](z, result)

    @staticmethod
    def merge_safe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        raise ValueError(MERGE_REFUSED)

    @staticmethod
    def merge_unsafe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        raise ValueError(MERGE_REFUSED)


def gate_layer(layer: LoraLayer, adapter: str, module: str, config: GatedLoraConfig, holder: GateHolder) -> None:
    """Replace what PEFT just put into the slots of `adapter` by gated modules with the same parameters."""
    check_rank(layer.r[adapter], config.num_experts, config.mixing)
    A, B = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    if config.mixing != "split":
        A, B = _stack(A, B, config)
    options = (holder, adapter, module, config.num_experts, config.mixing)
    layer.lora_A[adapter], layer.lora_B[adapter] = GatedA(A, *options), GatedB(B, *options)
    layer.lora_variant[adapter] = GatedVariant()
    layer.cast_input_dtype_enabled = False                   # the weights are cast to x, not x to the weights


def _stack(A: nn.Parameter, B: nn.Parameter, config: GatedLoraConfig) -> tuple[nn.Parameter, nn.Parameter]:
    """N meta-LoRAs [N, r, d_in], [N, d_out, r], each started as PEFT starts its one: A random, B = 0."""
    def empty(weight: Tensor) -> nn.Parameter:
        data = torch.empty(config.num_experts, *weight.shape, dtype=weight.dtype, device=weight.device)
        return nn.Parameter(data, requires_grad=weight.requires_grad)

    experts_a, experts_b = empty(A), empty(B)
    if config.init_lora_weights == "gaussian":
        nn.init.normal_(experts_a, std=1 / A.shape[0])
    else:
        nn.init.kaiming_uniform_(experts_a.view(-1, A.shape[1]), a=math.sqrt(5))       # fan-in d_in for each
    with torch.no_grad():
        if config.init_lora_weights is False:
            nn.init.kaiming_uniform_(experts_b.view(-1, B.shape[1]), a=math.sqrt(5))   # nn.Linear's, as PEFT leaves it
        else:
            experts_b.zero_()
    return experts_a, experts_b

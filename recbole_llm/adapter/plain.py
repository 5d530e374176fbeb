"""Plain LoRA without copies of its input: `cast_weights(model)` for what `get_peft_model(llm, LoraConfig(...))` returned.

PEFT keeps adapters in float32 and casts the input x to that: on a bfloat16 base a float32 [B, L, d_in] for each projection,
in memory until backward. Here the weights are cast to x, [r, d_in] and [d_out, r], and the scaling stays in the bottleneck.
Configuration, state-dict keys and merging are PEFT's: a saved adapter loads in plain PEFT.
"""

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant
from torch import Tensor

from recbole_llm.adapter import functional as fn
from recbole_llm.adapter.dropout import drop


class PlainVariant(LoraVariant):
    """PEFT's hook for a layer's adapter term: ``result + s (x A^T) B^T`` in the input's precision."""

    def supports_lora_conversion(self) -> bool:
        return True

    @staticmethod
    def init(module: LoraLayer, adapter_name: str, **kwargs) -> None:
        """Nothing to prepare."""

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs) -> Tensor:
        x, mask = drop(module.lora_dropout[active_adapter], x)
        z = fn.masked_linear(x, module.lora_A[active_adapter].weight, mask) * module.scaling[active_adapter]
        return fn.add_linear(result, z, module.lora_B[active_adapter].weight)

    @staticmethod
    def merge_safe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data += module.get_delta_weight(active_adapter)

    @staticmethod
    def unmerge(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        return orig_weight - module.get_delta_weight(active_adapter).to(orig_weight.dtype)


def cast_weights(model: PeftModel) -> None:
    """Give every plain LoRA layer on a `torch.nn.Linear` the variant above; others (quantised, DoRA ...) stay PEFT's."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.get_base_layer()) is torch.nn.Linear:
            for adapter, slot in layer.lora_B.items():
                if adapter not in layer.lora_variant and slot.bias is None:
                    layer.lora_variant[adapter] = PlainVariant()
                    layer.cast_input_dtype_enabled = False

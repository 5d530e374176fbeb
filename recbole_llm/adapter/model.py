"""Gated LoRA as a PEFT tuner, registered with PEFT when this module is imported.

`get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`, `add_adapter`, `set_adapter`, `disable_adapter` and
`modules_to_save` work as for LoRA. PEFT's own registration refuses names outside its enumeration, hence the mappings.
"""

import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from recbole_llm.adapter.config import PEFT_TYPE, GatedLoraConfig
from recbole_llm.adapter.gate import GateHolder
from recbole_llm.adapter.layer import MERGE_REFUSED, gate_layer

NOT_LINEAR = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


class GatedLoraModel(LoraModel):
    """`LoraModel` whose slots are gated; `gate_holder` is the object they share (see `recbole_llm.adapter.gate`)."""

    def _pre_injection_hook(self, model: nn.Module, config: GatedLoraConfig, adapter_name: str) -> None:
        if "gate_holder" not in self.__dict__:
            self.gate_holder = GateHolder()
        super()._pre_injection_hook(model, config, adapter_name)

    def _create_and_replace(self, lora_config: GatedLoraConfig, adapter_name: str, target: nn.Module, target_name: str,
                            parent: nn.Module, current_key: str, **kwargs) -> None:
        base = target.get_base_layer() if isinstance(target, LoraLayer) else target
        if isinstance(base, NOT_LINEAR):
            raise ValueError(f"target_modules names {current_key}, a {type(base).__name__}: gated adapters adapt "
                             "linear layers only; leave it out of lora_target_modules")
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **kwargs)
        layer = getattr(parent, target_name)
        if getattr(layer.get_base_layer(), "_hf_tp_plan", None) is not None:
            raise ValueError(f"{current_key} is sharded by tensor parallelism, which gated adapters do not support; "
                             "load the LLM without tp_plan")
        gate_layer(layer, adapter_name, current_key, lora_config, self.gate_holder)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.gate_holder.modules.pop(adapter_name, None)
        self.gate_holder.mixed.clear()

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSED)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        raise ValueError(MERGE_REFUSED)

    def add_weighted_adapter(self, *args, **kwargs) -> None:
        raise ValueError("gated adapters cannot be combined by add_weighted_adapter: their experts' gates come from "
                         "different routers. Train one adapter with more experts instead")

    def _enable_peft_forward_hooks(self, *args, **kwargs):
        if kwargs.get("adapter_names") is not None:
            raise ValueError("adapter_names: a gated model cannot serve several adapters in one batch, as the gate's "
                             "rows would not be those of the input; run one adapter at a time with set_adapter")
        return super()._enable_peft_forward_hooks(*args, **kwargs)


def adapter_parameters(model: nn.Module, adapter_name: str = "default") -> list[torch.nn.Parameter]:
    """The parameters in the slots of `adapter_name`, for an optimizer's parameter group."""
    return [parameter for layer in model.modules() if isinstance(layer, LoraLayer) and adapter_name in layer.lora_A
            for slot in (layer.lora_A[adapter_name], layer.lora_B[adapter_name]) for parameter in slot.parameters()]


PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = GatedLoraConfig
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = GatedLoraModel
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = GatedLoraModel.prefix

"""Gated low-rank adapters for LLMs as PEFT tuners: iLoRA's split experts and RecLoRA's mixed meta-LoRAs.

    model = get_peft_model(llm, GatedLoraConfig(r=8, lora_alpha=32, num_experts=4, target_modules="all-linear"))
    with use_gate(model, gate):          # gate [B, K]
        loss = model(**batch).loss
    loss.backward()
"""

from recbole_llm.adapter.config import GatedLoraConfig
from recbole_llm.adapter.dropout import RowDropout, drop_by_row
from recbole_llm.adapter.functional import gated_delta, mixed_delta
from recbole_llm.adapter.gate import (
    Gate,
    checkpoint_context_fn,
    enable_gradient_checkpointing,
    gated_modules,
    use_gate,
)
from recbole_llm.adapter.model import GatedLoraModel, adapter_parameters
from recbole_llm.adapter.plain import cast_weights
from recbole_llm.adapter.router import PersonalisedRouter, Router, routing_weights

__all__ = [
    "Gate", "GatedLoraConfig", "GatedLoraModel", "PersonalisedRouter", "Router", "RowDropout", "adapter_parameters",
    "cast_weights", "checkpoint_context_fn", "drop_by_row", "enable_gradient_checkpointing", "gated_delta",
    "gated_modules", "mixed_delta", "routing_weights", "use_gate",
]

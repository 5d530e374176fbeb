"""A tiny Llama with random weights and gated adapters, and gates for it."""

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from recbole_llm.adapter import GatedLoraConfig
from recbole_llm.adapter.layer import Slot

VOCAB = 32


def tiny_llama(dtype: torch.dtype = torch.float32, hidden: int = 16) -> LlamaForCausalLM:
    """The same weights at each call: two layers."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=hidden, intermediate_size=24 * hidden // 16, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0)
    return LlamaForCausalLM(config).to(dtype)


def gated_llama(mixing: str = "split", dtype: torch.dtype = torch.float32, **options):
    """A tiny Llama with a gated adapter whose B is not 0, so that the gate matters."""
    options = {"r": 8, "lora_alpha": 16, "num_experts": 4, "target_modules": "all-linear", **options}
    model = get_peft_model(tiny_llama(dtype), GatedLoraConfig(mixing=mixing, task_type="CAUSAL_LM", **options))
    fill(model)
    return model


def fill(model, seed: int = 1) -> None:
    """Random values into every slot, B included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Slot):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * 0.2)


def softmax_gate(*shape: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A gate that differs from row to row."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1).to(dtype)


def prompts(rows: int = 3, length: int = 7, seed: int = 3) -> torch.Tensor:
    """Token ids [rows, length]."""
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))

"""Random causal LMs of several families, small enough to build in milliseconds, with weights large enough to matter; and batches for them."""

from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 300
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OTHER_NAMES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 128, "ffn_dim": 48}
MODEL_TYPES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "opt")


def build(model_type, attention="sdpa", seed=0, **changes):
    """A frozen float32 model in eval mode; with `attention` eager where the family has nothing else."""
    sizes = {**_SIZES, **_OTHER_NAMES, "word_embed_proj_dim": 32, "d_model": 32, "n_heads": 4, "n_layers": 2}
    sizes |= {"num_layers": 2, "num_heads": 4, **changes}
    known = AutoConfig.for_model(model_type)
    config = AutoConfig.for_model(model_type, **{k: v for k, v in sizes.items() if k in changes or hasattr(known, k)})
    torch.manual_seed(seed)
    try:
        llm = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except ValueError:
        if attention == "eager":
            raise
        return None
    generator = torch.Generator().manual_seed(seed)
    for weight in llm.parameters():
        if weight.ndim > 1:
            size = 1.0 if VOCABULARY in weight.shape else 0.3
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * size)
    return llm.float().requires_grad_(False).eval()


def make_batch(llm, prompts=(5, 9, 8), n_candidates=4, tokens=5, seed=0, garbage=50.0):
    """Left-padded prompts with garbage in the padding, and branches of 1 to `tokens` tokens."""
    generator = torch.Generator().manual_seed(seed)
    batch, length = len(prompts), max(prompts)
    ids = torch.randint(3, 290, (batch, length), generator=generator)
    mask = torch.arange(length) >= length - torch.tensor(prompts)[:, None]
    embeds = llm.get_input_embeddings()(ids).detach()
    embeds = torch.where(mask[..., None], embeds, torch.full_like(embeds, garbage))
    branches = torch.randint(3, 290, (batch, n_candidates, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (batch, n_candidates), generator=generator)
    lengths[0, 0], lengths[-1, -1] = tokens, 1
    return SimpleNamespace(
        ids=ids, inputs=(embeds, mask, branches, torch.arange(tokens) < lengths[..., None]), lengths=lengths
    )

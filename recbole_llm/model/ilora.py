"""iLoRA: Instance-wise LoRA (Kong et al., NeurIPS 2024, arXiv 2408.10159).

Section 4: LoRA's rank r is split into K experts of rank r/K; a gate reads the recommender's sequence representation
and gives each sequence its own mixture, delta W = s * sum_k w_k B_k A_k, with s = alpha / (r/K), so that uniform gates
equal plain LoRA. Prompts are LLaRA's.

Differences from the released code: the gate is the paper's linear softmax (theirs is one shared 1-D ResNet with batch
normalisation, which mixes rows of a batch); the delta is computed without forming [B, S, K, d_out]. ``recipe: released``
brings back what the prompts and labels inherit from LLaRA's code, not that router: ``gate_form`` has its forms.
"""

from __future__ import annotations

import hashlib

import torch

from recbole_llm.adapter import GatedLoraConfig, Router
from recbole_llm.model.llara import LLaRA


class iLoRA(LLaRA):  # noqa: N801  (the paper's name, as typed on the command line)
    """LLaRA with instance-wise LoRA."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.num_experts = config["num_experts"]
        self.gate_input = config["gate_input"]
        if self.gate_input in ("sequence", "item_mean"):
            width = self.user_dim if self.gate_input == "sequence" else self.crm.dim
            form = config["gate_form"]
            self.router = Router(width, self.num_experts, form, top_k=config["gate_top_k"] if form == "topk" else None)

    def adapter_config(self):
        return GatedLoraConfig(
            task_type="CAUSAL_LM", num_experts=self.config["num_experts"], mixing="split", **self.lora_arguments()
        )

    def gate(self, interaction) -> torch.Tensor:
        """``[B, K]`` weights; their input is detached from the CRM."""
        if self.gate_input == "sequence":
            return self.router(self.crm.user_vectors(interaction))
        items = interaction[self.ITEM_SEQ]
        if self.gate_input == "item_mean":
            shown = (items > 0).unsqueeze(-1)
            return self.router((self.crm.item_vectors[items] * shown).sum(1) / shown.sum(1).clamp_min(1))
        if self.gate_input == "uniform":
            return torch.full((len(items), self.num_experts), 1 / self.num_experts, device=items.device)
        return torch.stack([self._random_gate(row) for row in items.tolist()]).to(items.device)

    def _random_gate(self, history: list[int]) -> torch.Tensor:
        """An ablation: a softmax of noise that depends on the history alone, the same at every visit."""
        digest = hashlib.sha256(repr((self.config["seed"], history)).encode()).digest()
        noise = torch.randn(self.num_experts, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        return noise.softmax(-1)

"""iLoRA: Instance-wise LoRA (Kong et al., NeurIPS 2024, arXiv 2408.10159).

Section 4: LoRA's rank r is split into K experts of rank r/K; a gate reads the recommender's sequence representation
and gives each sequence its own mixture, delta W = s * sum_k w_k B_k A_k, with s = alpha / (r/K), so that uniform gates
equal plain LoRA. Prompts are LLaRA's.

Section 5.3 (figure 5) compares what the gate reads: `gate_input`.

Differences from the released code: the gate is the paper's linear softmax (theirs is one shared 1-D ResNet with batch
normalisation, which mixes rows of a batch), and it reads standardised rows, which theirs gets from SASRec alone; the delta is
computed without forming [B, S, K, d_out]. The paper's prompts are hybrid from the start; the code's collator draws text-only ones
as LLaRA's does. ``recipe: released`` brings back that curriculum and what prompts and labels inherit from LLaRA's code, not that
router: ``gate_form`` has its forms.
"""

from __future__ import annotations

import hashlib

import torch
from torch.nn import functional

from recbole_llm.adapter import GatedLoraConfig, Router
from recbole_llm.config.rules import GATE_INPUTS
from recbole_llm.model.llara import LLaRA


class iLoRA(LLaRA):  # noqa: N801  (the paper's name, as typed on the command line)
    """LLaRA with instance-wise LoRA."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.num_experts = config["num_experts"]
        self.gate_input = config["gate_input"]
        if self.gate_input not in ("random", "uniform"):
            widths = {"item_mean": self.crm.dim, "token_embedding": self.llm.get_input_embeddings().embedding_dim}
            form, top_k = config["gate_form"], config["gate_top_k"] if config["gate_form"] == "topk" else None
            width = widths.get(self.gate_input, self.user_dim)
            self.router = Router(width, self.num_experts, form, top_k=top_k, init=config["gate_init"])

    @classmethod
    def released_settings(cls, settings):
        return {**super().released_settings(settings), "curriculum": "linear"}

    @classmethod
    def check_config(cls, final):
        """The number of experts, among which the rank is split, must divide it."""
        rank, experts, top_k = (final.get(key) for key in ("lora_r", "num_experts", "gate_top_k"))
        problems = super().check_config(final)
        if type(rank) is int and type(experts) is int and experts > 0 and rank % experts:
            problems.append(f"num_experts: must divide lora_r, got num_experts={experts} and lora_r={rank}")
        if final.get("gate_form") == "topk" and type(experts) is type(top_k) is int and top_k > experts:
            problems.append(f"gate_top_k: must be at most num_experts={experts}, got {top_k}")
        if final.get("gate_input") in ("auto", "target"):
            problems.append(f"gate_input: {cls.__name__} takes {', '.join(GATE_INPUTS)}, got {final['gate_input']!r}")
        return problems

    def adapter_config(self):
        return GatedLoraConfig(
            task_type="CAUSAL_LM", num_experts=self.config["num_experts"], mixing="split", **self.lora_arguments()
        )

    def gate(self, interaction) -> torch.Tensor:
        """``[B, K]`` weights; their input is detached from the CRM."""
        items = interaction[self.ITEM_SEQ]
        if self.gate_input == "uniform":
            return torch.full((len(items), self.num_experts), 1 / self.num_experts, device=items.device)
        if self.gate_input == "random":
            return self._noise(items, self.num_experts).softmax(-1)
        vectors = self._gate_vectors(interaction)
        return self.router(functional.layer_norm(vectors, vectors.shape[-1:], eps=1e-12))  # embeddings' means may be tiny

    @torch.no_grad()
    def _gate_vectors(self, interaction) -> torch.Tensor:
        """What the router reads, ``[B, d]``; `gate` brings each row to mean 0 and variance 1.

        The released gate reads SASRec's states, which end in a LayerNorm. Other CRMs' vectors, means of item or token
        embeddings are of other scales, on which a gate would start, and stay, next to uniform.
        """
        items = interaction[self.ITEM_SEQ]
        if self.gate_input == "sequence":
            return self.crm.user_vectors(interaction)
        if self.gate_input == "random_embedding":
            return self._noise(items, self.user_dim)
        if self.gate_input == "item_mean":
            return _mean(self.crm.item_vectors[items], items > 0)
        words = interaction["prompt_mask"].bool() & (interaction["prompt_items"] == 0)  # slots hold no token
        return _mean(self.llm.get_input_embeddings()(interaction["prompt_ids"]).float(), words)

    def _noise(self, histories: torch.Tensor, width: int) -> torch.Tensor:
        """Standard normal ``[B, width]``, for each history its own and the same at every visit."""
        rows = []
        for history in histories.tolist():
            digest = hashlib.sha256(repr((self.config["seed"], history)).encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            rows.append(torch.randn(width, generator=generator))
        return torch.stack(rows).to(histories.device)


def _mean(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``[B, d]``: the mean over L of ``vectors`` [B, L, d] where ``mask`` [B, L]."""
    mask = mask.unsqueeze(-1)
    return (vectors * mask).sum(1) / mask.sum(1).clamp_min(1)

"""E4SRec: an elegant, effective, efficient, extensible solution of LLMs for sequential recommendation (Li et al., 2023, arXiv 2312.02443).

Four stages (section 2.1): a sequential recommender is pretrained, the LLM is instruction-tuned, E4SRec is trained on both, then deployed.
This is the third (section 2.4): a prompt holds item ids alone, each one projected vector of the recommender, and no title; a linear layer
over the catalogue reads the last hidden state h, p = softmax(W h). The input projection, LoRA and W learn by cross entropy with the next
item among all items (equation 1); the LLM and the vectors are frozen. All items are scored in one forward pass, so that `protocol: full`
needs no retriever.

Differences from the paper: no instruction tuning comes before (take an instruction-tuned `llm_path`); the instruction is our sentence, not
Alpaca's template; the input projection scales the vectors and is a d x d map before a fixed isometry; the CRM is any model of
`crm_model` (the paper: SASRec); the weights kept are the best on validation rows (the released code keeps the last).
"""

from __future__ import annotations

import torch
from torch import nn

from recbole_llm import registry
from recbole_llm.data import prompt
from recbole_llm.data.heads import CATALOGUE
from recbole_llm.data.prompt import Item
from recbole_llm.llm import causal_lm
from recbole_llm.model.base import LLMRecommender


class E4SRec(LLMRecommender):
    """Item vectors in, scores of the catalogue out."""

    template_fields = ("history",)
    head = CATALOGUE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.score = nn.Linear(self.llm.get_input_embeddings().embedding_dim, self.n_items, bias=False)
        self.whole_catalogue = registry.protocol(config["protocol"]).retrieves

    @classmethod
    def render(cls, example):
        """The history as slots without titles."""
        return prompt.fill(example.template, {"history": [Item(item, slot=True, title=False) for item in example.history]})

    @classmethod
    def fixed_settings(cls):
        """Prompts are the history's vectors, and answers items of the catalogue."""
        alone = {"behaviour_tokens": "history", "user_token": False, "users_per_list": 1, "history_from": 0.0}
        return super().fixed_settings() | alone | {"curriculum": "none", "likelihood_over": "vocabulary"}

    @classmethod
    def check_config(cls, final):
        problems, fields = super().check_config(final), final.get("prompt_fields")
        if isinstance(fields, dict) and fields.get("item"):
            problems.append("prompt_fields: E4SRec's prompts hold no titles, so that no item field can stand behind one; name user fields only")
        if any(isinstance(stage, dict) and stage.get("prompts") == "text" for stage in final.get("stages") or ()):
            problems.append("stages: E4SRec's prompts hold item vectors and no titles, so that no stage can show text alone; leave prompts out")
        return problems

    def log_probs(self, interaction) -> torch.Tensor:
        """``[B, n_items]`` float32: log softmax(W h), without the padding item."""
        embeds, mask = self.embed(interaction), interaction["prompt_mask"]
        out = causal_lm.forward(
            self.llm, embeds, mask.long(), causal_lm.positions_of(mask), keep=1, use_cache=False, output_hidden_states=True
        )
        logits = self.score(out.hidden_states[-1][:, -1].to(self.score.weight.dtype)).float()
        padding = torch.zeros_like(logits, dtype=torch.bool).index_fill_(1, logits.new_zeros(1, dtype=torch.long), True)
        return logits.masked_fill(padding, torch.finfo(logits.dtype).min).log_softmax(1)

    def weight(self, interaction):
        """One per row."""
        return interaction["prompt_mask"].new_ones(len(interaction), dtype=torch.long)

    def forward(self, interaction):
        found = self.log_probs(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
        return found, self.weight(interaction)

    @torch.no_grad()
    def score_candidates(self, interaction):
        """Log-probabilities of the candidates ``[B, C]``.

        Raises:
            ValueError: a candidate has no interactions, and so no place in the layer.
        """
        if (interaction["candidates"] >= self.n_items).any():
            raise ValueError("E4SRec scores items that have interactions, by a layer over these; leave the others out of candidates")
        return self.log_probs(interaction).gather(1, interaction["candidates"])

    @torch.no_grad()
    def evaluation_scores(self, interaction):
        """Those of the candidates, or under `protocol: full` of all items ``[B, n_items]``."""
        return self.log_probs(interaction) if self.whole_catalogue else self.score_candidates(interaction)

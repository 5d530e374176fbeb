"""RecLoRA: Lifelong Personalized Low-Rank Adaptation of LLMs for Recommendation (Zhu et al., arXiv 2408.03533).

Section 4.1: each adapted projection has N parallel meta-LoRAs; a router of its own reads the recommender's
representation of the user and mixes them, A_u = sum_n a_n A_n, B_u = sum_n a_n B_n, delta = s B_u A_u x. Section 4.2:
the recommender reads a long history of ids, the LLM a short one of titles (`data.retriever`). Section 4.3 (Few2Many):
the recommender is trained on all rows, the LLM on a few (`train_sample_size`). The answer is a token, Yes or No.

Differences from the released code: candidates can share their history's forward pass when the gate does not depend on
them (`gate_input: sequence`); `lora_mixing: output` sums products instead of matrices; selection reads the validation
rows. `recipe: released` brings back its selection on the test rows, and its linear schedule over all epochs that ends after the
first, when the rate is still at four fifths of its peak.
"""

from __future__ import annotations

import torch
from peft import LoraConfig

from recbole_llm import registry
from recbole_llm.adapter import Gate, GatedLoraConfig, PersonalisedRouter, gated_modules
from recbole_llm.data import prompt
from recbole_llm.data.click.questions import answer_ids, click_templates
from recbole_llm.data.prompt import Field
from recbole_llm.data.tokens import USER_SLOT
from recbole_llm.llm.yes_no import branch_scores
from recbole_llm.model.base import LLMRecommender

TARGET_AWARE = ("DIN", "DIEN")  # RecBole's sequential models whose representation depends on the item asked about


class RecLoRA(LLMRecommender):
    """Answers whether a user will like an item; its P(Yes) is a click probability and ranks candidates."""

    template_fields = ("history", "target")
    scoring = "yes_no"
    reads_labels = gives_probabilities = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.gate_input = gate_input(config)
        if self.gate_input == "target" and not self.crm.target_aware:
            raise ValueError(
                f"gate_input: target needs a CRM that reads the item asked about, and crm_model={self.crm.name} "
                f"does not; use {' or '.join(TARGET_AWARE)}, or gate_input: sequence"
            )
        self.yes_no = answer_ids(config, self.tokens.tokenizer, click_templates(config)[0])
        self.mixing = config["lora_mixing"]
        if config["behaviour_tokens"] == "none":
            self.projector.requires_grad_(False)
        if self.mixing != "none":
            self.router = PersonalisedRouter(
                self.user_dim, config["num_experts"],
                None if config["gate_shared"] else len(gated_modules(self.llm)),
                hidden=config["gate_hidden"], dropout=config["gate_dropout"],
                temperature=config["gate_temperature"], top_k=config["gate_top_k"], init=config["gate_init"],
            )  # fmt: skip

    @classmethod
    def released_settings(cls, settings):
        return {"epochs": 1, "lr_epochs": settings["epochs"], "lr_schedule": "linear"}

    @staticmethod
    def shares_prefix(config) -> bool:
        """Whether items asked about after one history may share its forward pass: no gate reads them."""
        return config["lora_mixing"] == "none" or gate_input(config) == "sequence"

    @classmethod
    def hybrid_probability(cls, config, progress):
        return 1.0

    # ---- prompt ----------------------------------------------------------------------------------------------------

    @classmethod
    def prefix(cls, example) -> list[prompt.Segment]:
        """What stands before the item asked about: the history, which several questions may share."""
        head, tail = _halves(example.template)
        return prompt.render(
            head,
            example.history,
            behaviour_tokens=example.behaviour_tokens,
            user_token=example.user_token and Field("user") not in tail,
            notes=example.notes,
        )

    @classmethod
    def branch(cls, example) -> list[prompt.Segment]:
        """The item asked about, and the end of the question."""
        _, tail = _halves(example.template)
        return prompt.render(
            tail,
            (),
            target=example.target,
            behaviour_tokens=example.behaviour_tokens,
            user_token=example.user_token and Field("user") in tail,
        )

    @classmethod
    def render(cls, example) -> list[prompt.Segment]:
        return cls.prefix(example) + cls.branch(example)

    # ---- adapter and gate ------------------------------------------------------------------------------------------

    def adapter_config(self) -> LoraConfig:
        if self.config["lora_mixing"] == "none":
            return super().adapter_config()
        return GatedLoraConfig(
            task_type="CAUSAL_LM",
            num_experts=self.config["num_experts"],
            mixing=self.config["lora_mixing"],
            **self.lora_arguments(),
        )

    def gate(self, interaction) -> Gate | None:
        """Weights of the meta-LoRAs, [B, M, N] for M projections, [B, N] with one shared router; None without."""
        if self.mixing == "none":
            return None
        target = interaction[self.ITEM_ID] if self.gate_input == "target" else None
        weights = self.router(self.crm.user_vectors(interaction, target))
        return Gate.per_row(weights) if self.router.shared else Gate.per_module(weights)

    # ---- scoring ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score_candidates(self, interaction) -> torch.Tensor:
        """P(Yes) of every item asked about, ``[B, C]`` float32.

        One prompt per row with all items as its branches where the gate and the history are the user's alone; else a
        prompt for each (row, item), in chunks of the batch's rows.
        """
        if interaction["prompt_ids"].dim() == 2 and self.shares_prefix(self.config):
            return self._score(interaction)
        apart = _one_item_per_row(interaction, self)
        size = len(interaction)
        parts = [self._score(apart[start : start + size]) for start in range(0, len(apart), size)]
        return torch.cat(parts).view(interaction["candidates"].shape)

    def _score(self, interaction) -> torch.Tensor:
        ids, items = interaction["branch_ids"], interaction["branch_items"]
        rows = {"prompt_ids": ids.flatten(0, 1), "prompt_items": items.flatten(0, 1)}
        if (items == USER_SLOT).any():
            rows |= {name: interaction[name].repeat_interleave(ids.shape[1], dim=0) for name in self._user_columns}
        self._check_length(interaction["prompt_ids"].shape[1] + ids.shape[2])
        branches = self.embed(rows).unflatten(0, ids.shape[:2])  # [B, C, T, d]
        with self.gated(interaction):
            return branch_scores(
                self.llm,
                self.embed(interaction),
                interaction["prompt_mask"],
                branches,
                interaction["branch_mask"],
                self.yes_no,
                method=self.config["scoring_method"],
            )

    @property
    def _user_columns(self) -> tuple[str, ...]:
        """What the CRM's user vector is made of."""
        return self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN

    def predict(self, interaction) -> torch.Tensor:
        """``[B]``: P(Yes) of each row's ``item_id``, which must be one of its candidates where there are prompts."""
        if "prompt_ids" not in interaction:
            return super().predict(interaction)
        found = (interaction["candidates"] == interaction[self.ITEM_ID][:, None]).int().argmax(1, keepdim=True)
        return self.score_candidates(interaction).gather(1, found).squeeze(1)

    def generate(self, interaction):
        raise ValueError("llm_eval: generate has no meaning for RecLoRA, whose answer is Yes or No; use likelihood")


def _halves(template: list) -> tuple[list, list]:
    """A question's template before the item asked about, and from there on."""
    place = template.index(Field("target"))
    return template[:place], template[place:]


def gate_input(config) -> str:
    """``target`` or ``sequence``; ``auto`` is the first under protocol ctr with a target-aware CRM."""
    if config["gate_input"] != "auto":
        return config["gate_input"]
    return "target" if registry.protocol(config["protocol"]).labelled and config["crm_model"] in TARGET_AWARE else "sequence"


def _one_item_per_row(interaction, model):
    """``[B, C]`` questions as B*C rows with one item each, row b's item c at b*C + c."""
    n = interaction["candidates"].shape[1]
    apart = {model.ITEM_ID: interaction["candidates"].flatten(), "candidates": interaction["candidates"].view(-1, 1)}
    for name in ("branch_ids", "branch_mask", "branch_items"):
        apart[name] = interaction[name].flatten(0, 1).unsqueeze(1)
    for name, dims in (
        ("prompt_ids", 3),
        ("prompt_mask", 3),
        ("prompt_items", 3),
        (model.ITEM_SEQ, 3),
        (model.ITEM_SEQ_LEN, 2),
    ):
        column = interaction[name]
        apart[name] = column.flatten(0, 1) if column.dim() == dims else column.repeat_interleave(n, dim=0)
    apart[model.USER_ID] = interaction[model.USER_ID].repeat_interleave(n)
    return type(interaction)(apart)

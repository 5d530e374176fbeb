"""RecLoRA: Lifelong Personalized Low-Rank Adaptation of LLMs for Recommendation (Zhu et al., arXiv 2408.03533).

Section 4.1: each adapted projection has N parallel meta-LoRAs; a router of its own reads the recommender's
representation of the user and mixes them, A_u = sum_n a_n A_n, B_u = sum_n a_n B_n, delta = s B_u A_u x. Section 4.2:
the recommender reads a long history of ids, the LLM a short one of titles (`data.click.retriever`). Section 4.3 (Few2Many):
the recommender is trained on all rows, the LLM on a few (`train_sample_size`). The answer is a token, Yes or No.

Differences from the released code: candidates can share their history's forward pass when the gate does not depend on
them (`gate_input: sequence`); `lora_mixing: output` sums products instead of matrices; selection reads the validation
rows. `recipe: released` brings back its selection on the test rows, and its linear schedule over all epochs that ends after the
first, when the rate is still at four fifths of its peak.
"""

from __future__ import annotations

from peft import LoraConfig

from recbole_llm import registry
from recbole_llm.adapter import Gate, GatedLoraConfig, PersonalisedRouter, gated_modules
from recbole_llm.model.pointwise import PointwiseLLM

TARGET_AWARE = ("DIN", "DIEN", "RatedDIN")  # sequential models whose representation depends on the item asked about


class RecLoRA(PointwiseLLM):
    """Answers whether a user will like an item; its P(Yes) is a click probability and ranks candidates."""

    selects_on_test = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.gate_input = gate_input(config)
        if self.gate_input == "target" and not self.crm.target_aware:
            raise ValueError(
                f"gate_input: target needs a CRM that reads the item asked about, and crm_model={self.crm.name} "
                f"does not; use {' or '.join(TARGET_AWARE)}, or gate_input: sequence"
            )
        self.mixing = config["lora_mixing"]
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

    @classmethod
    def shares_prefix(cls, config) -> bool:
        """Whether items asked about after one history may share its forward pass: no gate reads them."""
        return config["lora_mixing"] == "none" or gate_input(config) == "sequence"

    @classmethod
    def check_config(cls, final):
        """At most all meta-LoRAs are kept, and gates read what RecLoRA's may."""
        experts, top_k, gate = (final.get(key) for key in ("num_experts", "gate_top_k", "gate_input"))
        problems = super().check_config(final)
        if type(experts) is type(top_k) is int and top_k > experts:
            problems.append(f"gate_top_k: must be at most num_experts={experts}, got {top_k}")
        if gate not in ("auto", "target", "sequence"):
            problems.append(f"gate_input: {cls.__name__} takes auto, target or sequence, got {gate!r}")
        return problems

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


def gate_input(config) -> str:
    """``target`` or ``sequence``; ``auto`` is the first under protocol ctr with a target-aware CRM."""
    if config["gate_input"] != "auto":
        return config["gate_input"]
    return "target" if registry.protocol(config["protocol"]).labelled and config["crm_model"] in TARGET_AWARE else "sequence"

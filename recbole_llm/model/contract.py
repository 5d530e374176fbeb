"""What a recommender may say of itself; everything else is :class:`recbole_llm.model.base.LLMRecommender`'s."""

from __future__ import annotations

import torch
from peft import LoraConfig
from recbole.data.interaction import Interaction

from recbole_llm import registry
from recbole_llm.config.checks import list_problems
from recbole_llm.config.stages import stage_at, stage_problems
from recbole_llm.data import heads, prompt
from recbole_llm.llm.loading import loading_problems


class Contract:
    """The defaults are LLaRA's: titles with slots, a listwise prompt, plain LoRA, no gate.

    Attributes:
        template_fields: fields that a template must have.
        head: what answers; the others are LETTERS, YES_NO (model/pointwise.py) and CATALOGUE (model/e4srec.py).
        uses_projector: False where prompts are text alone.
        crm_kinds: of RecBole's models that may be the CRM; "general" ones (BPR, LightGCN) know users by their ids.
    """

    template_fields = ("history", "candidates")
    head = heads.TITLE
    uses_projector = True
    crm_kinds = ("sequential",)

    @classmethod
    def render(cls, example) -> list[prompt.Segment]:
        """Segments of one example's prompt (:class:`recbole_llm.data.prompt_rows.Example`)."""
        return prompt.render(
            example.template,
            example.history,
            example.candidates,
            behaviour_tokens=example.behaviour_tokens,
            user_token=example.user_token,
        )

    @classmethod
    def answer(cls, tokens, example, position: int) -> list[int]:
        """Token ids of the answer that names the candidate at ``position``: its title and the end token."""
        return tokens.answer(example.candidates[position])

    selects_on_test = False  # whether `recipe: released` validates on the test rows, as the authors' code does

    @classmethod
    def needs_crm(cls, config) -> bool:
        """Whether a run trains or reads a CRM: for slots and gates, or where the protocol's prompts rank what it retrieves."""
        return cls.uses_projector or (registry.is_protocol(config["protocol"]) and registry.protocol(config["protocol"]).retrieves)

    @classmethod
    def fixed_settings(cls) -> dict:
        """Settings that this model can have in one way alone: they go over all YAML, and another value of the user's is a problem."""
        return {} if cls.uses_projector else {"behaviour_tokens": "none", "user_token": False, "history_from": 0.0, "curriculum": "none"}

    @classmethod
    def check_config(cls, final: dict) -> list[str]:
        """Lines (key, rule, remedy) for settings that this model cannot have; values may still be of a wrong type."""
        problems = [
            f"{key}: {cls.__name__} has it at {value} alone, got {final[key]!r}; remove it"
            for key, value in cls.fixed_settings().items()
            if final.get(key, value) != value
        ]
        for key, value in (("llm_eval", "generate"), ("selection", "generation")):
            if final.get(key) == value and not cls.head.writes:
                problems.append(f"{key}: {value} has no meaning for {cls.__name__}, which scores items and writes no text; remove it")
        problems += loading_problems(final) + list_problems(final) + stage_problems(final, cls.uses_projector)
        return problems + cls.head.template_problems(final, cls.template_fields)

    @classmethod
    def hybrid_probability(cls, config, progress: float) -> float:
        """Chance that a training batch at ``progress`` in [0, 1) carries behaviour tokens (LLaRA, section 3.3)."""
        if config["stages"]:
            return float(stage_at(config["stages"], progress).get("prompts") != "text")
        return progress if config["curriculum"] == "linear" else 1.0

    @classmethod
    def released_settings(cls, settings: dict) -> dict:
        """What ``recipe: released`` changes in the configuration: the quirks of the authors' code, as settings."""
        return {}

    def adapter_config(self) -> LoraConfig:
        """Plain LoRA on the configured projections."""
        return LoraConfig(task_type="CAUSAL_LM", **self.lora_arguments())

    def lora_arguments(self) -> dict:
        return {
            "r": self.config["lora_r"],
            "lora_alpha": self.config["lora_alpha"],
            "lora_dropout": self.config["lora_dropout"],
            "target_modules": self.config["lora_target_modules"],
        }

    def gate(self, interaction: Interaction) -> torch.Tensor | None:
        """Mixing weights ``[B, K]`` of the adapter's experts, or None for an adapter without a gate."""
        return None

"""Recommenders that are asked about one item at a time and answer Yes or No.

P(Yes) is a click probability under `protocol: ctr` and ranks candidates under the others. A prompt is a prefix, which several items
may share in one forward pass (:mod:`recbole_llm.llm.yes_no`), and a branch for each item.
"""

from __future__ import annotations

import torch

from recbole_llm import registry
from recbole_llm.data import prompt
from recbole_llm.data.click.timelines import HISTORY_RATINGS
from recbole_llm.data.click.wording import answer_ids, click_templates
from recbole_llm.data.heads import YES_NO
from recbole_llm.data.prompt import Field
from recbole_llm.data.tokens import USER_SLOT
from recbole_llm.llm.yes_no import branch_scores
from recbole_llm.model.base import LLMRecommender


class PointwiseLLM(LLMRecommender):
    """P(Yes) of each item; a subclass says what its prompts show and how its adapter is made."""

    template_fields = ("history", "target")
    head = YES_NO
    reads_labels = gives_probabilities = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.yes_no = answer_ids(config, self.tokens.tokenizer, click_templates(config)[0])
        if self.uses_projector and config["behaviour_tokens"] == "none":
            self.projector.requires_grad_(False)

    @classmethod
    def fixed_settings(cls):
        """A prompt shows no list, so that users share none and a history is always there."""
        return super().fixed_settings() | {"users_per_list": 1, "history_from": 0.0}

    @classmethod
    def check_config(cls, final):
        problems = super().check_config(final)
        known = registry.is_protocol(final.get("protocol"))
        if final.get("crm_rows") == "sample" and known and not registry.protocol(final["protocol"]).labelled:
            problems.append(f"crm_rows: sample is for protocol 'ctr', got protocol={final.get('protocol')!r}; use all")
        if final.get("history_notes") == "ratings" and {"liked", "disliked"} & set(cls.template_fields):
            problems.append(f"history_notes: {cls.__name__} lists liked and disliked items apart and writes no ratings; remove it, or use likes")
        return problems

    @classmethod
    def shares_prefix(cls, config) -> bool:
        """Whether items asked about after one history may share its forward pass: nothing before them depends on them."""
        return True

    @classmethod
    def prefix(cls, example) -> list[prompt.Segment]:
        """What stands before the item asked about: the history, which several questions may share."""
        head, tail = halves(example.template)
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
        _, tail = halves(example.template)
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
            rows |= {name: interaction[name].repeat_interleave(ids.shape[1], dim=0) for name in self._user_columns if name in interaction}
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
        return self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN, HISTORY_RATINGS

    def predict(self, interaction) -> torch.Tensor:
        """``[B]``: P(Yes) of each row's ``item_id``, which must be one of its candidates where there are prompts."""
        if "prompt_ids" not in interaction:
            return super().predict(interaction)
        found = (interaction["candidates"] == interaction[self.ITEM_ID][:, None]).int().argmax(1, keepdim=True)
        return self.score_candidates(interaction).gather(1, found).squeeze(1)

    def generate(self, interaction):
        raise ValueError("llm_eval: generate has no meaning for a model whose answer is Yes or No; use likelihood")


def halves(template: list) -> tuple[list, list]:
    """A question's template before the item asked about, and from there on."""
    place = template.index(Field("target"))
    return template[:place], template[place:]


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
        (HISTORY_RATINGS, 3),
    ):
        if name not in interaction:  # only a CRM that reads ratings has them
            continue
        column = interaction[name]
        apart[name] = column.flatten(0, 1) if column.dim() == dims else column.repeat_interleave(n, dim=0)
    apart[model.USER_ID] = interaction[model.USER_ID].repeat_interleave(n)
    return type(interaction)(apart)

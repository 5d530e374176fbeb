"""LlamaRec: two-stage recommendation with LLMs for ranking (Yue et al., PGAI at CIKM 2023, arXiv 2311.02089).

Section 3.2: a sequential recommender retrieves 20 candidates (3.2.1); the prompt shows the history and the candidates as options (A), (B),
..., and a verbalizer reads the option letters' logits at the prompt's last position, one forward pass for all (3.2.2). Training is
next-token prediction of the target's letter, -log softmax(z)_letter over the vocabulary (`likelihood_over: vocabulary`), or over the
options alone; its lists are the target and random items.

Differences from the paper: its retriever is LRURec, here any sequential model of RecBole (`crm_model`, read under `protocol: full`; under
`candidates` the frozen candidate set is ranked); no end token is learnt after the letter; the wording is ours and the history is not
numbered; LoRA is on an LLM that is not quantised (QLoRA: `llm_quantization: 4bit`); letters are A to Z, so at most 26 options.
"""

from __future__ import annotations

from string import ascii_uppercase

from recbole_llm import registry
from recbole_llm.data import prompt
from recbole_llm.data.heads import LETTERS
from recbole_llm.data.prompt import Item
from recbole_llm.model.base import LLMRecommender


class LlamaRec(LLMRecommender):
    """Options and a verbalizer, text alone."""

    head = LETTERS
    uses_projector = False

    @classmethod
    def render(cls, example):
        """LLaRA's segments, each candidate behind its option letter."""
        shown = {"history": prompt.items_of(example.history, slot=False) or [" nothing yet"], "candidates": []}
        for letter, item in zip(ascii_uppercase, example.candidates, strict=False):
            shown["candidates"] += [f"\n({letter})", Item(item, slot=False)]
        return prompt.fill(example.template, shown)

    @classmethod
    def answer(cls, tokens, example, position):
        """The option letter, as it follows the prompt's end, without an end token: the last position predicts it.

        Raises:
            ValueError: there are more candidates than letters.
        """
        if position >= len(ascii_uppercase):
            raise ValueError(f"LlamaRec has {len(ascii_uppercase)} option letters and got {len(example.candidates)} candidates; name fewer")
        return tokens.encode(f" {ascii_uppercase[position]}")[-1:]

    @classmethod
    def check_config(cls, final):
        problems = super().check_config(final)
        keys = ["n_candidates"]  # training lists under every protocol
        if registry.is_protocol(final.get("protocol")) and registry.protocol(final["protocol"]).retrieves:
            keys.append("rerank_n")
        for key in keys:
            if type(final.get(key)) is int and final[key] > len(ascii_uppercase):
                problems.append(f"{key}: LlamaRec has {len(ascii_uppercase)} option letters, got {final[key]}; lower it")
        return problems

"""TALLRec: tuning LLMs to recommend (Bao et al., RecSys 2023, arXiv 2305.00447).

Section 2.2, rec-tuning: an instruction lists the items that a user liked and those that they disliked, and asks whether they will enjoy
a target; the answer is Yes or No. LoRA learns max sum_t log P(y_t | x, y_<t) on 16 to 256 such samples; there is no recommender beside
the LLM and no behaviour token. The score of an item is P(Yes) = e^(z_Yes) / (e^(z_Yes) + e^(z_No)).

Differences from the paper: an instruction-tuned checkpoint takes the place of its first stage, alpaca tuning; the answer is one token, Yes
or No, without a full stop and the end token; the wording is ours; under `protocol: candidates`, whose rows have no labels, all of the
history counts as liked and negatives are sampled. From the released code: no loss on the prompt's tokens, as in the paper's objective; the
score there is a softmax of the two probabilities, not their share.
"""

from __future__ import annotations

from recbole_llm.data import prompt
from recbole_llm.model.pointwise import PointwiseLLM, halves


class TALLRec(PointwiseLLM):
    """Text alone: liked and disliked titles, plain LoRA, Yes or No."""

    template_fields = ("liked", "disliked", "target")
    uses_projector = False

    @classmethod
    def prefix(cls, example):
        """The two lists; an empty one says "nothing"."""
        likes = example.likes or [True] * len(example.history)
        shown: dict[str, list] = {"liked": [], "disliked": []}
        for item, liked in zip(example.history, likes, strict=True):
            shown["liked" if liked else "disliked"].append(item)
        lists = {name: prompt.items_of(items, slot=False) or [" nothing"] for name, items in shown.items()}
        return prompt.fill(halves(example.template)[0], lists)

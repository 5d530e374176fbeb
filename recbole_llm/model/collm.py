"""CoLLM: collaborative embeddings in a language model (Zhang et al., TKDE 2025, arXiv 2310.19488).

Section 4.1: beside the titles of what a user liked, a Yes/No prompt holds the user's and the target's embeddings of a conventional
recommender (MF, LightGCN, SASRec, DIN), mapped into the token space by an MLP g: e_u = g(u), e_i = g(i) (equation 3). Section 4.2, two
steps: LoRA learns on the text alone (equation 5), then it rests and the map learns on prompts with embeddings (equation 6) while the
recommender stays as it was pretrained (`stages`).

Differences from the paper: users and items have a map each; the MLP's hidden layer is as wide as the LLM, not ten times the input, and its
inputs are scaled; the loss is cross entropy of the answer's token, not binary cross entropy; the first step's prompts keep the words
around the user's slot; both steps are shares of one run; the recommender is never tuned (T1 and T2 of section 5.3.2) and is not DIN.
"""

from __future__ import annotations

from recbole_llm.model.pointwise import PointwiseLLM


class CoLLM(PointwiseLLM):
    """A user slot and the target's slot in a Yes/No prompt, trained in two stages."""

    crm_kinds = ("sequential", "general")

    @classmethod
    def check_config(cls, final):
        problems = super().check_config(final)
        if final.get("behaviour_tokens") == "none" and not final.get("user_token"):
            problems.append("behaviour_tokens: none leaves CoLLM without an embedding; set candidates, or user_token: True")
        return problems

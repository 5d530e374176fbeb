"""CoLLM: collaborative embeddings in a language model (Zhang et al., TKDE 2025, arXiv 2310.19488).

Section 4.1: beside the titles of what a user liked, a Yes/No prompt holds the user's and the target's embeddings of a conventional
recommender (MF, LightGCN, SASRec), mapped into the token space by an MLP: e_u = f(s_u), e_i = f(s_i). Section 4.2.2, two steps: LoRA
learns on the text alone, then it rests and the map learns on prompts with embeddings (`stages`).

Differences from the paper: users and items have maps of their own where the CRM's vectors are of two kinds; the CRM is frozen throughout
(the paper's variant CoLLM-I); history titles carry no embedding, as in its prompt.
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

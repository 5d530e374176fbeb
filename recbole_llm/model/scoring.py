"""What an LLM recommender answers once it is trained: scores of candidates, of the catalogue, of one item, and text."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction

from recbole_llm.llm import causal_lm, title_likelihood
from recbole_llm.model.contract import Contract


class CandidateScoring(Contract):
    """RecBole's ``predict`` and ``full_sort_predict``, and what this package's evaluation asks for, of a model's own parts.

    These are :class:`~recbole_llm.model.base.LLMRecommender`'s: ``llm``, ``embed``, ``gated``, ``tokens``, ``by_hand``.
    """

    @torch.no_grad()
    def score_candidates(self, interaction: Interaction) -> torch.Tensor:
        """Log-likelihood of every candidate's answer, ``[B, C]`` float32, in candidate-set order."""
        self._check_length(interaction["prompt_ids"].shape[1], interaction["branch_ids"].shape[2] - 1)
        with self.gated(interaction):
            return title_likelihood.score_candidates(
                self.llm,
                self.embed(interaction),
                interaction["prompt_mask"],
                interaction["branch_ids"],
                interaction["branch_mask"],
                method=self.config["scoring_method"],
                constrained=self.constrained,
            )

    def evaluation_scores(self, interaction: Interaction) -> torch.Tensor:
        """What evaluation ranks a row's target in: scores of its candidates ``[B, C]``, or of all items ``[B, item_num]``."""
        return self.score_candidates(interaction)

    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        """``[B, item_num]`` scores.

        Of prompts (this package's loaders): those of the candidates, minus infinity elsewhere. Of ids alone, a history and its
        length as RecBole's datasets hold them: the CRM's top ``rerank_n`` as the LLM ranks them, the rest below in the
        CRM's order, minus infinity for padding and the history (:mod:`recbole_llm.model.by_hand`).
        """
        if "prompt_ids" not in interaction:
            return self.by_hand.rank_catalogue(self, interaction)
        scores = self.score_candidates(interaction)
        full = scores.new_full((len(scores), self.n_items), -torch.inf)
        return full.scatter(1, interaction["candidates"], scores)

    def predict(self, interaction: Interaction) -> torch.Tensor:
        """``[B]``: the score of each row's ``item_id``.

        Of prompts it must be a candidate; of ids alone it is asked about among the CRM's top ``rerank_n``.
        """
        if "prompt_ids" not in interaction:
            return self.by_hand.score_asked(self, interaction)
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    @torch.no_grad()
    def generate(self, interaction: Interaction) -> list[str]:
        """Greedy answers as text, one per row, all their lines; :mod:`recbole_llm.evaluation.generation_metrics` reads the first."""
        longest = int(interaction["branch_mask"].sum(-1).max())
        self._check_length(interaction["prompt_ids"].shape[1], longest - 1)
        with self.gated(interaction):
            ids = causal_lm.generate(
                self.llm,
                self.embed(interaction),
                interaction["prompt_mask"],
                max_new_tokens=longest,
                eos_token_id=self.tokens.eos_token_id,
                pad_token_id=self.tokens.pad_token_id,
            )
        return self.tokens.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _check_length(self, prompt_length: int, answer_length: int = 0) -> None:
        """Refuse a prompt that does not fit with the tokens fed after it (all of an answer but its last)."""
        if self.context_length and prompt_length + answer_length > self.context_length:
            answer = f", with {answer_length} of an answer," if answer_length else ""
            raise ValueError(
                f"a prompt of {prompt_length} tokens{answer} does not fit the LLM's context of {self.context_length}; lower "
                "history_max_len, n_candidates or title_max_tokens, or choose an LLM with a longer context"
            )

"""What the CRM retrieves for the LLM."""

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_llm.evaluation import rerank
from recbole_llm.evaluation.full_rows import catalogue_ranks
from recbole_llm.evaluation.rerank import top_items
from tests.evaluation.full import full_rows_of


def test_the_top_n_and_the_ranks_agree_ties_included():
    rows = full_rows_of(200)
    number = np.arange(200)
    scores = np.random.default_rng(1).integers(0, 6, (200, 50)).astype(float)
    strict, _, _ = catalogue_ranks(scores, rows, number)
    best = top_items(scores, rows.allowed(number), rows.tie_keys(number), 10)
    inside = (best == rows.target[:, None]).any(1)
    assert np.array_equal(inside, strict <= 10)
    places = (best == rows.target[:, None])[inside].argmax(1)
    assert np.array_equal(1 + places, strict[inside])
    assert all(len(set(row)) == 10 for row in best.tolist())


def test_a_retriever_without_a_full_sort_scores_pair_by_pair(monkeypatch):
    class Pairs(AbstractRecommender):
        def predict(self, interaction):
            return interaction["user"] * 100.0 + interaction["item"]

    lines = Interaction({"user": torch.tensor([1, 2, 3]), "item": torch.tensor([9, 9, 9])})
    features = Interaction({"item": torch.arange(7)})
    monkeypatch.setattr(rerank, "PAIRWISE_BLOCK", 4)
    scores = rerank.catalogue_scores(Pairs(), lines, features)
    assert torch.equal(scores, torch.arange(1, 4)[:, None] * 100.0 + torch.arange(7))

import pytest
import torch

from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.evaluation import labelled_rows as labelled_evaluation


def test_scores_are_kept_in_row_order_whatever_the_batches(make):
    config = make()
    collector = labelled_evaluation.LabelledCollector(config)
    n = len(labelled_rows(config).columns("test")[2])
    scores = torch.rand(n, dtype=torch.float64)
    order = torch.randperm(n)
    for part in order.split(3):
        collector.collect_candidate_scores(scores[part][:, None], part[:, None], "test")
    collector.collect_candidate_scores(torch.rand(2, 2), torch.tensor([[-1, -1], [-1, -1]]), "test")
    struct = collector.get_data_struct()
    assert torch.equal(struct.get("rec.score"), scores) and collector.rows().row.tolist() == list(range(n))


def test_scores_that_are_not_finite_name_their_rows(make):
    collector = labelled_evaluation.LabelledCollector(make())
    user, item, _ = (column[1] for column in labelled_rows(make()).columns("test"))
    with pytest.raises(ValueError, match=f"1 non-finite scores of test rows: row 1 .user '{user}', item '{item}'"):
        collector.collect_scores(torch.tensor([0.5, torch.nan]), torch.tensor([0, 1]), "test")

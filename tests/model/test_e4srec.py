import torch

from recbole_llm import run_recbole_llm
from tests import tiny
from tests.model.contract import ModelContract


class TestE4SRec(ModelContract):
    name = "E4SRec"
    settings = {"lora_dropout": 0.0}
    branch_columns = ("branch_ids", "branch_mask", "candidates")

    def test_probabilities_sum_to_one_over_the_items(self, model, batch):
        found = model.log_probs(batch).exp()
        torch.testing.assert_close(found.sum(1), torch.ones(len(batch)))
        assert not found[:, 0].any()


def test_it_ranks_the_whole_catalogue_without_a_retriever(tiny_data, tiny_llm, tmp_path):
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="full", metrics=["Hit", "NDCG"], valid_metric="NDCG@10")
    outcome = run_recbole_llm("E4SRec", "tiny", config_dict=settings)
    from recbole_llm.results.result_file import read_result

    record = read_result(outcome["result_file"])
    assert record["retriever"] is None and record["metrics"]["hit@20"] >= record["metrics"]["hit@1"]

"""Protocol `full`: the same rows and lists for every model, and LLM rows that re-rank what the CRM found."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_llm import run_recbole_llm
from recbole_llm.config.values import ConfigError
from recbole_llm.evaluation.full_ranking import FullCollector
from recbole_llm.evaluation.rerank import Retrieved
from recbole_llm.leaderboard.board import Options, build_board
from tests import tiny
from tests.evaluation.full import full_rows_of

MODELS = ["SASRec", "BPR", "Pop", "DeepFM", "LLaRA", "RecLoRA"]


@pytest.fixture(scope="module")
def results(tiny_data, tiny_llm, tmp_path_factory):
    out = tmp_path_factory.mktemp("full")
    found = {}
    for model in MODELS:
        more = {
            "protocol": "full",
            "rerank_n": 12,
            "train_sample_size": 16,
            "crm_epochs": 1,
            "crm_model": "SASRec",
            "epochs": 1,
            "latency_rows": 2,
        }
        path = run_recbole_llm(model, "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, **more))[
            "result_file"
        ]
        found[model] = (
            json.loads(open(path).read()),
            np.genfromtxt(path.replace(".json", ".rows.csv"), delimiter=",", names=True, dtype=None, encoding=None),
        )
    return out / "results", found


def test_every_model_ranks_the_same_rows_in_the_same_catalogue(results):
    folder, found = results
    assert len({record["candidates"]["sha256"] for record, _ in found.values()}) == 1
    assert {record["candidates"]["count"] for record, _ in found.values()} == {60}
    keys = [[(row["user_id"], row["item_id"]) for row in rows] for _, rows in found.values()]
    assert all(key == keys[0] for key in keys) and len(keys[0]) == 40
    board = build_board(folder, "tiny", "full", Options(resamples=100))
    assert len(board["rows"]) == len(MODELS) and board["left_out"] == []


def test_metrics_follow_from_the_ranks(results):
    for record, rows in results[1].values():
        rank = rows["rank"]
        assert 1 <= rank.min() and rank.max() <= 60
        assert record["metrics"]["hit@10"] == pytest.approx((rank <= 10).mean(), abs=1e-4)
        assert record["metrics"]["mrr@20"] == pytest.approx(np.where(rank <= 20, 1 / rank, 0).mean(), abs=1e-4)


def test_llm_rows_say_what_the_retriever_found_and_cannot_do_better(results):
    record, rows = results[1]["LLaRA"]
    assert (
        results[1]["RecLoRA"][0]["retriever"]["n"] == 12
        and record["retriever"]["model"] == "SASRec"
        and record["retriever"]["n"] == 12
    )
    inside = rows["target_position"] >= 0
    assert record["retriever"]["recall"] == pytest.approx(inside.mean()) and 0 < inside.mean() < 1
    assert (rows["rank"][inside] <= 12).all() and (rows["rank"][~inside] > 12).all()
    assert results[1]["SASRec"][0]["retriever"] is None and (results[1]["SASRec"][1]["target_position"] == -1).all()


def test_a_model_that_scores_all_items_has_no_retriever(tiny_data, tiny_llm, tmp_path):
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="full", metrics=["Hit", "NDCG"], valid_metric="NDCG@10")
    record = json.loads(open(run_recbole_llm("E4SRec", "tiny", config_dict=settings)["result_file"]).read())
    assert record["retriever"] is None and 0 < record["metrics"]["hit@20"] >= record["metrics"]["hit@1"]


def test_an_impossible_rerank_n_and_generation_are_refused(tiny_data, tiny_llm, tmp_path):
    with pytest.raises(ValueError, match="rerank_n: 59 items cannot be retrieved for user"):
        run_recbole_llm(
            "LLaRA",
            "tiny",
            config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="full", rerank_n=59, crm_epochs=1),
        )
    with pytest.raises(ConfigError, match="llm_eval: 'generate'"):
        run_recbole_llm(
            "LLaRA",
            "tiny",
            config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, protocol="full", llm_eval="generate"),
        )
    with pytest.raises(ConfigError, match="contradicts protocol 'full'"):
        run_recbole_llm(
            "Pop", "tiny", config_dict={"data_path": str(tiny_data), "protocol": "full", "eval_args": {"mode": "uni5"}}
        )


@pytest.mark.parametrize(
    "more",
    [{"recipe": "released"}, {"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user"}, "epochs": 0}],
    ids=["validated on the test rows", "no validation rows"],
)
def test_full_ranks_also_where_validation_rows_are_the_test_rows_or_none(more, tiny_data, tiny_llm, tmp_path):
    given = {"protocol": "full", "rerank_n": 12, "train_sample_size": 8, "crm_epochs": 1, "crm_model": "SASRec"}
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, **given | more)
    found = json.loads(open(run_recbole_llm("RecLoRA", "tiny", config_dict=settings)["result_file"]).read())
    assert found["candidates"]["count"] == 60 and 0 <= found["metrics"]["hit@10"] <= 1


def test_re_ranked_rows_take_the_llms_rank_and_the_others_keep_the_crms(monkeypatch):
    rows = full_rows_of(3)
    monkeypatch.setattr("recbole_llm.evaluation.full_ranking.candidate_sets", lambda config: None)
    collector = FullCollector.__new__(FullCollector)
    collector.__dict__.update(
        _full_rows={"test": rows},
        _internal=np.arange(1, 51),
        _phase=None,
        _batches=[],
        data_struct={},
        topk=[5],
        register=SimpleNamespace(need=lambda key: False),
    )
    target = rows.target
    others = [[j for j in range(50) if j != target[i]] for i in range(3)]
    found = np.array([[*others[0][:2], target[0]], [target[1], *others[1][:2]], others[2][:3]])
    collector.retrieved = {"test": Retrieved(found, np.array([3, 1, 17]), np.array([46, 46, 46]))}
    scores = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.3], [3.0, 2.0, 1.0]])
    collector.collect_candidate_scores(scores, torch.arange(3), "test", torch.from_numpy(found + 1))
    ((_, strict, position, _, _),) = collector._batches
    assert strict.tolist() == [1, 3, 17] and position.tolist() == [2, 0, -1]
    with pytest.raises(ValueError, match="not finite in rows"):
        collector.collect_candidate_scores(scores * torch.nan, torch.arange(3), "test", torch.from_numpy(found + 1))

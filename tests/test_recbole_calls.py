"""RecBole's own calls with LLM models: case studies, hand-made rows, searches, metrics over items, devices."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model, objective_function, run
from recbole.trainer import HyperTuning
from recbole.utils import get_trainer
from recbole.utils.case_study import full_sort_scores, full_sort_topk

from recbole_llm import ConfigError, LLMConfig, fit, run_recbole_llm
from tests import tiny

NOT_SASREC = ("crm", "llm", "train_sample", "item_text")
BEYOND = ["Hit", "ItemCoverage", "GiniIndex", "AveragePopularity", "ShannonEntropy", "TailPercentage"]


def settings(tiny_data, tiny_llm, out, **more):
    return tiny.settings(tiny_data, tiny_llm, out, **{"train_sample_size": 16, "latency_rows": 0, "crm_epochs": 1, **more})


def sasrec(given: dict, **more) -> dict:
    """The same settings for the CRM as a baseline of its own."""
    kept = {key: value for key, value in given.items() if not key.startswith(NOT_SASREC)}
    return kept | {"hidden_size": 16, "inner_size": 16, "train_batch_size": 64, **more}


@pytest.fixture(scope="module")
def trained(tiny_data, tiny_llm, tmp_path_factory):
    """A function: (config, model, dataset, test loader, rows of the run's test) of a model and protocol, loaded from its folder."""
    found = {}

    def load(name, protocol):
        if (name, protocol) not in found:
            out = tmp_path_factory.mktemp("run")
            more = {"crm_config": {"embedding_size": 8, "mlp_hidden_size": [8]}} if name == "RecLoRA" else {}
            given = settings(tiny_data, tiny_llm, out, protocol=protocol, rerank_n=12, **more)
            file = Path(run_recbole_llm(name, "tiny", config_dict=given)["result_file"])
            (folder,) = (path for path in (out / "saved").glob(f"{name}-*") if path.is_dir())
            config, model, dataset, _, _, test = load_data_and_model(str(folder))
            with open(file.with_name(json.loads(file.read_text())["rows"]), newline="") as rows:
                found[name, protocol] = config, model, dataset, test, list(csv.DictReader(rows))
        return found[name, protocol]

    return load


def by_hand(history, user=1, **more):
    row = {"user_id": [user], "item_id_list": [history], "item_length": [len(history)], **more}
    return Interaction({name: torch.tensor(value) for name, value in row.items()})


@pytest.mark.parametrize("name", ["LLaRA", "iLoRA", "RecLoRA"])
def test_top_k_is_what_the_crm_retrieved_as_the_llm_ranks_it(trained, name):
    _, model, dataset, test, _ = trained(name, "candidates")
    users = dataset.token2id("user_id", ["u3", "u7"])
    scores, items = full_sort_topk(users, model, test, 20)
    split = test.dataset
    rows = split[(split.inter_feat["user_id"] == torch.tensor(users)[:, None]).nonzero(as_tuple=True)[1]]
    lines = model.by_hand.lines(rows)
    crm = model.by_hand.crm_scores(model.crm, lines, model.by_hand.history(rows))
    best = model.by_hand.best(crm, 20)
    for row in range(2):
        assert set(items[row, :12].tolist()) == set(best[row, :12].tolist())
        assert items[row, 12:].tolist() == best[row, 12:].tolist()  # the rest in the CRM's order
        assert not set(items[row].tolist()) & {0, *rows["item_id_list"][row].tolist()}
    llm = model.by_hand.score_rows(model, lines, items[:, :12].numpy())  # in another order of candidates: a listwise model may differ
    assert llm.shape == (2, 12) and np.isfinite(llm).all()
    assert (scores[:, :-1] >= scores[:, 1:]).all() and dataset.id2token("item_id", items)[0, 0].startswith("i")


def test_users_without_a_row_and_a_k_above_the_catalogue_are_named(trained):
    _, model, dataset, test, _ = trained("LLaRA", "candidates")
    with pytest.raises(ValueError, match="uid_series: 1 of 2 users have no row in the split of test_data, first 999; leave"):
        full_sort_scores([int(dataset.token2id("user_id", "u3")), 999], model, test)
    with pytest.raises(ValueError, match="k=62: tiny has 60 items"):
        full_sort_topk(torch.tensor([1]), model, test, 62)


@pytest.mark.parametrize(
    "users, k, complaint",
    [([], 5, "uid_series is empty"), (["u3"], 5, "holds 'u3', and internal user ids are wanted: dataset.token2id"), ([1], 3.0, "k=3.0"),
     (1, 55, "k=55: a user's history leaves 5[0-4] of the 60 items")],
)  # fmt: skip
def test_users_and_counts_of_another_kind_are_named(trained, users, k, complaint):
    _, model, _, test, _ = trained("LLaRA", "candidates")
    with pytest.raises(ValueError, match=complaint):
        full_sort_topk(users, model, test, k)


def test_case_studies_hide_what_the_cut_history_does_not_hold(tiny_data, tiny_llm, tmp_path):
    """Histories of up to eight items, of which models read three."""
    given = settings(tiny_data, tiny_llm, tmp_path, protocol="full", rerank_n=12, MAX_ITEM_LIST_LENGTH=3, history_max_len=3)
    fitted = fit.fit(LLMConfig("LLaRA", "tiny", config_dict=given))
    fitted.trainer.evaluate(fitted.data[3])
    ranks, test, model = fitted.trainer.eval_collector.rows().rank, fitted.data[3], fitted.trainer.model
    users = torch.from_numpy(fitted.data[0].token2id("user_id", test.full_rows.users.tolist()))
    scores = full_sort_scores(users, model, test)
    targets = torch.from_numpy(fitted.data[0].token2id("item_id", test.full_rows.items.tolist()))
    assert (1 + (scores > scores.gather(1, targets[:, None])).sum(1)).tolist() == ranks.tolist()
    assert scores.isinf().sum(1).max() > 1 + 3 + 1


@pytest.mark.parametrize("text, found", [("", None), ("a: [1", "bad.yaml: not readable as plain YAML"), ("- a", "bad.yaml: must hold 'key: value'")])
def test_config_files_of_plain_recbole_are_named(text, found, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py"])
    (tmp_path / "bad.yaml").write_text(text)
    given = {"model": "BPR", "dataset": "ml-100k", "config_file_list": [str(tmp_path / "bad.yaml")]}
    if found is None:
        assert Config(**given)["model"] == "BPR"
        return
    with pytest.raises(ConfigError, match=found):
        Config(**given)


@pytest.mark.parametrize("name", ["LLaRA", "iLoRA", "RecLoRA"])
def test_full_sort_scores_give_the_ranks_of_the_result_file(trained, name):
    _, model, dataset, test, rows = trained(name, "full")
    users = dataset.token2id("user_id", [row["user_id"] for row in rows])
    targets = dataset.token2id("item_id", [row["item_id"] for row in rows])
    scores = full_sort_scores(users, model, test)
    ranks = 1 + (scores > scores[torch.arange(len(rows)), targets][:, None]).sum(1)
    assert ranks.tolist() == [int(row["rank"]) for row in rows] and len(set(ranks.tolist())) > 5


@pytest.mark.parametrize("name", ["LLaRA", "RecLoRA"])
def test_rows_of_a_case_study_have_the_prompts_of_evaluation_under_full(trained, name):
    """Token by token: the ranks of a random LLM hardly depend on the order in which candidates stand."""
    _, model, _, test, _ = trained(name, "full")
    if test.found is None:
        test.attach(model)
    for batch in test:
        rows = Interaction({field: batch[field] for field in ("user_id", "item_id_list", "item_length", "item_id")})
        lines = model.by_hand.lines(rows)
        scores = model.by_hand.crm_scores(model.crm, lines, model.by_hand.history(rows))
        ((number, candidates),) = model.by_hand.candidates(lines, scores)
        made = model.by_hand.prompts(lines[number], candidates)
        assert all(torch.equal(made[field], batch[field]) for field in ("candidates", "prompt_ids", "prompt_mask", "prompt_items"))


@pytest.mark.parametrize("protocol", ["candidates", "full"])
def test_a_loaded_run_gives_its_metrics_again(trained, protocol):
    config, model, _, test, rows = trained("LLaRA", protocol)
    trainer = get_trainer(config["MODEL_TYPE"], "LLaRA")(config, model)
    result = trainer.evaluate(test, load_best_model=False)
    assert result["hit@5"] == pytest.approx(np.mean([int(row["rank"]) <= 5 for row in rows]), abs=1e-4)


@pytest.mark.parametrize("name", ["LLaRA", "RecLoRA"])
def test_hand_made_rows_score_as_evaluation_does(trained, name):
    _, model, _, test, _ = trained(name, "candidates")
    batch = next(iter(test))
    rows = Interaction({field: batch[field] for field in ("user_id", "item_id_list", "item_length", "item_id")})
    found = model.by_hand.score_rows(model, model.by_hand.lines(rows), batch["candidates"].numpy())
    torch.testing.assert_close(torch.from_numpy(found), model.score_candidates(batch), rtol=1e-4, atol=1e-4)


def test_general_models_under_full_are_case_studies_too(tiny_data, tmp_path):
    given = {"data_path": str(tiny_data), "checkpoint_dir": str(tmp_path), "protocol": "full", "epochs": 1, "show_progress": False}
    given |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "WARNING"}
    fitted = fit.fit(LLMConfig("BPR", "tiny", config_dict=given))
    dataset, test = fitted.data[0], fitted.data[3]
    fitted.trainer.evaluate(test)
    ranked = fitted.trainer.eval_collector.rows()
    users = dataset.token2id("user_id", test.candidate_set.user_ids.tolist())
    scores = full_sort_scores(users, fitted.trainer.model, test)
    target = scores.gather(1, test.items.gather(1, test.position[:, None]))
    assert (1 + (scores > target).sum(1)).tolist() == ranked.rank.tolist()


def test_predict_asks_about_the_item_among_what_is_retrieved(trained):
    _, model, *_ = trained("LLaRA", "candidates")
    full = model.full_sort_predict(by_hand([4, 5, 6]))
    best = full[0].argsort(descending=True)
    assert full.shape == (1, 61) and full[0, [0, 4, 5, 6]].isinf().all()
    again = model.predict(by_hand([4, 5, 6], item_id=[int(best[2])]))
    torch.testing.assert_close(again, full[:, best[2]], rtol=1e-4, atol=1e-4)
    far = model.predict(by_hand([4, 5, 6], item_id=[int(best[40])]))
    assert far.shape == (1,) and abs(float(far - full[0, best[0]])) < 30  # the LLM's, not a place in the CRM's order
    long = model.full_sort_predict(by_hand(list(range(1, 31))))
    assert long[0, 1:31].isinf().all() and long[0, 31:].isfinite().all()


@pytest.mark.parametrize(
    "row, complaint",
    [
        ({"item_id_list": [[1, 2]]}, "no item_length"),
        ({"item_id_list": [[1, 2]], "item_length": [0]}, "rows \\[0\\] have lengths \\[0\\]"),
        ({"item_id_list": [[1, 2]], "item_length": [3]}, "between 1 item and the 2"),
        ({"item_id_list": [[1, 99]], "item_length": [2]}, "\\[99\\] are no internal ids of the 60 items"),
        ({"item_id_list": [[1, 2]], "item_length": [2]}, "no item_id, the item to score"),
        ({"item_id_list": [[1, 2]], "item_length": [2], "item_id": [0]}, "none of the 60 items"),
    ],
)
def test_wrong_rows_are_named(trained, row, complaint):
    _, model, *_ = trained("LLaRA", "candidates")
    with pytest.raises(ValueError, match=complaint):
        model.predict(Interaction({name: torch.tensor(value) for name, value in row.items()}))


@pytest.mark.parametrize("call", ["predict", "full_sort_predict"])
def test_rows_of_ids_are_refused_where_a_run_reads_labels_of_histories_too(trained, monkeypatch, call):
    _, model, *_ = trained("LLaRA", "candidates")
    monkeypatch.setitem(model.config.final_config_dict, "protocol", "ctr")
    row = Interaction({"item_id_list": torch.tensor([[1, 2]]), "item_length": torch.tensor([2]), "item_id": torch.tensor([3])})
    with pytest.raises(ValueError, match=r"protocol: ctr: this run's prompts say .*an Interaction of ids does not say.*recommend\(users"):
        getattr(model, call)(row)


@pytest.mark.parametrize("algo", ["random", "bayes", "exhaustive"])
@pytest.mark.parametrize("model", ["SASRec", "LLaRA"])
def test_recbole_searches_end_with_a_result_file(model, algo, tiny_data, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_hyper.py"])
    monkeypatch.chdir(tmp_path)
    given = settings(tiny_data, tiny_llm, tmp_path, train_sample_size=8)
    if model == "SASRec":
        given = sasrec(given, train_neg_sample_args=None)
        del given["n_candidates"]
    Path("fixed.yaml").write_text(yaml.safe_dump(given | {"model": model, "dataset": "tiny"}))
    Path("space.test").write_text("learning_rate choice [0.01,0.001]\n")
    search = HyperTuning(objective_function, algo=algo, max_evals=2, params_file="space.test", fixed_config_file_list=["fixed.yaml"])
    search.run()
    search.export_result("found.result")
    text = Path("found.result").read_text()
    assert text.count("Test result") == len(search.params2result) and search.best_params["learning_rate"] in (0.01, 0.001)
    if algo == "exhaustive":
        assert len(search.params2result) == 2


def test_a_space_that_is_no_list_of_literals_is_not_run(tmp_path):
    (tmp_path / "space.test").write_text(f"epochs choice [__import__('os').mkdir('{tmp_path}/mark')]\n")
    with pytest.raises(ValueError, match="malformed"):
        HyperTuning(objective_function, params_file=str(tmp_path / "space.test"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("protocol, rerank_n, topk", [("candidates", 12, [1, 3]), ("full", 12, [1, 20]), ("full", 30, [1, 20])])
def test_metrics_over_items_are_those_of_the_crm_where_the_llm_ranks_as_the_crm(
    protocol, rerank_n, topk, tiny_data, tiny_llm, tmp_path, monkeypatch
):
    given = settings(tiny_data, tiny_llm, tmp_path, protocol=protocol, rerank_n=rerank_n, metrics=BEYOND, topk=topk)
    given |= {"valid_metric": "Hit@1", "crm_config": {"hidden_size": 16, "inner_size": 16, "train_batch_size": 64}}
    baseline = fit.fit(LLMConfig("SASRec", "tiny", config_dict=sasrec(given)))
    wanted = baseline.trainer.evaluate(baseline.data[3])
    trainer, data = fit.build(LLMConfig("LLaRA", "tiny", config_dict=given))
    scores = _crm_scores(trainer.model)
    monkeypatch.setattr(trainer.model, "score_candidates", scores)
    trainer.eval_collector.data_collect(data[1])
    found = trainer.evaluate(data[3], load_best_model=False)
    assert found == wanted and found["itemcoverage@1"] > 0 and f"tailpercentage@{topk[1]}" in found


def _crm_scores(model):
    """The CRM's scores of the candidates in place of the LLM's."""

    def scores(batch):
        return model.crm.model.full_sort_predict(batch).view(len(batch), -1).gather(1, batch["candidates"])

    return scores


def test_metrics_over_items_from_beginning_to_end(tiny_data, tiny_llm, tmp_path):
    given = settings(tiny_data, tiny_llm, tmp_path, metrics=BEYOND, topk=(1, 3), valid_metric="Hit@1")
    result = run_recbole_llm("LLaRA", "tiny", config_dict=given)["test_result"]
    assert 0 < result["itemcoverage@3"] <= 1 and 0 <= result["giniindex@1"] <= 1


def test_models_in_turn_from_one_script_as_run_recbole_group_does(tiny_data, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run_recbole_group.py", "--model_list=LLaRA,SASRec,iLoRA", "--dataset=tiny"])
    given = settings(tiny_data, tiny_llm, tmp_path)
    Path("llm.yaml").write_text(yaml.safe_dump(given))
    Path("crm.yaml").write_text(yaml.safe_dump(sasrec(given, train_neg_sample_args=None)))
    files = {"LLaRA": "llm.yaml", "SASRec": "crm.yaml", "iLoRA": "llm.yaml"}
    found = {model: run(model, "tiny", config_file_list=[file]) for model, file in files.items()}
    again = run("LLaRA", "tiny", config_file_list=["llm.yaml"])
    assert all(outcome["test_result"] for outcome in found.values())
    assert again["test_result"] == found["LLaRA"]["test_result"]  # whatever was run in between


@pytest.mark.parametrize("visible", ["3", "2,3", "", None])
@pytest.mark.parametrize("kind", [Config, LLMConfig])
def test_visible_devices_are_the_users(kind, visible, tiny_data, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "") if visible is None else monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if visible is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    from recbole_llm.crm.settings import crm_config

    config = kind("LLaRA", "tiny", config_dict=settings(tiny_data, tiny_llm, tmp_path))
    crm_config(config)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    kind("LLaRA", "tiny", config_dict=settings(tiny_data, tiny_llm, tmp_path, gpu_id=[1, 0]))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,0"


@pytest.mark.parametrize("more, device", [({}, "cuda"), ({"use_gpu": False}, "cpu"), ({"gpu_id": ""}, "cpu"), ({"gpu_id": 1}, "cuda")])
def test_use_gpu_and_gpu_id_choose_the_device(more, device, tiny_data, tiny_llm, tmp_path, monkeypatch):
    from recbole_llm.config.loader import config_from_values
    from recbole_llm.config.values import plain_values
    from recbole_llm.crm.settings import crm_config

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = LLMConfig("LLaRA", "tiny", config_dict=settings(tiny_data, tiny_llm, tmp_path, **more))
    configs = [config, crm_config(config), config_from_values(plain_values(config))]
    assert [found["device"].type for found in configs] == [device] * 3


@pytest.mark.parametrize("given", [(1, 3), [1, 3], "1,3"])
def test_topk_is_a_list(given, tiny_data):
    config = LLMConfig("Pop", "tiny", config_dict={"data_path": str(tiny_data), "topk": given, "valid_metric": "Hit@1"})
    assert config["topk"] == [1, 3]
    with pytest.raises(ConfigError, match="topk: must be an integer >= 1 or a list of them"):
        LLMConfig("Pop", "tiny", config_dict={"data_path": str(tiny_data), "topk": "1;3", "valid_metric": "Hit@1"})

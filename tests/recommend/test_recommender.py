"""Recommendations for known users and typed histories, and every wrong request by name."""

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from recbole.data.interaction import Interaction

import recbole_llm
from recbole_llm import run_recbole_llm
from recbole_llm.__main__ import main
from recbole_llm.data.requests import Requests
from recbole_llm.model.explain import gate_text
from recbole_llm.training.checkpoint_files import _record_hash
from tests import tiny


def test_users_read_all_that_they_did_and_get_nothing_of_it(made):
    run = made()
    lines = [line.split("\t") for line in (run.out / "data/tiny/tiny.inter").read_text().splitlines()[1:]]
    history = [item for user, item, *_ in lines if user == "u3"]
    (request,) = run.recommender.requests.make(users="u3")
    assert [run.recommender.names.tokens[i] for i in request.history] == history
    frame = run.recommend(users="u3", k=20)
    assert list(frame.columns) == ["user", "rank", "item_id", "title", "score", "crm_rank", "llm_rank"]
    assert not set(frame["item_id"]) & set(history) and frame["item_id"].is_unique and len(frame) == 20
    typed = run.recommend(history={"me": history}, k=20)  # of iLoRA, SASRec reads no user
    assert set(typed["item_id"][:12]) == set(frame["item_id"][:12])
    assert typed["item_id"][12:].tolist() == frame["item_id"][12:].tolist()
    (before,) = run.recommender.requests.make(users="u3", until="test")
    assert [run.recommender.names.tokens[i] for i in before.history] == history[:-1]


def test_titles_ids_and_left_out_items(made):
    run = made()
    names = run.recommender.names
    titles = [names.titles[names.find(item)] for item in ("i3", "i5")]
    by_title = run.recommend(history=[titles[0].upper(), titles[1]])
    pd.testing.assert_frame_equal(by_title, run.recommend(history=["i3", "i5"]))
    assert len(by_title) == 10
    first = by_title["item_id"][0]
    without = run.recommend(history=["i3", "i5"], exclude=[first, "i7"], k=56)
    assert not {first, "i7"} & set(without["item_id"]) and len(without) == 56
    pd.testing.assert_frame_equal(by_title, run.recommend(history=("i3", "i5"), exclude=None))
    assert len(run.recommend(users="u3", exclude={"i7", "i9"})) == 10  # what is left out has no order
    assert {names.tokens[names.find(unicodedata.normalize(form, "QUITÉ New Thing"))] for form in ("NFC", "NFD")} == {"new2"}


def test_candidates_that_are_asked_about_one_by_one_need_no_order(made):
    assert set(made("RecLoRA").recommend(users="u3", candidates={"i1", "i2"})["item_id"]) == {"i1", "i2"}


@pytest.mark.parametrize("name", ["LLaRA", "iLoRA", "RecLoRA"])
def test_explain_shows_prompt_slots_gate_and_scores(made, name):
    run = made(name)
    text = run.recommender.explain(users="u3", k=4)
    frame = run.recommend(users="u3", k=4)
    for item, score in zip(frame["item_id"], frame["score"], strict=True):
        assert re.search(rf"\b{item}\b.*{score:.4f}", text)
    if name == "LLaRA":
        assert "gate: none" in text
    else:
        weights = [float(word) for word in re.search(r"gate.*?: (.*)", text)[1].split()]
        assert sum(weights) == pytest.approx(1, abs=1e-3) and len(weights) in (4, 16)
    if name != "RecLoRA":  # whose prompts have no behaviour tokens by default
        (request,) = run.recommender.requests.make(users="u3")
        names = run.recommender.names
        shown = [f"{names.titles[i]}[{names.tokens[i]}]" for i in request.history]
        assert ", ".join(shown) in text.replace(",", ", ").replace(",  ", ", ")
    assert run.recommender.requests.make(users="u3")[0].history.tolist()


@pytest.mark.parametrize(
    "request_, complaint",
    [
        ({"users": "u99"}, "no user 'u99' in tiny .*near: 'u9'"),
        ({"users": "[PAD]"}, "no user '\\[PAD\\]'"),
        ({"history": ["Amber brich"]}, "no item is called 'Amber brich', by id or by title; did you mean 'Amber birch'"),
        ({"history": ["i333"]}, "did you mean 'i33'"),
        ({"history": []}, "'new user' has an empty history"),
        ({"history": "i3"}, "history: a list of items"),
        ({"history": ["new1"]}, "'new1' \\(Brand new thing\\) has no interactions"),
        ({"users": "u3", "k": 52}, "k=52: user 'u3' has 51 items left to rank, of 60"),
        ({"users": "u3", "k": 0}, "k=0: .*k is between 1 and 51"),
        ({"users": "u3", "candidates": ["i1", "i1"]}, "candidates of 'u3': i1 named twice"),
        ({"users": "u3", "candidates": ["i1"], "exclude": ["i1"]}, "candidates of 'u3': none is left"),
        ({"users": "u3", "candidates": ["i1"], "k": 2}, "has 1 items left to rank"),
        ({"users": "u3", "until": "valid"}, "until='valid'"),
        ({}, "nobody to recommend to"),
        ({"users": []}, "nobody to recommend to"),
        ({"users": ["u3", *(f"v{i}" for i in range(7))]}, "no user 'v0', 'v1', 'v2', 'v3', 'v4' and 2 more in tiny"),
        ({"users": np.int64(3)}, "no user '3' in tiny"),
        ({"users": "u3", "history": {"u3": ["i3"]}}, "history: u3 is among the users too"),
        ({"users": ["u3", "u4"], "candidates": {"u3": ["i1"]}}, "candidates: a mapping .* differs in 'u4'"),
        ({"users": "u3", "candidates": {"u3": ["i1"], "u33": ["i1"]}}, "candidates: a mapping .* differs in 'u33'"),
        ({"users": "u3", "candidates": ["i1", "zzz", "yyy"]}, "called 'zzz', by id or by title; no item is called 'yyy'"),
        ({"users": "u3", "candidates": "i1"}, "candidates: a list of items, .*; got 'i1'"),
        ({"users": "u3", "candidates": 5}, "candidates: a list of items, .*; got 5"),
        ({"users": "u3", "candidates": {"u3": {"i1", "i2"}}}, "candidates: .*; got a set, which has no order: give a list"),
        ({"users": "u3", "exclude": "i1"}, "exclude: a list of items; got 'i1'"),
        ({"users": "u3", "exclude": 5}, "exclude: a list of items; got 5"),
        ({"history": 5}, "history: a list of items, oldest first, .*; got 5"),
        ({"history": {"me": None}}, "history: a list of items, .*; got None"),
        ({"history": {"i3", "i4"}}, "history: a list of items, oldest first, .*; got a set, which has no order: give a list"),
        ({"history": {"me": frozenset({"i3"})}}, "history: .*; got a frozenset, which has no order"),
        ({"users": "u3", "k": 2.5}, "k is 2.5 and must be a whole number"),
        ({"history": [f"i{i}" for i in range(60)], "k": 1}, "user 'new user' has no items left to rank"),
    ],
)
def test_wrong_requests_are_named(made, request_, complaint):
    with pytest.raises(ValueError, match=complaint):
        made().recommend(**request_)


def test_a_user_who_is_named_twice_gets_one_list(made):
    frame = made().recommend(users=["u4", "u3", "u4"], k=2)
    assert frame["user"].tolist() == ["u4", "u4", "u3", "u3"]


@pytest.mark.parametrize("users", [{"u3", "u4"}, {"u3": 1, "u4": 2}.keys(), (f"u{i}" for i in (3, 4)), np.array(["u3", "u4"]), pd.Series(["u3", "u4"])])
def test_users_are_given_in_any_collection(made, users):
    assert {request.user for request in made().recommender.requests.make(users=users)} == {"u3", "u4"}


def test_items_of_one_title_are_told_apart_by_id(made, monkeypatch):
    names = made().recommender.names
    monkeypatch.setitem(names._by_title, "amber birch", [names.find("i18"), names.find("i3")])
    with pytest.raises(ValueError, match="2 items are called 'Amber birch': name one by its id, i18, i3"):
        names.find("Amber birch")


def test_a_run_s_folder_and_its_checkpoint_are_the_same_run(made):
    run = made()
    for where in (run.folder, run.folder.parent):
        frame = recbole_llm.load(where).recommend(users="u3", k=3)
        pd.testing.assert_frame_equal(frame, run.recommend(users="u3", k=3))


def test_a_run_is_read_from_any_folder_and_trains_no_recommender_there(made, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(here)
    run = made("LLaRA", checkpoint_dir="saved")
    expected = run.recommend(users="u3", k=3)
    monkeypatch.chdir(elsewhere)
    pd.testing.assert_frame_equal(recbole_llm.load(run.file).recommend(users="u3", k=3, show_progress=False), expected)
    assert not list(elsewhere.glob("saved/*")) and (here / "saved/crm").is_dir()


def test_load_opens_no_pickle(made, monkeypatch):
    import pickle

    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr("torch.load", refuse)
    assert len(recbole_llm.load(made().file).recommend(users="u3", k=3)) == 3


def test_a_baseline_says_what_is_possible(made, tiny_llm):
    run = made()
    given = tiny.settings(run.out / "data", tiny_llm, run.out)
    given = {key: value for key, value in given.items() if not key.startswith(("crm", "llm", "train_sample"))}
    file = run_recbole_llm("Pop", "tiny", config_dict=given)["result_file"]
    with pytest.raises(ValueError, match="Pop is RecBole's own.*load_data_and_model\\('.*Pop.*pth'\\).*full_sort_topk"):
        recbole_llm.load(file)


def copied(run, tmp_path):
    """A copy of the run's files that a test may damage."""
    for name in ("data", "saved", "results"):
        shutil.copytree(run.out / name, tmp_path / name)
    return tmp_path / "results" / run.file.name, {"data_path": str(tmp_path / "data"), "checkpoint_dir": str(tmp_path / "saved")}


def test_changed_data_are_named(made, tmp_path):
    file, places = copied(made(), tmp_path)
    assert len(recbole_llm.load(file, **places).recommend(users="u3", k=3)) == 3  # moved together: all is found
    with open(tmp_path / "data/tiny/tiny.inter", "a") as inter:
        inter.write("u3\ti59\t5\t99999\n")
    with pytest.raises(ValueError, match="tiny.inter in .* changed since the checkpoint") as caught:
        recbole_llm.load(file, **places)
    assert "tiny.item" not in str(caught.value)


def rewritten(folder, change, settings=None):
    """Change a checkpoint's state, and seal it again as its writer would have."""
    import hashlib

    state = json.loads((folder / "state.json").read_text())
    if settings is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        state["files"]["config.yaml"] = hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest()
    state = {key: value for key, value in (state | change).items() if key != "sha256"}
    (folder / "state.json").write_text(json.dumps({**state, "sha256": _record_hash(state)}))


def test_other_rows_of_the_same_files_and_earlier_versions_are_refused(made, tmp_path):
    file, places = copied(made(), tmp_path)
    folder = (file.parent / made().record["checkpoint"]).resolve()
    rewritten(folder, {"data": "0" * 64})
    with pytest.raises(ValueError, match="of a version of recbole_llm that made other rows of the same files"):
        recbole_llm.load(file, **places)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    rewritten(folder, {}, {key: value for key, value in settings.items() if key != "likelihood_over"})
    with pytest.raises(ValueError, match="of an earlier version of recbole_llm: its config.yaml lacks likelihood_over"):
        recbole_llm.load(file, **places)


def test_what_is_gone_is_named(made, tmp_path):
    file, places = copied(made(), tmp_path)
    with pytest.raises(ValueError, match="epochs: the checkpoint fixes it; what can be set is"):
        recbole_llm.load(file, epochs=3)
    with pytest.raises(ValueError, match="config_files: the checkpoint fixes it"):
        recbole_llm.load(file, config_files="a.yaml")
    with pytest.raises(ValueError, match=r"rerank: unknown key; did you mean 'rerank_n'\?\n  epochs: the checkpoint fixes it"):
        recbole_llm.load(file, rerank=5, epochs=3)
    with pytest.raises(ValueError, match="eval_batch_size: must be an integer >= 1, got 0\n.*rerank_n: must be an integer >= 2, got 1"):
        recbole_llm.load(file, eval_batch_size=0, rerank_n=1)
    for name, text in (("a.json", b'{"schema": 1}'), ("b.json", b"\xff\xfe")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=f"{name} is (no|not a) result file"):
            recbole_llm.load(tmp_path / name)
    shutil.rmtree(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match="is no checkpoint of recbole_llm"):
        recbole_llm.load(file, **places)
    record = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in record.items() if key != "checkpoint"}))
    with pytest.raises(FileNotFoundError, match="names no checkpoint"):
        recbole_llm.load(file, **places)


def test_the_command_line(made, tmp_path, capsys):
    run = made()
    (tmp_path / "users.txt").write_text("u3\n\nu4\n")
    out = tmp_path / "lists.csv"
    assert main(["recommend", str(run.file), "--users", str(tmp_path / "users.txt"), "--k=3", f"--out={out}"]) == 0
    frame = pd.read_csv(out)
    assert frame["user"].tolist() == ["u3"] * 3 + ["u4"] * 3 and [path.name for path in tmp_path.iterdir()].count(out.name) == 1
    capsys.readouterr()
    assert main(["recommend", str(run.file), "--history=i3 | i5", "--k=2", "--exclude=i7"]) == 0
    assert "new user" in capsys.readouterr().out
    assert main(["recommend", str(run.file), "--user=u3,u4", "--k=2", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("gate: ") == 2 and "user u4" in shown
    assert main(["recommend", str(run.file), "--user=u3, u4,", "--k=2", "--explain", f"--out={tmp_path / 'why.txt'}"]) == 0
    assert (tmp_path / "why.txt").read_text().strip() == shown.strip()
    assert main(["recommend", str(run.file), "--user=u99"]) == 2
    assert re.search('error: no user \'u99\' .*on the command line --history="ITEM [|] ITEM"', capsys.readouterr().err)
    assert main(["recommend", str(run.file), "--user=u3", "--epochs=5"]) == 2
    assert "epochs: the checkpoint fixes it" in capsys.readouterr().err
    for given, hint in (("--user=u,99", "--user is separated by commas: .*--users=FILE"), ("--history=Die | Hard", "--history is separated by |: .*by its id")):
        assert main(["recommend", str(run.file), given]) == 2
        assert re.search(f"error: no .*; {hint}".replace("|", "[|]"), capsys.readouterr().err)
    (tmp_path / "utf16.txt").write_text("u3\n", encoding="utf-16")
    (tmp_path / "empty.txt").write_text("\n")
    for wrong, complaint in (
        ([f"--users={tmp_path}/utf16.txt"], "utf16.txt: byte 0 is not UTF-8 text"),
        ([f"--users={tmp_path}/empty.txt"], "empty.txt: the file names no user"),
        ([f"--users={tmp_path}/ids.txt"], "ids.txt: no such file; name a text file with one id per line"),
        (["--user=,"], "--user: names no user"),
        (["--usr=196", "--rerank=5"], "usr: unknown key; did you mean 'user'?\n  rerank: unknown key; did you mean 'rerank_n'?"),
        (["--user=u3", "--k=0"], "--k=0: must be at least 1"),
        (["--user=u3", f"--out={tmp_path}/none/lists.csv"], "lists.csv: no such folder"),  # before anything is loaded
    ):
        assert main(["recommend", "/no/such/run.json", *wrong]) == 2
        assert complaint in capsys.readouterr().err


def test_the_dispatcher(made, capsys, tmp_path):
    run = made()
    assert main([]) == 2 and main(["--help"]) == 0
    assert capsys.readouterr().out.count("  recommend ") == 2
    assert main(["recomend"]) == 2 and "choose run, compare, recommend" in capsys.readouterr().err
    assert main(["compare", str(run.file), str(run.file), "--resamples=100"]) == 0
    assert "iLoRA" in capsys.readouterr().out
    assert main(["--model=Nothing", "--dataset=tiny"]) == 2 == main(["run", "--model=Nothing", "--dataset=tiny"])
    assert capsys.readouterr().err.count("Unknown model 'Nothing'") == 2
    done = subprocess.run([sys.executable, "-m", "recbole_llm", "recommend", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) < 40 and "--explain" in done.stdout


def test_benchmark_files_of_ctr_give_users_their_labels_and_ratings(tiny_llm, tmp_path):
    data = tiny.write_dataset(tmp_path)
    head, *lines = (data / "tiny/tiny.inter").read_text().splitlines()
    parts = {"train": [], "valid": [], "test": []}
    for line in lines:
        step = int(line.split("\t")[3]) - 1000
        parts["train" if step < 5 else "valid" if step == 5 else "test"].append(line)
    for part, own in parts.items():
        (data / f"tiny/tiny.{part}.inter").write_text("\n".join([head, *own]) + "\n")
    more = {"protocol": "ctr", "train_sample_size": 16, "latency_rows": 0, "benchmark_filename": list(parts)}
    file = run_recbole_llm("TALLRec", "tiny", config_dict=tiny.settings(data, tiny_llm, tmp_path, **more))["result_file"]
    recommender = recbole_llm.load(file)
    (request,) = recommender.requests.make(users="u3")
    done = [(item, float(rating)) for user, item, rating, _ in (line.split("\t") for line in lines) if user == "u3"]
    assert [(recommender.names.tokens[i], r) for i, r in zip(request.history, request.ratings, strict=True)] == done
    assert request.labels.tolist() == [rating >= 4 for _, rating in done] and len(set(request.labels.tolist())) == 2
    assert np.isfinite(recommender.recommend(users="u3", candidates=["i1"], until="test", show_progress=False)["score"]).all()


def test_a_sample_of_the_test_rows_hides_no_item_and_says_who_has_no_row(made, monkeypatch):
    whole, sampled = made("RecLoRA", "ctr"), made("RecLoRA", "ctr", test_sample_size=12)
    assert sampled.record["n_rows"] == 12 < whole.record["n_rows"]
    requests, few = sampled.recommender.requests, SimpleNamespace(targets=np.array([1]), sequences=np.array([[1]]))
    monkeypatch.setattr("recbole_llm.data.requests._Rows", lambda split: few)  # all other rows are left out
    assert not Requests(requests.config, requests._splits).names.cold[1 : requests.dataset.item_num].any()
    measured = {row["user_id"] for row in sampled.rows}
    left_out = next(row["user_id"] for row in whole.rows if row["user_id"] not in measured)
    with pytest.raises(ValueError, match="has no test row .test_sample_size left some out.; give what is known"):
        sampled.recommend(users=left_out, until="test")
    assert len(sampled.recommend(users=left_out, k=5)) == 5


def test_a_model_that_is_not_registered_here_is_called_so(made, tmp_path):
    record = json.loads(made().file.read_text())
    (tmp_path / "other.json").write_text(json.dumps({**record, "model": "TitlesOnly"}))
    with pytest.raises(ValueError, match="TitlesOnly is not registered here; first import the module"):
        recbole_llm.load(tmp_path / "other.json")


def test_a_gate_that_reads_a_history_for_each_item_is_told_so():
    model = SimpleNamespace(gate_input="sequence", ITEM_SEQ="item_id_list")
    batch = {"item_id_list": torch.zeros(1, 8, 5)}
    assert gate_text(model, batch) == "gate: depends on the item asked about (a history for each)"


def test_a_typed_history_for_a_recommender_that_knows_users_by_id_is_refused(made):
    run = made("CoLLM")
    assert len(run.recommend(users="u3", k=3)) == 3
    with pytest.raises(ValueError, match="crm_model: BPR knows users by their ids, and none of a typed history"):
        run.recommend(history=["i1", "i2"], k=3)
    hand = run.recommender.ranker.hand
    rows = Interaction({"item_id_list": torch.tensor([[1, 2]]), "item_length": torch.tensor([2])})
    with pytest.raises(ValueError, match="the Interaction has no user_id, by which crm_model: BPR knows users"):
        hand.lines(rows)

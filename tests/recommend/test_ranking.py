"""What is ranked for a request: as evaluation ranked it, one or many at once, items without interactions included."""

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.click.timelines import HISTORY_RATINGS
from recbole_llm.data.rows import ROW_FIELD
from recbole_llm.evaluation.preparation import prepare_data


@pytest.mark.parametrize("name", ["LLaRA", "iLoRA", "RecLoRA"])
def test_test_rows_get_the_ranks_that_evaluation_gave(made, name):
    run = made(name)
    sets = candidate_sets(run.recommender.config)
    shown = {user: sets.catalogue[row].tolist() for user, row in zip(sets.test.user_ids.tolist(), sets.test.candidates, strict=True)}
    frame = run.recommend(users=list(shown), candidates=shown, until="test", k=8)
    ranks = frame.set_index(["user", "item_id"])["llm_rank"]
    assert [ranks[row["user_id"], row["item_id"]] for row in run.rows] == [int(row["rank"]) for row in run.rows]
    assert frame.groupby("user")["score"].apply(lambda scores: scores.is_monotonic_decreasing).all()


@pytest.mark.parametrize("name", ["LLaRA", "RecLoRA"])
def test_test_rows_have_the_prompts_of_evaluation(made, name):
    """Token by token: the ranks of a random LLM hardly depend on the history."""
    recommender = made(name).recommender
    for batch in prepare_data(recommender.config)[3]:
        users, shown = (recommender.requests.dataset.id2token(field, batch[column].numpy()).tolist()
                        for field, column in (("user_id", "user_id"), ("item_id", "candidates")))  # fmt: skip
        requests = recommender.requests.make(users=users, candidates=dict(zip(users, shown, strict=True)), until="test")
        lines, scores = recommender.ranker.crm_scores(requests)
        groups = recommender.ranker.groups(requests, [1] * len(users), lines, scores)
        rows, candidates = (np.concatenate(column) for column in zip(*groups, strict=True))
        found = recommender.ranker.prompts(lines[rows], candidates)
        fields = ("candidates", "prompt_ids", "prompt_mask", "prompt_items", "item_id_list", "item_length")
        assert rows.tolist() == list(range(len(users))) and all(torch.equal(found[f], batch[f]) for f in fields)


def test_a_call_s_prompts_are_batched_by_what_they_show_the_longest_first(made, monkeypatch):
    """Little padding, as in evaluation: only the latest items of a history are shown."""
    recommender = made("LLaRA").recommender
    monkeypatch.setitem(recommender.config.final_config_dict, "history_max_len", 2)
    monkeypatch.setitem(recommender.config.final_config_dict, "eval_batch_size", 4)
    requests = recommender.requests.make(users=[f"u{i}" for i in range(24)])
    lines, scores = recommender.ranker.crm_scores(requests)
    batches = list(recommender.ranker._batches(lines, recommender.ranker.groups(requests, [1] * 24, lines, scores)))
    lengths = [batch["prompt_mask"].sum(1) for _, _, batch in batches]
    assert len(lengths) == 6 and all(before.min() >= after.max() for before, after in zip(lengths, lengths[1:], strict=False))
    assert lengths[0].max() > lengths[-1].max()


@pytest.mark.parametrize("name", ["LLaRA", "RecLoRA"])
def test_under_full_the_whole_list_is_that_of_evaluation(made, name):
    run = made(name, "full")
    users = [row["user_id"] for row in run.rows]
    frame = run.recommend(users=users, until="test", k=51)
    ranks = frame.set_index(["user", "item_id"])["rank"].to_dict()
    found = [ranks.get((row["user_id"], row["item_id"]), 52) for row in run.rows]
    assert found == [int(row["rank"]) for row in run.rows]  # a user with a shorter history has 52 items left
    inside = frame["llm_rank"].notna()
    assert (frame["crm_rank"][inside] <= 12).all() and (frame["crm_rank"][~inside] == frame["rank"][~inside]).all()
    assert (frame["score"].notna() == inside).all()


def test_one_user_or_many_at_once_get_the_same(made):
    run = made("LLaRA")
    users = [f"u{i}" for i in range(40)]
    whole = run.recommend(users=users, k=5)
    assert len(whole) == 200 and whole["user"].unique().tolist() == users
    for user in ("u0", "u17", "u39"):
        alone = run.recommend(users=user, k=5)
        found = whole[whole["user"] == user].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, found, rtol=1e-4)


@pytest.mark.parametrize("name", ["LLaRA", "iLoRA", "RecLoRA"])
def test_an_item_without_interactions_is_scored_by_text_alone(made, name):
    run = made(name)
    frame = run.recommend(users="u3", candidates=["i1", "Brand new thing", "i9"])
    cold = frame[frame["item_id"] == "new1"]
    assert cold["crm_rank"].isna().all() and np.isfinite(frame["score"]).all() and len(frame) == 3
    assert set(frame["crm_rank"].dropna()) == {1, 2}
    text = run.recommender.explain(users="u3", candidates=["i1", "new1"])
    assert "Brand new thing" in text or name == "RecLoRA" and "new1" in text
    assert "[i" not in text  # no slot


def test_candidates_may_be_read_but_once(made):
    run = made("LLaRA")
    frames = [run.recommend(users=["u3", "u4"], candidates=items) for items in (["i1", "i9"], iter(["i1", "i9"]))]
    pd.testing.assert_frame_equal(*frames)


def test_a_model_that_scores_all_items_ranks_all_that_are_left_as_evaluation_did(made):
    run = made("E4SRec", "full")
    frame = run.recommend(users=[row["user_id"] for row in run.rows], until="test", k=51)
    ranks = frame.set_index(["user", "item_id"])["rank"].to_dict()
    assert [ranks.get((row["user_id"], row["item_id"]), 52) for row in run.rows] == [int(row["rank"]) for row in run.rows]
    assert frame["score"].notna().all()
    named = run.recommend(users="u3", candidates=["i1", "i9", "i33"])
    assert len(named) == 3 and np.isfinite(named["score"]).all()


@pytest.mark.parametrize("name", ["TALLRec", "LlamaRec"])
def test_without_a_recommender_named_candidates_are_ranked_and_nothing_is_retrieved(made, name):
    run = made(name)
    assert run.recommender.ranker.model.crm is None
    frame = run.recommend(users="u3", candidates=["i1", "i9", "i33"])
    assert sorted(frame["item_id"]) == ["i1", "i33", "i9"] and np.isfinite(frame["score"]).all() and frame["crm_rank"].isna().all()
    assert "i9" in run.recommender.explain(users="u3", candidates=["i1", "i9", "i33"])
    with pytest.raises(ValueError, match=f"{name} of a run with protocol: candidates has no recommender .*name candidates"):
        run.recommend(users="u3")


def test_a_run_of_ctr_gives_its_users_the_scores_of_evaluation(made):
    """Histories carry likes, which come from the data; a flipped one gives another score."""
    run = made("RecLoRA", "ctr")
    latest = {row["user_id"]: row for row in run.rows}  # a user's rows are in order of time
    frame = run.recommend(users=list(latest), candidates={user: [row["item_id"]] for user, row in latest.items()}, until="test")
    assert frame["item_id"].tolist() == [row["item_id"] for row in latest.values()] and len(frame) > 10
    np.testing.assert_allclose(frame["score"], [float(row["score"]) for row in latest.values()], rtol=1e-5)
    requests = run.recommender.requests.make(users=list(latest), candidates=["i1"], until="test")
    for request in requests:
        request.labels = 1 - request.labels
    flipped, straight = (run.recommender.ranker.rank(made_of, [1] * len(latest)) for made_of in (
        requests, run.recommender.requests.make(users=list(latest), candidates=["i1"], until="test")))  # fmt: skip
    assert all(a.scores[0] != b.scores[0] for a, b in zip(flipped, straight, strict=True))


def test_a_run_of_ctr_ranks_by_the_probability_of_yes_what_its_recommender_retrieves(made):
    run = made("RecLoRA", "ctr")
    frame = run.recommend(users="u3", k=20)
    lines = [line.split("\t") for line in (run.out / "data/tiny/tiny.inter").read_text().splitlines()[1:]]
    done = [(item, int(rating) >= 4) for user, item, rating, _ in lines if user == "u3"]
    (request,) = run.recommender.requests.make(users="u3")
    assert [(run.recommender.names.tokens[i], bool(like)) for i, like in zip(request.history, request.labels, strict=True)] == done
    assert not {item for item, _ in done} & set(frame["item_id"]) and frame["score"][:12].between(0, 1).all()
    assert frame["score"][:12].is_monotonic_decreasing and (frame["crm_rank"][:12] <= 12).all() and frame["llm_rank"][12:].isna().all()
    shown = run.recommender.explain(users="u3", k=2)
    assert shown.count("(liked)") + shown.count("(disliked)") == len(done)
    with pytest.raises(ValueError, match="protocol: ctr: this run's prompts say .* which a typed history does not say; name users"):
        run.recommend(history=["i3"])


def asked(batch) -> dict:
    """{(user, item): tokens of the question, the recommender's history and its ratings}, of one history for all items or one for each."""
    found = {}
    for b, c in torch.nonzero(batch[ROW_FIELD] >= 0).tolist():
        apart = batch["prompt_ids"].dim() == 3
        at = (b, c) if apart else b
        ids = batch["prompt_ids"][at][batch["prompt_mask"][at].bool()].tolist()
        ids += batch["branch_ids"][b, c][batch["branch_mask"][b, c].bool()].tolist()
        crm = [batch[name][at].tolist() for name in ("item_id_list", "item_length", HISTORY_RATINGS) if name in batch]
        found[int(batch["user_id"][b]), int(batch["candidates"][b, c])] = [ids, *crm]
    return found


RELEVANT = {"crm_history_len": 3, "text_history_len": 3, "crm_history": "relevant", "text_history": "relevant"}
RATED = {"crm_model": "RatedDIN", "history_notes": "none", "crm_history_len": 4}  # shorter than histories


@pytest.mark.parametrize("name, settings", [
    ("RecLoRA", {}), ("RecLoRA", RATED), ("TALLRec", {}), ("TALLRec", {"history_notes": "none"}),
    ("RecLoRA", {"crm_history_len": 3, "text_history_len": 6}),
    ("RecLoRA", RELEVANT),
])  # fmt: skip
def test_a_run_of_ctr_asks_about_test_rows_what_evaluation_asked(made, name, settings):
    """Tokens, and what the gate reads: scores of a random LLM hardly depend on either."""
    run = made(name, "ctr", **settings)
    recommender = run.recommender
    latest = {row["user_id"]: row["item_id"] for row in run.rows}  # a user's rows are in order of time
    requests = recommender.requests.make(users=list(latest), candidates={user: [item] for user, item in latest.items()}, until="test")
    lines, _ = recommender.ranker.crm_scores(requests)
    batch = recommender.ranker.prompts(lines, np.stack([request.candidates for request in requests]))
    batch.interaction[ROW_FIELD] = torch.zeros(len(requests), 1, dtype=torch.long)
    evaluated = {pair: question for batch in prepare_data(recommender.config)[3] for pair, question in asked(batch).items()}
    found = asked(batch)
    assert len(found) == len(latest) and found == {pair: evaluated[pair] for pair in found}
    assert max(len(request.history) for request in requests) > settings.get("crm_history_len", 0)
    assert (HISTORY_RATINGS in batch) == (settings is RATED)


def test_retrieval_reads_the_ratings_that_evaluation_reads(made):
    """The recommender's score of a test row's item, retrieved from the whole catalogue, is that of its evaluation."""
    run = made("RecLoRA", "ctr", **RATED)
    recommender, crm = run.recommender, run.recommender.ranker.model.crm.model
    latest = {row["user_id"]: row["item_id"] for row in run.rows}
    requests = recommender.requests.make(users=list(latest), until="test")
    lines, scores = recommender.ranker.crm_scores(requests)
    own = {(request.user_id, request.target): row[request.target] for request, row in zip(requests, scores, strict=True)}
    shown = {}
    for batch in prepare_data(recommender.config)[3]:
        for b, c in torch.nonzero(batch[ROW_FIELD] >= 0).tolist():
            row = batch[[b]]
            row.interaction["item_id"] = batch["candidates"][b, c][None]
            with torch.no_grad():
                shown[int(batch["user_id"][b]), int(batch["candidates"][b, c])] = float(crm.predict(row.to(crm.device)))
    np.testing.assert_allclose([own[pair] for pair in own], [shown[pair] for pair in own], rtol=1e-4)
    for request in requests:
        request.ratings = np.zeros_like(request.ratings) + 1
    _, other = recommender.ranker.crm_scores(requests)
    assert all(abs(row[item] - own[user, item]) > 1e-6 for row, (user, item) in zip(other, own, strict=True))


@pytest.mark.parametrize("name, protocol, settings, complaint", [
    ("RecLoRA", "ctr", RATED, "^crm_model: RatedDIN: this run's recommender reads how .*with another crm_model$"),
    ("TALLRec", "ctr", {"history_notes": "none"}, "^TALLRec: this run's prompts list liked .*with protocol: candidates$"),
    ("TALLRec", "ctr", {}, "^protocol: ctr: this run's prompts say .*; TALLRec: .*with history_notes: none and protocol: candidates$"),
])  # fmt: skip
def test_a_typed_history_is_refused_by_what_the_run_reads_of_it(made, name, protocol, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        made(name, protocol, **settings).recommend(history=["i3"], candidates=["i1", "i9"])


def test_where_nothing_reads_likes_a_typed_history_stands_beside_a_user(made):
    run = made("RecLoRA", "ctr", history_notes="none", crm_history_len=3, text_history_len=6)
    frame = run.recommend(users="u3", history=["i3", "i5", "i9"], candidates=["i1", "i2"])
    alone = run.recommend(users="u3", candidates=["i1", "i2"])
    assert frame["user"].unique().tolist() == ["u3", "new user"] and np.isfinite(frame["score"]).all()
    pd.testing.assert_frame_equal(frame[frame["user"] == "u3"].reset_index(drop=True), alone, rtol=1e-4)


def test_an_item_without_a_text_vector_is_refused_where_histories_are_searched_by_it(made):
    with pytest.raises(ValueError, match="text_history or crm_history: relevant .* a candidate without interactions has none; a run with recent"):
        made("RecLoRA", "ctr", **RELEVANT).recommend(users="u3", candidates=["i1", "new1"])

"""Ranks and metrics through RecBole's Trainer, against plain numpy on scores computed one pair at a time."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.rows import match_rows
from recbole_llm.evaluation.candidate_collector import CandidateCollector
from recbole_llm.evaluation.candidate_loaders import CandidateEvalDataLoader, CandidateSequenceDataLoader
from recbole_llm.evaluation.preparation import prepare_data

FEATURES = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"], "user": ["user_id", "age"]}
FIT = ("Pop", "ItemKNN")  # score nothing before they are fitted
MODELS = [
    ("BPR", {}, CandidateEvalDataLoader),
    ("LightGCN", {}, CandidateEvalDataLoader),
    ("Pop", {}, CandidateEvalDataLoader),
    ("ItemKNN", {}, CandidateEvalDataLoader),
    ("SASRec", {}, CandidateSequenceDataLoader),
    ("GRU4Rec", {}, CandidateSequenceDataLoader),
    ("FPMC", {}, CandidateSequenceDataLoader),
    ("BERT4Rec", {}, CandidateSequenceDataLoader),
    ("DIN", {"load_col": FEATURES}, CandidateEvalDataLoader),
    ("DeepFM", {"load_col": FEATURES}, CandidateEvalDataLoader),
]


def make_trainer(config, fit=False):
    """A trainer of an untrained model, its test loader and its test split."""
    init_seed(11, True)
    _, train, _, test = prepare_data(config)
    model = get_model(config["model"])(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector = CandidateCollector(config)
    if fit:
        trainer.fit(train, saved=False, verbose=False)
    return trainer, test


def evaluate(trainer, loader):
    result = trainer.evaluate(loader, load_best_model=False)
    return result, trainer.eval_collector.rows()


def scores_one_by_one(model, split, candidates) -> np.ndarray:
    """[n, C] scores by `predict` on single pairs, each built from the split's row and the candidate's features."""
    tokens = {field: split.field2id_token[field].tolist() for field in (split.uid_field, split.iid_field)}
    feat = split.inter_feat
    keys = [(tokens["user_id"][u], tokens["item_id"][i]) for u, i in zip(feat["user_id"], feat["item_id"], strict=True)]
    scores = np.empty(candidates.candidates.shape)
    model.eval()
    for n, pair in enumerate(zip(candidates.user_ids.tolist(), candidates.item_ids.tolist(), strict=True)):
        for c, item in enumerate(candidates.catalogue[candidates.candidates[n]].tolist()):
            line = {name: column[keys.index(pair)][None].clone() for name, column in feat.interaction.items()}
            line["item_id"] = torch.tensor([tokens["item_id"].index(item)])
            for features, field in ((split.user_feat, "user_id"), (split.item_feat, "item_id")):
                if features is not None:
                    line |= {name: column[line[field]] for name, column in features.interaction.items()}
            with torch.no_grad():
                scores[n, c] = float(model.predict(Interaction(line)).reshape(-1)[0])
    return scores


def plain_ranks(scores, position) -> np.ndarray:
    """Place of the target after a stable sort from the best score down."""
    order = [sorted(range(len(row)), key=lambda c, row=row: (-row[c], c)) for row in scores]
    return np.array([places.index(p) + 1 for places, p in zip(order, position.tolist(), strict=True)])


@pytest.mark.parametrize(("model", "settings", "loader"), MODELS, ids=[name for name, *_ in MODELS])
def test_each_kind_of_model_ranks_the_same_rows_as_its_own_predict(make_config, model, settings, loader):
    config = make_config(model, **settings)
    trainer, test = make_trainer(config, fit=model in FIT)
    assert type(test) is loader
    _, ranked = evaluate(trainer, test)
    candidates = candidate_sets(make_config("SASRec")).test
    assert test.candidate_set.sha256 == candidates.sha256
    scores = scores_one_by_one(trainer.model, test._dataset, candidates)
    np.testing.assert_array_equal(ranked.row, np.arange(len(candidates)))
    np.testing.assert_array_equal(ranked.target_position, candidates.target_position)
    close = np.abs(scores - scores[np.arange(len(scores)), candidates.target_position][:, None]) < 1e-6
    if (close.sum(1) == 1).all():  # batched and single float32 forwards agree on the order
        np.testing.assert_array_equal(ranked.rank, plain_ranks(scores, candidates.target_position))
    else:  # popularity and neighbourhood scores tie exactly
        assert model in FIT
        np.testing.assert_array_equal(ranked.rank, plain_ranks(scores.round(6), candidates.target_position))


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "FPMC"])
def test_both_loaders_give_the_same_ranks(make_config, model):
    config = make_config(model)
    trainer, by_sequence = make_trainer(config)
    by_pair = CandidateEvalDataLoader(config, by_sequence._dataset, phase="test")
    one, first = evaluate(trainer, by_sequence)
    other, second = evaluate(trainer, by_pair)
    np.testing.assert_array_equal(first.rank, second.rank)
    assert one == other


@pytest.fixture
def scripted(make_config):
    """A function (score(user ids, item ids) -> tensor, **settings) -> trainer, test loader."""

    def make(score, **settings):
        settings = {"topk": [1, 3, 5, 10, 30], "metric_decimal_place": 9, **settings}
        trainer, test = make_trainer(make_config("BPR", **settings))
        trainer.model.predict = lambda lines: score(lines["user_id"], lines["item_id"])
        return trainer, test

    return make


def table_scores(loader, table) -> np.ndarray:
    user = loader._dataset.token2id("user_id", loader.candidate_set.user_ids)
    return table.numpy()[user[:, None], loader.items.numpy()]


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_metrics_equal_closed_forms_also_under_ties(scripted, levels):
    table = torch.randint(levels, (17, 41), generator=torch.Generator().manual_seed(levels)).float()
    trainer, test = scripted(lambda u, i: table[u, i])
    result, ranked = evaluate(trainer, test)
    rank = plain_ranks(table_scores(test, table), test.candidate_set.target_position)
    np.testing.assert_array_equal(ranked.rank, rank)
    for k in (1, 3, 5, 10, 30):  # 30 exceeds the 8 candidates
        hit = rank <= k
        assert result[f"hit@{k}"] == pytest.approx(hit.mean(), abs=1e-8)
        assert result[f"mrr@{k}"] == pytest.approx((hit / rank).mean(), abs=1e-8)
        assert result[f"ndcg@{k}"] == pytest.approx((hit / np.log2(rank + 1)).mean(), abs=1e-8)
    assert result["hit@10"] == 1


def test_a_constant_scorer_is_at_chance(make_config, tmp_path):
    from tests.toy import write_files

    path = write_files(tmp_path / "many", n_users=400)
    trainer, test = make_trainer(make_config("BPR", data_path=str(path), metric_decimal_place=9))
    trainer.model.predict = lambda lines: torch.zeros(len(lines))
    result, ranked = evaluate(trainer, test)
    np.testing.assert_array_equal(ranked.rank, ranked.target_position + 1)  # ties in order of position
    assert abs(result["hit@1"] - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 400)


def test_gauc_counts_a_tie_as_half_and_item_metrics_see_candidates_only(scripted):
    table = torch.randint(3, (17, 41), generator=torch.Generator().manual_seed(0)).float()
    metrics = {"metrics": ["GAUC", "ItemCoverage"], "topk": [3], "valid_metric": "GAUC"}
    trainer, test = scripted(lambda u, i: table[u, i], **metrics)
    trainer.eval_collector.data_collect(test)
    result, _ = evaluate(trainer, test)
    scores, position = table_scores(test, table), test.candidate_set.target_position
    target = scores[np.arange(len(scores)), position][:, None]
    wins = (scores < target).sum(1) + 0.5 * ((scores == target).sum(1) - 1)
    assert result["gauc"] == pytest.approx((wins / 7).mean(), abs=1e-6)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    shown = np.unique(np.take_along_axis(test.items.numpy(), top, axis=1))
    assert result["itemcoverage@3"] == pytest.approx(len(shown) / test._dataset.num("item_id"), abs=1e-6)


def test_item_metrics_beyond_the_candidates_are_refused(scripted):
    trainer, test = scripted(
        lambda u, i: i.float(), metrics=["ItemCoverage"], topk=[10], valid_metric="ItemCoverage@10"
    )
    with pytest.raises(ValueError, match=r"max\(topk\) = 10 must not exceed n_candidates = 8"):
        evaluate(trainer, test)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_scores_raise_and_name_rows(scripted, value):
    broken = {"item": None}

    def score(users, items):
        return torch.where((items == broken["item"]) & (users == broken["user"]), value, items.float())

    trainer, test = scripted(score)
    candidates = test.candidate_set
    broken |= {"item": int(test.items[5, 2]), "user": int(test._dataset.token2id("user_id", candidates.user_ids[5]))}
    item = candidates.catalogue[candidates.candidates[5, 2]]
    with pytest.raises(
        ValueError, match=rf"1 non-finite .* 1 test rows: row 5 \(user '{candidates.user_ids[5]}', item '{item}'\)"
    ):
        evaluate(trainer, test)
    broken["item"] = -1
    _, ranked = evaluate(trainer, test)  # nothing of the failed evaluation is left
    assert len(ranked.row) == len(candidates)


def test_rows_are_those_of_the_last_evaluation(scripted):
    sign = {"value": 1.0}
    trainer, test = scripted(lambda u, i: sign["value"] * i.float())
    with pytest.raises(RuntimeError, match="no evaluation has finished"):
        trainer.eval_collector.rows()
    up, first = evaluate(trainer, test)
    sign["value"] = -1.0
    down, second = evaluate(trainer, test)
    np.testing.assert_array_equal(first.rank + second.rank, 9)
    assert len(second.row) == len(test.candidate_set)
    assert second.phase == "test"
    valid = CandidateEvalDataLoader(trainer.config, test._dataset, phase="test")
    assert evaluate(trainer, valid)[0] == down != up


def test_interrupted_evaluation_leaves_nothing_behind(scripted):
    calls = {"left": 2}

    def score(users, items):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        return items.float()

    trainer, test = scripted(score)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trainer, test)
    result, ranked = evaluate(trainer, test)
    again, _ = evaluate(trainer, test)
    assert len(ranked.row) == len(test.candidate_set) and result == again


@pytest.mark.parametrize("eval_batch_size", [1, 8, 24, 10_000])
def test_batch_size_does_not_matter(make_config, eval_batch_size):
    expected = evaluate(*make_trainer(make_config("BPR")))
    found = evaluate(*make_trainer(make_config("BPR", eval_batch_size=eval_batch_size)))
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1].rank, expected[1].rank)


def test_scores_of_whole_rows_can_be_given_directly(make_config):
    config = make_config()
    candidates = candidate_sets(config).test
    n = len(candidates)
    scores = torch.randint(4, (n, 8), generator=torch.Generator().manual_seed(1)).float()
    collector = CandidateCollector(config)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    for part in (*order.split(3), order[:2]):  # any order, two rows twice as in padded distributed batches
        collector.collect_candidate_scores(scores[part], part, "test")
    struct = collector.get_data_struct()
    rank = plain_ranks(scores.numpy(), candidates.target_position)
    ranked = collector.rows()
    np.testing.assert_array_equal(ranked.row, np.arange(n))
    np.testing.assert_array_equal(ranked.rank, rank)
    hits = struct.get("rec.topk").numpy()
    np.testing.assert_array_equal(hits[:, :-1].argmax(1) + 1, rank)
    assert (hits[:, -1] == 1).all() and hits[:, :-1].sum() == n


def test_a_refused_batch_takes_the_earlier_ones_with_it(make_config):
    collector = CandidateCollector(make_config())
    collector.collect_candidate_scores(torch.rand(2, 8), [0, 1], "valid")
    with pytest.raises(ValueError, match="8 non-finite candidate scores in 1 valid rows: row 2 "):
        collector.collect_candidate_scores(torch.full((1, 8), float("nan")), [2], "valid")
    collector.collect_candidate_scores(torch.rand(2, 8), [5, 3], "valid")
    collector.get_data_struct()
    assert collector.rows().row.tolist() == [3, 5]
    collector.collect_candidate_scores(torch.rand(1, 8), [4], "valid")  # the next evaluation starts empty
    collector.get_data_struct()
    assert collector.rows().row.tolist() == [4]


def test_scores_of_another_shape_are_refused(make_config):
    collector = CandidateCollector(make_config())
    with pytest.raises(ValueError, match=r"scores must be \[2, 8\] \(rows, candidates\), not \[2, 7\]"):
        collector.collect_candidate_scores(torch.zeros(2, 7), [0, 1], "test")


def test_batches_hold_the_models_own_columns(make_config):
    config = make_config("DIN", load_col=FEATURES)
    _, _, _, test = prepare_data(config)
    lines, row, positive_row, positive_item = next(iter(test))
    batch = config["eval_batch_size"] // 8
    assert len(lines) == 8 * batch and row.tolist() == [r for r in range(batch) for _ in range(8)]
    assert positive_row.tolist() == list(range(batch))
    assert lines["item_id"].view(batch, 8).tolist() == test.items[:batch].tolist()
    assert torch.equal(lines["class"], test._dataset.item_feat["class"][lines["item_id"]])
    assert torch.equal(lines["age"], test._dataset.user_feat["age"][lines["user_id"]])
    label = lines["label"].view(batch, 8)
    assert label.sum(1).tolist() == [1.0] * batch
    assert lines["item_id"].view(batch, 8)[label.bool()].tolist() == positive_item.tolist()
    assert lines["candidate_row"].tolist() == row.tolist()


def test_a_row_missing_from_the_models_split_is_an_error(make_config):
    config = make_config()
    _, train, _, test = prepare_data(config)
    with pytest.raises(ValueError, match=r"of the 16 test rows are not in this model's own test split, first user 'u"):
        CandidateEvalDataLoader(config, train._dataset, phase="test")
    with pytest.raises(ValueError, match="phase must be one of"):
        CandidateEvalDataLoader(config, test._dataset)


def test_repeated_pairs_are_matched_in_order(make_config, tmp_path):
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in "ab":
        lines += [f"{user}\t{item}\t{time}" for time, item in enumerate("pqrspp")]
    (tmp_path / "again").mkdir()
    (tmp_path / "again/again.inter").write_text("\n".join([*lines, "c\tx\t1", "c\ty\t2", "c\tz\t3", "c\tw\t4"]) + "\n")
    settings = {"dataset": "again", "data_path": str(tmp_path), "n_candidates": 3}
    split = {"split": {"RS": [0.2, 0.2, 0.6]}, "order": "TO", "group_by": "user", "mode": "uni2"}
    config = make_config(**settings, eval_args=split)
    _, _, _, test = prepare_data(config)
    found = match_rows(test._dataset, candidate_sets(config).test)
    assert len(set(found.tolist())) == len(found) == len(test._dataset)
    lengths = test._dataset.inter_feat["item_length"][found]
    users = candidate_sets(config).test.user_ids
    for user in "ab":  # both rows with target p, the earlier one first
        assert sorted(lengths[users == user].tolist()) == lengths[users == user].tolist()

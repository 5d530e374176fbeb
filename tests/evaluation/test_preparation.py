"""What each model is trained on and evaluated with."""

import numpy as np
import pytest
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.utils import ModelType, get_model, get_trainer

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.evaluation.candidate_collector import CandidateCollector
from recbole_llm.evaluation.candidate_loaders import CandidateEvalDataLoader
from recbole_llm.evaluation.preparation import build_splits, prepare_data


def interactions(split) -> list[tuple[str, str]]:
    """External (user, item) pairs of a split."""
    feat = split.inter_feat
    users, items = (split.id2token(field, feat[field].numpy()) for field in ("user_id", "item_id"))
    return sorted(zip(users.tolist(), items.tolist(), strict=True))


def set_pairs(candidates) -> list[tuple[str, str]]:
    return sorted(zip(candidates.user_ids.tolist(), candidates.item_ids.tolist(), strict=True))


@pytest.mark.parametrize("model", ["BPR", "Pop", "DeepFM", "ItemKNN"])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.7, 0.1, 0.2]}])
def test_other_models_train_on_everything_but_the_rows(make_config, model, split):
    config = make_config(model, eval_args={"split": split, "order": "TO", "group_by": "user", "mode": "uni7"})
    _, train, valid, test = prepare_data(config)
    sets = candidate_sets(config)
    assert interactions(valid._dataset) == set_pairs(sets.valid)
    assert interactions(test._dataset) == set_pairs(sets.test)
    everything = [(user, item) for user in sets.histories for item in sets.catalogue[sets.histories[user]].tolist()]
    held_out = {*set_pairs(sets.valid), *set_pairs(sets.test)}
    assert interactions(train._dataset) == sorted(set(everything) - held_out)


@pytest.mark.parametrize("model", ["BPR", "SASRec", "DeepFM"])
def test_a_sample_of_test_rows_leaves_the_others_out_of_training_too(make_config, model):
    train, test = ([] for _ in range(2))
    for size in (None, 5):
        config = make_config(model, test_sample_size=size)
        _, loader, _, tested = prepare_data(config)
        train.append(interactions(loader._dataset))
        batch_rows = [tuple(pair) for pair in zip(tested.candidate_set.user_ids, tested.candidate_set.item_ids, strict=True)]
        test.append(batch_rows)
        assert len(tested.rows) == len(batch_rows)
    assert train[0] == train[1] and not set(train[1]) & set(test[0])
    assert len(test[1]) == 5 and set(test[1]) < set(test[0])


def test_users_without_a_row_are_trained_on_whole_by_every_model(make_config, tmp_path):
    """RecBole's own split of a general dataset would hold out the last interaction of "two" as well."""
    lines = ["user_id:token\titem_id:token\ttimestamp:float", "two\tp\t1", "two\tq\t2"]
    lines += [f"five\t{item}\t{time}" for time, item in enumerate("rstuv")]
    (tmp_path / "short").mkdir()
    (tmp_path / "short/short.inter").write_text("\n".join(lines) + "\n")
    _, train, valid, test = prepare_data(make_config("BPR", dataset="short", data_path=str(tmp_path), n_candidates=3))
    assert interactions(train._dataset) == [("five", "r"), ("five", "s"), ("five", "t"), ("two", "p"), ("two", "q")]
    assert (interactions(valid._dataset), interactions(test._dataset)) == ([("five", "u")], [("five", "v")])


def test_the_last_occurrence_of_a_repeated_pair_is_held_out(make_config, tmp_path):
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"a\t{item}\t{time}" for time, item in ((5, "p"), (1, "p"), (2, "q"), (4, "p"), (3, "r"))]
    lines += [f"b\t{item}\t{time}" for time, item in enumerate("tuvw")]
    (tmp_path / "again").mkdir()
    (tmp_path / "again/again.inter").write_text("\n".join(lines) + "\n")
    config = make_config("BPR", dataset="again", data_path=str(tmp_path), n_candidates=3)
    _, train, valid, test = prepare_data(config)
    times = [dict(zip(*(s.inter_feat[f].tolist() for f in ("user_id", "timestamp")), strict=True)) for s in
             (valid._dataset, test._dataset)]  # fmt: skip
    a = train._dataset.token2id("user_id", "a")
    assert (times[0][a], times[1][a]) == (4, 5)
    assert sorted(interactions(train._dataset))[:3] == [("a", "p"), ("a", "q"), ("a", "r")]


def test_a_normalised_timestamp_gives_general_models_the_same_rows(make_config, tmp_path):
    """Timestamps so close that 32 bits cannot hold them: the latest is the target all the same, normalised or not."""
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(6):
        items = np.random.default_rng(user).permutation(30)[:8]
        lines += [f"u{user}\ti{item}\t{1_700_000_000 + 10 * user + (7 - step)}" for step, item in enumerate(items)]
    (tmp_path / "close").mkdir()
    (tmp_path / "close/close.inter").write_text("\n".join(lines) + "\n")
    settings = {"dataset": "close", "data_path": str(tmp_path)}
    _, _, _, test = prepare_data(make_config("SASRec", **settings))
    raw = interactions(test._dataset)
    assert raw == [(f"u{user}", f"i{np.random.default_rng(user).permutation(30)[0]}") for user in range(6)]
    for model in ("BPR", "DeepFM"):
        _, _, _, test = prepare_data(make_config(model, **settings))
        assert interactions(test._dataset) == raw
    config = make_config("SASRec", **settings, normalize_all=True)
    _, _, _, test = prepare_data(config)
    assert interactions(test._dataset) == set_pairs(candidate_sets(config).test) == raw


def test_item_features_that_drop_interactions_are_an_error(make_config, tmp_path):
    from tests.toy import write_files

    path = write_files(tmp_path / "dropped")
    config = make_config("SASRec", data_path=str(path))
    target = candidate_sets(config).test.item_ids[0]
    items = path / "toy/toy.item"
    items.write_text("".join(line for line in items.open() if not line.startswith(f"{target}\t")))
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
    with pytest.raises(ValueError, match="filter_inter_by_user_or_item"):
        prepare_data(make_config("DIN", data_path=str(path), load_col=load))
    load["item"] = ["item_id", "class"]
    kept = make_config("DIN", data_path=str(path), load_col=load, filter_inter_by_user_or_item=False)
    _, _, _, test = prepare_data(kept)
    assert interactions(test._dataset) == set_pairs(candidate_sets(config).test)


@pytest.mark.parametrize(("mode", "lengths"), [("valid_only", (16, 0)), ("test_only", (0, 16))])
def test_a_phase_that_the_split_leaves_out_has_an_empty_loader(make_config, mode, lengths):
    split = {"split": {"LS": mode}, "order": "TO", "group_by": "user", "mode": "uni7"}
    for model in ("BPR", "SASRec"):
        config = make_config(model, eval_args=split, eval_batch_size=8)
        _, train, valid, test = prepare_data(config)
        assert (len(valid), len(test)) == lengths
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
        trainer.eval_collector = CandidateCollector(config)
        trainer.fit(train, valid, saved=False, verbose=False)
        assert (trainer.evaluate(test, load_best_model=False) is None) == (lengths[1] == 0)


def test_training_through_the_trainer_uses_the_validation_rows(make_config):
    config = make_config("BPR", epochs=3)
    _, train, valid, test = prepare_data(config)
    assert type(train) is TrainDataLoader and type(valid) is CandidateEvalDataLoader
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, get_model("BPR")(config, train._dataset))
    trainer.eval_collector = CandidateCollector(config)
    best, result = trainer.fit(train, valid, saved=True, verbose=False)
    assert best == result["ndcg@10"]
    assert trainer.eval_collector.rows().phase == "valid"
    trainer.evaluate(test)
    assert trainer.eval_collector.rows().phase == "test"


def test_autoencoders_and_knowledge_models_have_their_training_loaders(make_config):
    for model, loader in (("MultiDAE", "UserDataLoader"), ("NeuMF", "TrainDataLoader")):
        _, train, _, test = prepare_data(make_config(model))
        assert type(train).__name__ == loader and type(test) is CandidateEvalDataLoader


def test_without_a_protocol_the_loaders_are_recboles(make_config):
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    _, _, _, test = prepare_data(make_config("BPR", protocol=None, eval_args=split))
    assert type(test) is FullSortEvalDataLoader


def test_decision_trees_are_refused(make_config):
    config = make_config("BPR")
    config["MODEL_TYPE"] = ModelType.DECISIONTREE
    with pytest.raises(ValueError, match="BPR: decision trees do not rank candidates"):
        prepare_data(config)


def test_a_missing_lastfm_names_the_converter_before_recbole_offers_its_own(make_config, tmp_path):
    with pytest.raises(FileNotFoundError, match="recbole_llm.data.convert lastfm"):
        prepare_data(make_config(dataset="lastfm", data_path=str(tmp_path)))


def test_sequential_models_keep_recboles_split(make_config):
    config = make_config("SASRec")
    from recbole.data import create_dataset

    train, valid, test = build_splits(config, create_dataset(config))
    assert len(valid) == len(test) == 16 and len(train) > 16

"""A dataset's candidate sets: what they depend on, training candidates, and the cache."""

import logging
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.data import candidate_sets as candidate_sets_module
from recbole_llm.data.candidate_sets import candidate_sets

MODELS = [
    ("BPR", {}),
    ("Pop", {}),
    ("DeepFM", {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "class"]}}),
    ("DIN", {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}}),
    ("BERT4Rec", {"MAX_ITEM_LIST_LENGTH": 3, "seed": 7}),
]


@pytest.mark.parametrize(("model", "settings"), MODELS)
def test_rows_and_candidates_do_not_depend_on_the_model(make_config, model, settings):
    reference = candidate_sets(make_config("SASRec"))
    candidate_sets_module._memory.clear()
    other = candidate_sets(make_config(model, checkpoint_dir=reference_free_folder(make_config), **settings))
    assert other.test.sha256 == reference.test.sha256
    assert other.valid.sha256 == reference.valid.sha256


def reference_free_folder(make_config) -> str:
    """Another checkpoint_dir, so that the sets are built and not read."""
    return make_config()["checkpoint_dir"] + "-other"


def test_the_seed_changes_training_and_candidate_seed_changes_evaluation(make_config):
    one, other = candidate_sets(make_config(seed=1)), candidate_sets(make_config(seed=2))
    assert one.test.sha256 == other.test.sha256
    users, targets = one.test.user_ids, one.test.item_ids
    assert not np.array_equal(
        one.training_candidates(users, targets, 0)[0], other.training_candidates(users, targets, 0)[0]
    )
    assert candidate_sets(make_config(candidate_seed=1)).test.sha256 != one.test.sha256
    assert candidate_sets(make_config(n_candidates=5)).test.n_candidates == 5


def test_training_candidates(make_config):
    sets = candidate_sets(make_config())
    users, targets = sets.test.user_ids[:6], sets.test.item_ids[:6]
    first, position = sets.training_candidates(users, targets, epoch=0)
    assert first.shape == (6, 8)
    np.testing.assert_array_equal(sets.catalogue[first[np.arange(6), position]], targets)
    for user, row, place in zip(users, first, position, strict=True):
        assert not set(np.delete(row, place).tolist()) & set(sets.histories[user].tolist())
    assert not np.array_equal(first, sets.training_candidates(users, targets, epoch=1)[0])
    np.testing.assert_array_equal(first[::-1], sets.training_candidates(users[::-1], targets[::-1], epoch=0)[0])
    assert not np.array_equal(first, sets.test.candidates[:6])


def test_recent_negatives_leave_out_the_shown_history_alone(make_config):
    sets = candidate_sets(make_config())
    users, targets = sets.test.user_ids[:6], sets.test.item_ids[:6]
    recent = [sets.catalogue[sets.histories[user][:2]] for user in users]
    old = 0
    for epoch in range(40):
        drawn, place = sets.training_candidates(users, targets, epoch, recent)
        for user, row, at, shown, target in zip(users, drawn, place, recent, targets, strict=True):
            negatives = set(sets.catalogue[np.delete(row, at)])
            assert len(negatives) == 7 and not negatives & {*shown, target}
            old += len(negatives & set(sets.catalogue[sets.histories[user]]))
    assert old > 0


def test_too_large_a_candidate_set_names_all_users(make_config):
    with pytest.raises(ValueError, match=r"n_candidates: 36 needs 35 items .* user\(s\) have fewer unseen items: u"):
        candidate_sets(make_config(n_candidates=36))


def cached_file(config):
    (file,) = [*(Path(config["checkpoint_dir"]) / "candidates").iterdir()]
    return file


def test_sets_are_stored_and_read_back(make_config, monkeypatch):
    config = make_config()
    built = candidate_sets(config)
    assert cached_file(config).name.startswith("toy-")
    candidate_sets_module._memory.clear()
    monkeypatch.setattr(candidate_sets_module, "build_candidate_sets", lambda config: pytest.fail("not read from the file"))
    stored = candidate_sets(config)
    assert stored.test.sha256 == built.test.sha256
    assert stored.histories.users.tolist() == built.histories.users.tolist()
    np.testing.assert_array_equal(stored.histories["u3"], built.histories["u3"])
    assert candidate_sets(config).test is stored.test  # and kept in memory


def test_a_sample_of_test_rows_is_a_set_of_its_own_from_the_same_file(make_config):
    config = make_config()
    whole, some, other = (candidate_sets(make_config(test_sample_size=size)) for size in (None, 5, 6))
    assert len(some.test) == 5 and len({sets.test.sha256 for sets in (whole, some, other)}) == 3
    place = {user: i for i, user in enumerate(whole.test.user_ids.tolist())}
    numbers = [place[user] for user in some.test.user_ids.tolist()]
    assert numbers == sorted(numbers) != list(range(5))
    np.testing.assert_array_equal(some.test.candidates, whole.test.candidates[numbers])
    assert some.valid.sha256 == whole.valid.sha256 and cached_file(config).is_file()
    for sets in (whole, some, other):
        assert sets.rows.test[0].tolist() == whole.test.user_ids.tolist()  # what nobody trains on
    assert candidate_sets(make_config(test_sample_size=5)).test is some.test
    assert candidate_sets(make_config(test_sample_size=10**6)).test.sha256 == whole.test.sha256
    assert candidate_sets(make_config(test_sample_size=5, candidate_seed=1)).test.user_ids.tolist() != some.test.user_ids.tolist()


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_corrupt_cache_is_rebuilt_with_a_warning(make_config, caplog, damage):
    config = make_config()
    digest = candidate_sets(config).test.sha256
    file = cached_file(config)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] if damage is None else damage)
    candidate_sets_module._memory.clear()
    with caplog.at_level(logging.WARNING):
        assert candidate_sets(config).test.sha256 == digest
    assert f"{file} is damaged" in caplog.text and "rebuilt" in caplog.text
    assert len(file.read_bytes()) == len(whole)


def test_changed_data_or_filters_make_other_sets(make_config, tmp_path):
    from tests.toy import write_files

    path = write_files(tmp_path / "changing")
    config = make_config(data_path=str(path))
    before = candidate_sets(config).test.sha256
    with open(path / "toy/toy.inter", "a") as file:
        file.write("u0\ti39\t5\t99999\n")
    assert candidate_sets(config).test.sha256 != before
    filtered = make_config(data_path=str(path), val_interval={"rating": "[3,inf)"})
    assert len(candidate_sets(filtered).catalogue) <= len(candidate_sets(config).catalogue)
    assert candidate_sets(filtered).test.sha256 != candidate_sets(config).test.sha256


def test_missing_files_and_columns_are_named(make_config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.toy.toy.inter not found. Set data_path"):
        candidate_sets(make_config(data_path=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match=r"holds ml100k/ml100k.inter; did you mean 'ml-100k'\?"):
        candidate_sets(make_config(dataset="ml100k", data_path=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match=r"holds nope/nope.inter; or make one that has a converter: recbole-llm data convert NAME"):
        candidate_sets(make_config(dataset="nope", data_path=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match=r"recbole_llm.data.convert lastfm --source DIR --target .*nowhere"):
        candidate_sets(make_config(dataset="lastfm", data_path=str(tmp_path / "nowhere")))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/toy.inter").write_text("user_id:token\titem_id:token\na\tb\n")
    with pytest.raises(
        ValueError, match=r"toy.inter has no column 'timestamp' \(it has user_id, item_id\).*TIME_FIELD"
    ):
        candidate_sets(make_config(data_path=str(tmp_path)))


def test_ml_100k_has_a_row_for_each_user(make_config):
    sets = candidate_sets(make_config(dataset="ml-100k", n_candidates=20))
    assert (len(sets.valid), len(sets.test), len(sets.catalogue)) == (943, 943, 1682)


def test_lastfm_keeps_the_first_of_repeated_rows(make_config, shared_dir):
    config = make_config(dataset="lastfm", data_path=str(shared_dir / "data"), rm_dup_inter="first", n_candidates=20)
    sets = candidate_sets(config)
    assert (len(sets.valid), len(sets.test), len(sets.catalogue)) == (1006, 1106, 2975)
    assert len(sets.histories.items) == 15674  # distinct (user, artist) pairs


def test_the_cache_is_written_to_every_folder_and_again_where_it_was_spoilt(make_config, tmp_path, caplog):
    first, second = (make_config(checkpoint_dir=str(tmp_path / name)) for name in "ab")
    expected = candidate_sets(first).test.sha256
    assert candidate_sets(second).test.sha256 == expected
    (file,) = (tmp_path / "b" / "candidates").glob("*.npz")
    file.write_bytes(b"x")
    assert candidate_sets(second).test.sha256 == expected and file.stat().st_size > 100
    assert str(file) in caplog.text

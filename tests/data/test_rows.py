"""Evaluation rows and histories, against what plain Python makes of the same files; and the cache."""

import logging
from collections import defaultdict

import numpy as np
import pytest
from recbole.utils import get_model

from recbole_llm.data import rows as rows_module
from recbole_llm.data.rows import candidate_sets, evaluation_rows
from recbole_llm.evaluation.preparation import prepare_data

TIMED = {"order": "TO", "group_by": "user", "mode": "uni7"}


def read_interactions(config) -> dict[str, list[str]]:
    """User -> items in order of time, from the file itself."""
    timed = defaultdict(list)
    with open(f"{config['data_path']}/{config['dataset']}.inter") as lines:
        next(lines)
        for line in lines:
            user, item, _, time = line.rstrip("\n").split("\t")
            timed[user].append((float(time), item))
    return {user: [item for _, item in sorted(pairs)] for user, pairs in timed.items()}


def pairs(rows) -> list[tuple[str, str]]:
    return list(zip(*(column.tolist() for column in rows), strict=True))


def leave_one_out(sequences, *offsets):
    """Rows at these places from the end, for users with more interactions than RecBole's split needs."""
    return [sorted((user, items[offset]) for user, items in sequences.items()) for offset in offsets]


@pytest.mark.parametrize(
    ("mode", "expected"), [("valid_and_test", (-2, -1)), ("valid_only", (-1, None)), ("test_only", (None, -1))]
)
def test_leave_one_out(make_config, mode, expected):
    config = make_config(eval_args={**TIMED, "split": {"LS": mode}})
    rows, sequences = evaluation_rows(config), read_interactions(config)
    for phase, offset in zip(("valid", "test"), expected, strict=True):
        wanted = [] if offset is None else leave_one_out(sequences, offset)[0]
        assert pairs(getattr(rows, phase)) == wanted


def test_ratio_split(make_config):
    config = make_config(eval_args={**TIMED, "split": {"RS": [0.6, 0.2, 0.2]}})
    rows, sequences = evaluation_rows(config), read_interactions(config)
    for phase, ends in (("valid", (2, 1)), ("test", (1, 0))):
        wanted = []
        for user, items in sorted(sequences.items()):
            share = int(0.2 * (len(items) - 1)) or 1  # of the rows, one fewer than the interactions; at least one
            wanted += [(user, item) for item in items[len(items) - ends[0] * share : len(items) - ends[1] * share]]
        assert pairs(getattr(rows, phase)) == wanted


def test_whole_histories_and_catalogue(make_config):
    config = make_config()
    rows, sequences = evaluation_rows(config), read_interactions(config)
    assert rows.catalogue.tolist() == sorted({item for items in sequences.values() for item in items})
    assert set(rows.histories) == set(sequences)
    for user, items in sequences.items():
        assert rows.catalogue[rows.histories[user]].tolist() == sorted(items)


def test_users_with_too_few_interactions_have_no_row(make_config, tmp_path, caplog):
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, length in (("one", 1), ("two", 2), ("three", 3), ("four", 4)):
        lines += [f"{user}\ti{i}\t{i}" for i in range(length)]
    (tmp_path / "short").mkdir()
    (tmp_path / "short/short.inter").write_text("\n".join(lines) + "\n")
    config = make_config(dataset="short", data_path=str(tmp_path))
    with caplog.at_level(logging.INFO):
        rows = evaluation_rows(config)
    assert pairs(rows.test) == [("four", "i3"), ("three", "i2")]
    assert pairs(rows.valid) == [("four", "i2")]
    assert "short: 2 of 4 users have no test row" in caplog.text
    assert "short: 3 of 4 users have no valid row" in caplog.text


def test_no_row_at_all_is_an_error(make_config, tmp_path):
    (tmp_path / "short").mkdir()
    text = "user_id:token\titem_id:token\ttimestamp:float\na\ti\t1\nb\tj\t1\n"
    (tmp_path / "short/short.inter").write_text(text)
    with pytest.raises(ValueError, match="short: no valid row. eval_args.split .* of 2 users"):
        evaluation_rows(make_config(dataset="short", data_path=str(tmp_path)))


def write_sessions(folder, repeat=""):
    """A benchmark dataset: three files, one session per row."""
    target = folder / "ses"
    target.mkdir()
    header = "user_id:token\titem_id:token\titem_id_list:token_seq"
    content = {
        "train": ["s0\tb\ta", "s1\tc\ta b", "s2\td\ta b c", "s3\tz\tx y"],
        "valid": ["v0\te\tb c d"],
        "test": ["t1\tf\tc d e", "t0\tg\td e f"],
    }
    for split, lines in content.items():
        (target / f"ses.{split}.inter").write_text("\n".join([header, *lines]) + "\n")
    return folder


SESSIONS = {
    "load_col": {"inter": ["user_id", "item_id", "item_id_list"]},
    "benchmark_filename": ["train", "valid", "test"],
    "alias_of_item_id": ["item_id_list"],
}


def test_benchmark_files_are_taken_as_they_are(make_config, tmp_path):
    config = make_config(dataset="ses", data_path=str(write_sessions(tmp_path)), n_candidates=4, **SESSIONS)
    rows = evaluation_rows(config)
    assert pairs(rows.valid) == [("v0", "e")]
    assert pairs(rows.test) == [("t0", "g"), ("t1", "f")]
    assert rows.catalogue.tolist() == list("abcdefgxyz")
    assert rows.catalogue[rows.histories["t1"]].tolist() == ["c", "d", "e", "f"]
    made = candidate_sets(config).test
    assert not set(made.catalogue[made.candidates[1]]) & {"c", "d", "e"}


def test_a_benchmark_row_without_a_history_is_named(make_config, tmp_path):
    file = write_sessions(tmp_path) / "ses" / "ses.test.inter"
    file.write_text(file.read_text() + "t9\tg\t\n")
    with pytest.raises(ValueError, match=r"1 rows of .*ses.test.inter have an empty item_id_list: users t9; .* remove"):
        evaluation_rows(make_config(dataset="ses", data_path=str(tmp_path), **SESSIONS))


@pytest.mark.parametrize("most", [2, 6])
@pytest.mark.parametrize("model", ["SASRec", "Caser"])
def test_histories_of_benchmark_files_are_as_long_as_the_models_read(make_config, tmp_path, model, most):
    settings = {"dataset": "ses", "data_path": str(write_sessions(tmp_path)), "n_candidates": 4, **SESSIONS}
    if model == "Caser":
        settings |= {"train_neg_sample_args": None, "loss_type": "CE"}
    config = make_config(model=model, MAX_ITEM_LIST_LENGTH=most, **settings)
    _, _, _, test = prepare_data(config)
    rows = test._dataset.inter_feat
    assert rows["item_id_list"].shape == (2, most) and rows["item_length"].tolist() == [min(most, 3)] * 2
    names = test._dataset.field2id_token["item_id"]
    held = [[names[i] for i in row[:length]] for row, length in zip(rows["item_id_list"], rows["item_length"], strict=True)]
    assert held == [list("cde")[-most:], list("def")[-most:]]
    get_model(model)(config, test._dataset).full_sort_predict(rows)


def test_benchmark_files_need_the_alias(make_config, tmp_path):
    settings = {**SESSIONS, "alias_of_item_id": None}
    config = make_config(dataset="ses", data_path=str(write_sessions(tmp_path)), **settings)
    with pytest.raises(ValueError, match=r"needs alias_of_item_id: \[item_id_list\]"):
        evaluation_rows(config)


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
    rows_module._memory.clear()
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
    (file,) = [*(rows_module.Path(config["checkpoint_dir"]) / "candidates").iterdir()]
    return file


def test_sets_are_stored_and_read_back(make_config, monkeypatch):
    config = make_config()
    built = candidate_sets(config)
    assert cached_file(config).name.startswith("toy-")
    rows_module._memory.clear()
    monkeypatch.setattr(rows_module, "build_candidate_sets", lambda config: pytest.fail("not read from the file"))
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
    rows_module._memory.clear()
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
    with pytest.raises(FileNotFoundError, match=r"recbole_llm.data.convert lastfm --source DIR --target .*nowhere"):
        candidate_sets(make_config(dataset="lastfm", data_path=str(tmp_path / "nowhere")))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/toy.inter").write_text("user_id:token\titem_id:token\na\tb\n")
    with pytest.raises(
        ValueError, match=r"toy.inter has no column 'timestamp' \(it has user_id, item_id\).*TIME_FIELD"
    ):
        candidate_sets(make_config(data_path=str(tmp_path)))


def test_random_order_is_refused(make_config):
    with pytest.raises(ValueError, match="eval_args.order is 'RO'.*order: TO"):
        evaluation_rows(make_config("BPR", eval_args={"split": {"RS": [8, 1, 1]}, "order": "RO", "mode": "uni7"}))


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

"""Evaluation rows and histories, against what plain Python makes of the same files."""

import logging
from collections import defaultdict

import pytest
from recbole.utils import get_model

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.rows import evaluation_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests.data.case_files import LATEST, ROWS

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


def test_random_order_is_refused(make_config):
    with pytest.raises(ValueError, match="eval_args.order is 'RO'.*order: TO"):
        evaluation_rows(make_config("BPR", eval_args={"split": {"RS": [8, 1, 1]}, "order": "RO", "mode": "uni7"}))


def test_an_alias_of_the_users_changes_no_row(case):
    """A column of other users, which rows do not read: the model's dataset numbers them, the rows' own copy leaves the column out."""
    lines = [f"{user}\t{item}\t{1000 + step}\tu{step}" for user, item, step in ROWS]
    files = {"inter": "\n".join(["user_id:token\titem_id:token\ttimestamp:float\tfriend:token", *lines]) + "\n"}
    columns = ["user_id", "item_id", "timestamp", "friend"]
    config = case(files, load_col={"inter": columns}, alias_of_user_id=["friend"])
    assert pairs(evaluation_rows(config).test) == LATEST
    assert prepare_data(config)[3] is not None

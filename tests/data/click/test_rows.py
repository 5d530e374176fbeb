import pytest

from recbole_llm import ConfigError
from recbole_llm.data.click import rows as click_rows
from recbole_llm.data.click.rows import build_labelled_rows, labelled_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests.clicks import COLUMNS, pairs, write


def test_rows_are_split_by_global_time_and_labelled_by_the_threshold(make, toy_path):
    rows = build_labelled_rows(make())
    times = [rows.interactions.times[rows.numbers[phase]] for phase in click_rows.PHASES]
    assert times[0].max() <= times[1].min() and times[1].max() <= times[2].min()
    ratings = {}
    for line in (toy_path / "toy" / "toy.inter").read_text().splitlines()[1:]:
        user, item, rating, _ = line.split("\t")
        ratings[user, item] = float(rating)
    total = 0
    for phase in click_rows.PHASES:
        for user, item, label in zip(*rows.columns(phase), strict=True):
            assert label == (ratings[user, item] >= 4)
            total += 1
    assert total == len(ratings) - 16  # a user's first interaction has no history
    assert len(rows.numbers["test"]) == int(0.1 * total)


def test_leave_one_out_tests_each_users_last_row(make):
    rows = build_labelled_rows(make(eval_args={"split": {"LS": "valid_and_test"}}))
    users, items, _ = rows.columns("test")
    data = rows.interactions
    for user, item in zip(users, items, strict=True):
        mine = data.users == user
        assert item == data.items[mine][data.times[mine].argmax()]
    assert sorted(users) == sorted(set(data.users))


def test_the_digest_tells_labels_and_rows_apart(make):
    digest = build_labelled_rows(make()).sha256
    assert digest == build_labelled_rows(make("DeepFM", seed=7)).sha256
    assert digest != build_labelled_rows(make(threshold={"rating": 5})).sha256
    assert digest != build_labelled_rows(make(eval_args={"split": {"RS": [7, 2, 1]}})).sha256


@pytest.mark.parametrize("model", ["DIN", "DeepFM", "BPR"])
def test_a_sample_of_test_rows_changes_nothing_else(make, model):
    split = {"split": {"RS": [6, 2, 2]}}
    whole, some = (make(model, eval_args=split, test_sample_size=size) for size in (None, 20))
    rows, sampled = labelled_rows(whole), labelled_rows(some)
    assert len(sampled.numbers["test"]) == 20 < rows.n_test == sampled.n_test == len(rows.numbers["test"])
    assert set(sampled.numbers["test"].tolist()) < set(rows.numbers["test"].tolist()) and rows.sha256 != sampled.sha256
    prepared = [[pairs(loader._dataset) for loader in prepare_data(config)[1:]] for config in (whole, some)]
    assert prepared[0][:2] == prepared[1][:2] and len(prepared[1][2]) == 20
    assert prepared[1][2] == [(str(u), str(i), float(y)) for u, i, y in zip(*sampled.columns("test"), strict=True)]
    assert labelled_rows(make(model, eval_args=split, test_sample_size=10**6)).sha256 == rows.sha256


def test_a_sample_of_one_class_names_its_size(make):
    with pytest.raises(ValueError, match="all 1 test rows are labelled [01], so AUC is undefined; change test_sample_size 1, threshold"):
        labelled_rows(make(test_sample_size=1))


@pytest.mark.parametrize("late, early, complaint", [
    ("5", None, "test rows are labelled 1, so AUC is undefined"), (None, "2", "train rows are labelled 0, so a model"),
])  # fmt: skip
def test_one_class_is_refused_where_it_leaves_nothing_to_measure_or_learn(make, tmp_path, late, early, complaint):
    lines = [f"u{k % 5}\ti{k}\t{(late if k > 84 else early) or 1 + 4 * (k // 5 % 2)}\t{k}" for k in range(100)]
    with pytest.raises(ValueError, match=complaint):
        prepare_data(make(**write(tmp_path / "d", lines)))


@pytest.mark.parametrize("settings, complaint", [
    ({"metrics": ["NDCG"]}, "NDCG ranks, protocol 'ctr' has labelled rows"),
    ({"eval_args": {"mode": "full"}}, "mode 'full' contradicts protocol 'ctr'"),
    ({"eval_args": {"order": "RO"}}, "order 'RO': rows of protocol 'ctr' are in order of time"),
    ({"model": "SASRec", "valid_metric": "LogLoss"}, "valid_metric: LogLoss needs probabilities, which SASRec gives only"),
    ({"threshold": {"rating": 4, "age": 3}}, "threshold: must name one column"),
    ({"calibration": "isotonic"}, "calibration: must be one of 'platt', 'none'"),
])  # fmt: skip
def test_settings_that_contradict_the_protocol_are_named(make, settings, complaint):
    """`model` among them picks the model."""
    with pytest.raises(ConfigError, match=complaint):
        make(**settings)


def test_labels_that_load_col_does_not_name_are_pointed_out(make, tmp_path):
    lines = [f"u{k % 5}\ti{k}\t{k % 2}\t{k}" for k in range(60)]
    own = write(tmp_path / "d", lines, COLUMNS.replace("rating", "label")) | {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    remedy = r"makes labels of 'rating', which .*own.inter lacks; it holds labels, 'label': name it in load_col: {inter: \[..., label\]}, or set threshold: null"
    with pytest.raises(ValueError, match=remedy):
        prepare_data(make(**own))
    for right in ({"threshold": None}, {"load_col": {"inter": ["user_id", "item_id", "label", "timestamp"]}}):
        assert len(prepare_data(make(**own | right))[3]._dataset)


def test_a_model_that_ranks_titles_cannot_give_click_probabilities(make):
    with pytest.raises(ConfigError, match="LLaRA ranks candidates and gives no click probability; use RecLoRA"):
        make("LLaRA", item_text_field="title")

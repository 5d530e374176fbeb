import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from recbole_llm import ConfigError, LLMConfig
from recbole_llm.data.click import rows as click_rows
from recbole_llm.data.click.rows import build_labelled_rows, labelled_rows
from recbole_llm.data.model_kinds import gives_probabilities, reads_labels
from recbole_llm.evaluation import labelled_rows as labelled_evaluation
from recbole_llm.evaluation.click_metrics import user_ranks
from recbole_llm.evaluation.preparation import prepare_data

MODELS = ["DIN", "DIEN", "DeepFM", "DCNV2", "AutoInt", "SASRec", "BPR"]
COLUMNS = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


@pytest.fixture(autouse=True)
def _forget():
    click_rows._memory.clear()


@pytest.fixture
def make(toy_path, tmp_path):
    def build(model="DIN", dataset="toy", **settings):
        base = {"data_path": str(toy_path), "checkpoint_dir": str(tmp_path), "protocol": "ctr", "state": "ERROR"}
        return LLMConfig(model, dataset, config_dict={**base, "show_progress": False, **settings})

    return build


def write(folder, lines, columns=COLUMNS, name="own"):
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.inter").write_text("\n".join([columns, *lines]) + "\n")
    return {
        "data_path": str(folder),
        "dataset": name,
        "load_col": {"inter": [c.split(":")[0] for c in columns.split("\t")]},
    }


def pairs(split):
    columns = (split.id2token(field, split.inter_feat[field].numpy()) for field in (split.uid_field, split.iid_field))
    return list(zip(*(map(str, column) for column in columns), split.inter_feat["label"].tolist(), strict=True))


@pytest.mark.parametrize("split", [{"RS": [8, 1, 1]}, {"LS": "valid_and_test"}], ids=str)
def test_all_models_are_tested_on_the_same_labelled_rows(make, split):
    found, digests = {}, set()
    for model in MODELS:
        config = make(model, eval_args={"split": split})
        _, train, valid, test = prepare_data(config)
        found[model] = pairs(valid._dataset), pairs(test._dataset)
        digests.add(labelled_rows(config).sha256)
        trained = pairs(train._dataset)
        expected = list(zip(*labelled_rows(config).columns("train"), strict=True))
        if model in ("SASRec", "BPR"):  # their losses read no labels
            expected = [row for row in expected if row[2] == 1]
        assert trained == [(str(u), str(i), float(y)) for u, i, y in expected]
    assert len(digests) == 1 and all(rows == found["DIN"] for rows in found.values())
    assert len(found["DIN"][0]) and {y for *_, y in found["DIN"][1]} == {0.0, 1.0}


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
    with pytest.raises(ValueError, match="all 1 test rows are labelled [01], so AUC is undefined; change test_sample_size, threshold"):
        labelled_rows(make(test_sample_size=1))


def test_neither_time_nor_rating_reaches_a_context_model(make):
    dataset, *_ = prepare_data(make("DeepFM"))
    split = prepare_data(make("DeepFM"))[3]._dataset
    assert not {"timestamp", "rating"} & set(split.inter_feat.columns)


def test_a_label_column_serves_as_well_as_a_rating(make, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"u{k % 9}\ti{k}\t{rng.integers(2)}\t{k}" for k in range(90)]
    own = write(tmp_path / "d", lines, COLUMNS.replace("rating", "label"))
    rows = build_labelled_rows(make(**own))
    labels = dict(line.split("\t")[1:3] for line in lines)
    assert all(int(labels[i]) == y for p in click_rows.PHASES for _, i, y in zip(*rows.columns(p), strict=True))


def test_repeated_pairs_keep_their_own_labels(make, tmp_path):
    rng = np.random.default_rng(1)
    lines = [f"u{k % 5}\ti{rng.integers(6)}\t{rng.integers(1, 6)}\t{k}" for k in range(120)]
    own = write(tmp_path / "d", lines)
    config = make("DeepFM", **own)
    splits = [loader._dataset for loader in prepare_data(config)[1:]]
    rows = labelled_rows(config)
    for phase, split in zip(click_rows.PHASES, splits, strict=True):
        assert pairs(split) == [(str(u), str(i), float(y)) for u, i, y in zip(*rows.columns(phase), strict=True)]


def test_data_without_labels_or_ratings_are_refused(make, tmp_path):
    columns = "user_id:token\titem_id:token\ttimestamp:float"
    own = write(tmp_path / "d", [f"u{k % 5}\ti{k}\t{k}" for k in range(60)], columns)
    with pytest.raises(
        ValueError, match=r"needs labels, and .*own.inter has the columns user_id, item_id, timestamp.*thresh"
    ):
        prepare_data(make(**own))


@pytest.mark.parametrize("late, early, complaint", [
    ("5", None, "test rows are labelled 1, so AUC is undefined"), (None, "2", "train rows are labelled 0, so a model"),
])  # fmt: skip
def test_one_class_is_refused_where_it_leaves_nothing_to_measure_or_learn(make, tmp_path, late, early, complaint):
    lines = [f"u{k % 5}\ti{k}\t{(late if k > 84 else early) or 1 + 4 * (k // 5 % 2)}\t{k}" for k in range(100)]
    with pytest.raises(ValueError, match=complaint):
        prepare_data(make(**write(tmp_path / "d", lines)))


def test_odd_labels_name_a_few_and_the_remedy(make, tmp_path):
    lines = [f"u{k % 5}\ti{k}\t{k % 3}\t{k}" for k in range(60)]
    own = write(tmp_path / "d", lines, COLUMNS.replace("rating", "label"))
    with pytest.raises(ValueError, match=r"holds \[2.0\] where labels are 0 or 1; set threshold"):
        prepare_data(make(**own))


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


def test_a_model_that_ranks_titles_cannot_give_click_probabilities(make):
    with pytest.raises(ConfigError, match="LLaRA ranks candidates and gives no click probability; use RecLoRA"):
        make("LLaRA", item_text_field="title")


def test_which_models_read_labels_and_give_probabilities():
    from recbole.utils import get_model

    known = {name: (reads_labels(get_model(name)), gives_probabilities(get_model(name))) for name in [*MODELS, "NeuMF"]}
    assert known == {
        **dict.fromkeys(["DIN", "DIEN", "DeepFM", "DCNV2", "AutoInt", "NeuMF"], (True, True)),
        **dict.fromkeys(["SASRec", "BPR"], (False, False)),
    }


def test_scores_are_kept_in_row_order_whatever_the_batches(make):
    config = make()
    collector = labelled_evaluation.LabelledCollector(config)
    n = len(labelled_rows(config).columns("test")[2])
    scores = torch.rand(n, dtype=torch.float64)
    order = torch.randperm(n)
    for part in order.split(3):
        collector.collect_candidate_scores(scores[part][:, None], part[:, None], "test")
    collector.collect_candidate_scores(torch.rand(2, 2), torch.tensor([[-1, -1], [-1, -1]]), "test")
    struct = collector.get_data_struct()
    assert torch.equal(struct.get("rec.score"), scores) and collector.rows().row.tolist() == list(range(n))


def test_scores_that_are_not_finite_name_their_rows(make):
    collector = labelled_evaluation.LabelledCollector(make())
    user, item, _ = (column[1] for column in labelled_rows(make()).columns("test"))
    with pytest.raises(ValueError, match=f"1 non-finite scores of test rows: row 1 .user '{user}', item '{item}'"):
        collector.collect_scores(torch.tensor([0.5, torch.nan]), torch.tensor([0, 1]), "test")


def test_gauc_is_the_users_auc_weighted_by_their_liked_rows():
    from recbole.evaluator.collector import DataStruct
    from recbole.evaluator.metrics import GAUC

    rng = np.random.default_rng(0)
    users, labels = rng.integers(12, size=200).astype(str), rng.integers(2, size=200)
    scores = np.round(rng.random(200), 1)  # with ties
    users[:5], labels[:5] = "one class", 1
    expected = total = 0
    for user in set(users.tolist()) - {"one class"}:
        mine = users == user
        expected += labels[mine].sum() * roc_auc_score(labels[mine], scores[mine])
        total += labels[mine].sum()
    struct = DataStruct()
    struct.set("rec.meanrank", user_ranks(users, scores, labels))
    result = GAUC({"metric_decimal_place": 8}).calculate_metric(struct)
    assert result["gauc"] == pytest.approx(expected / total, abs=1e-7)


def test_gauc_is_left_out_where_no_user_has_both_classes():
    assert user_ranks(np.array(["a", "b"]), np.array([0.1, 0.2]), np.array([1, 0])) is None

"""A CRM that reads user and item fields: RecBole's `load_col`."""

import pytest
import torch

from recbole_llm import ConfigError, LLMConfig, fit
from recbole_llm.crm.training import load_or_train
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.model.reclora import RecLoRA
from tests import tiny
from tests.crm.files import weights_file

COLUMNS = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age", "gender"], "item": ["item_id", "year", "genre"]}
SETTINGS = {
    "protocol": "ctr", "behaviour_tokens": "none", "num_experts": 2, "crm_epochs": 0, "crm_history_len": 6, "load_col": COLUMNS,
    "crm_config": {"train_batch_size": 64, "embedding_size": 4, "mlp_hidden_size": [8]},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tiny.write_fields(tiny.write_dataset(tmp_path_factory.mktemp("fields")))
    with open(folder / "tiny/tiny.item", "a") as file:
        file.write("new1\tBrand new thing\t1991\tquartz\n")  # nobody met it
    return folder


def config_for(data, llm, out, **more):
    return LLMConfig("RecLoRA", "tiny", config_dict=tiny.settings(data, llm, out, **{**SETTINGS, **more}))


@pytest.fixture(scope="module")
def trained(data, tiny_llm, tmp_path_factory):
    config = config_for(data, tiny_llm, tmp_path_factory.mktemp("crm"))
    loaders = prepare_data(config)
    return config, loaders, load_or_train(config, loaders[1]._dataset)


@pytest.mark.parametrize("crm_model", ["DIN", "DIEN"])
def test_vectors_have_the_shapes_of_ids_and_fields(crm_model, trained, data, tiny_llm, tmp_path):
    _, (dataset, train, _, test), crm = trained
    if crm_model == "DIEN":
        config = config_for(data, tiny_llm, tmp_path, crm_model="DIEN", crm_epochs=0)
        crm = load_or_train(config, train._dataset)
    assert crm.item_vectors.shape == (dataset.item_num, 4) and dataset.id2token("item_id", dataset.item_num - 1) == "new1"
    features = crm.model.embedding_layer
    start = int(features.token_field_offsets["item"][features.token_field_names["item"].index("item_id")])
    table = features.token_embedding_table["item"].embedding.weight
    assert torch.equal(crm.item_vectors, table[start : start + dataset.item_num])
    assert features.token_seq_field_names["item"] == ["genre"] and features.token_field_names["user"] == ["user_id", "age", "gender"]
    vectors = crm.user_vectors(next(iter(test)), target=next(iter(test))["candidates"][:, 0])
    assert vectors.shape[1] == 8 == crm.user_dim(train._dataset) and torch.isfinite(vectors).all()


def test_a_years_embedding_changes_the_gate(trained):
    config, (dataset, train, _, test), crm = trained
    model, batch = RecLoRA(config, train._dataset).eval(), next(iter(test))
    assert model.crm.sha256 == crm.sha256  # read from the cache
    before = model.gate(batch).weights
    features = model.crm.model.embedding_layer
    start = int(features.token_field_offsets["item"][features.token_field_names["item"].index("year")])
    features.token_embedding_table["item"].embedding.weight.data[start : start + dataset.num("year")] += 1
    assert not torch.allclose(model.gate(batch).weights, before, atol=1e-7)


@pytest.mark.parametrize(
    "item, shown",
    [(["item_id", "genre", "year"], "item: genre, year"), (None, r"\(no fields\)")],
    ids=str,
)
def test_weights_of_other_fields_are_refused(item, shown, trained, data, tiny_llm, tmp_path):
    """Also where all tables have the same sizes: the file says what their rows stand for."""
    config, _, _ = trained
    columns = {**COLUMNS, "item": item} if item else {"inter": COLUMNS["inter"]}
    if item == ["item_id", "genre", "year"]:  # the columns of the file in another order
        file = tiny.write_fields(tiny.write_dataset(tmp_path / "d")) / "tiny/tiny.item"
        rows = [line.split("\t") for line in (data / "tiny/tiny.item").read_text().splitlines()]
        file.write_text("\n".join("\t".join((a, b, d, c)) for a, b, c, d in rows) + "\n")
        data = tmp_path / "d"
    elif item is None:  # item ids without the one that nobody met
        data = tiny.write_fields(tiny.write_dataset(tmp_path / "d"))
        config = config_for(data, tiny_llm, tmp_path)
        load_or_train(config, prepare_data(config)[1]._dataset)
    other = config_for(data, tiny_llm, tmp_path / "other", load_col=columns, crm_path=str(weights_file(config)))
    with pytest.raises(ValueError, match=rf"crm_path=.* was trained on other fields .*item: year, genre.*{shown}"):
        load_or_train(other, prepare_data(other)[1]._dataset)


def test_columns_of_the_crm_alone_are_refused(data, tiny_llm, tmp_path):
    with pytest.raises(ConfigError, match=r"crm_config \(DIN\): load_col: both recommenders read one dataset.*set it outside crm_config"):
        config_for(data, tiny_llm, tmp_path, crm_config={"load_col": COLUMNS})


@pytest.mark.parametrize("model", ["DIN", "DeepFM"])
def test_baselines_read_the_same_fields_of_the_same_rows(model, trained, data, tmp_path):
    given = {"data_path": str(data), "checkpoint_dir": str(tmp_path), "protocol": "ctr", "load_col": COLUMNS, "show_progress": False, "state": "ERROR"}
    dataset, *_, test = prepare_data(LLMConfig(model, "tiny", config_dict=given))
    assert {"age", "gender"} < set(dataset.user_feat.columns) and {"year", "genre"} < set(dataset.item_feat.columns)
    rows = {tuple(test._dataset.inter_feat[name][i].item() for name in ("user_id", "item_id", "label")) for i in range(len(test._dataset))}
    own = trained[1][3]._dataset
    assert rows == {tuple(own.inter_feat[name][i].item() for name in ("user_id", "item_id", "label")) for i in range(len(own))}


def checkpoint(model, data, out):
    """A `.pth` that RecBole's trainer wrote, of a model that reads all fields."""
    given = {"data_path": str(data), "checkpoint_dir": str(out), "protocol": "ctr", "load_col": COLUMNS, "show_progress": False, "state": "ERROR"}
    small = {"epochs": 1, "embedding_size": 4, "mlp_hidden_size": [8], "MAX_ITEM_LIST_LENGTH": 6, "train_batch_size": 64}
    return fit.fit(LLMConfig(model, "tiny", config_dict=given | small)).trainer.saved_model_file


def test_a_checkpoint_of_recboles_trainer_with_other_fields_or_users_is_refused(data, tiny_llm, tmp_path):
    path = checkpoint("DIN", data, tmp_path / "pth")
    same = config_for(data, tiny_llm, tmp_path, crm_path=path)
    assert load_or_train(same, prepare_data(same)[1]._dataset).item_vectors.shape[1] == 4
    fewer = config_for(data, tiny_llm, tmp_path, crm_path=path, load_col={**COLUMNS, "user": ["user_id", "age"]})
    with pytest.raises(ValueError, match=r"^crm_path=.*other fields .*user: age, gender; .*load_col gives here \(user: age; .*leave crm_path out"):
        load_or_train(fewer, prepare_data(fewer)[1]._dataset)
    for name in ("inter", "user", "item"):
        file = tmp_path / f"renamed/tiny/tiny.{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((data / f"tiny/tiny.{name}").read_text().replace("\nu", "\nperson") if name != "item" else (data / "tiny/tiny.item").read_text())
    renamed = config_for(tmp_path / "renamed", tiny_llm, tmp_path, crm_path=path)
    with pytest.raises(ValueError, match="^crm_path=.*trained on other users, or in another order"):
        load_or_train(renamed, prepare_data(renamed)[1]._dataset)
    train = prepare_data(same)[1]._dataset
    load_or_train(config_for(data, tiny_llm, tmp_path), train)  # of a file of our own, too
    renamed = config_for(tmp_path / "renamed", tiny_llm, tmp_path / "other", crm_path=str(weights_file(same)))
    with pytest.raises(ValueError, match="^crm_path=.*trained on other users, or in another order"):
        load_or_train(renamed, prepare_data(renamed)[1]._dataset)

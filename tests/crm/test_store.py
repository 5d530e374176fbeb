import pytest
import torch
from recbole.data import create_dataset
from recbole.utils import get_model
from safetensors.torch import load_file, save_file

from recbole_llm import LLMConfig, fit
from recbole_llm.crm import store as crm_store
from tests import tiny


def config_for(tiny_data, tiny_llm, out, **more):
    return LLMConfig("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, **more))


@pytest.fixture(scope="module")
def trained(tiny_data, tiny_llm, tmp_path_factory):
    config = config_for(tiny_data, tiny_llm, tmp_path_factory.mktemp("crm"))
    dataset = create_dataset(config)
    train, *_ = dataset.build()
    return config, train, crm_store.load_or_train(config, train)


def weights_file(config):
    (path,) = (crm_store.Path(config["checkpoint_dir"]) / "crm").glob("*.safetensors")
    return path


def test_a_trained_crm_is_frozen_and_kept(trained):
    config, train, model = trained
    assert model.seconds > 0 and not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    again = crm_store.load_or_train(config, train)
    assert again.seconds == model.seconds and again.sha256 == model.sha256
    assert torch.equal(again.item_vectors, model.item_vectors)


def test_the_same_weights_have_the_same_hash_whatever_the_file_says_besides(trained, tmp_path):
    config, train, model = trained
    path = weights_file(config)
    with crm_store.safe_open(path, framework="pt") as file:
        meta = file.metadata() | {"best_valid_result": "{}"}
    copy, weights = tmp_path / "copy.safetensors", load_file(path)
    save_file(weights, copy, metadata=meta)
    assert copy.read_bytes() != path.read_bytes()
    assert crm_store.sha256_of(copy) == crm_store.sha256_of(path) == model.sha256
    save_file({name: weight + 1 for name, weight in weights.items()}, copy, metadata=meta)
    assert crm_store.sha256_of(copy) != model.sha256
    copy.write_bytes(path.read_bytes()[:100])
    assert crm_store.sha256_of(copy) not in (None, model.sha256)  # damaged: something, but never the right one
    assert crm_store.sha256_of(tmp_path / "none.safetensors") is None


def test_user_vectors_are_recboles_sequence_representation_without_dropout(trained):
    _, train, model = trained
    rows = train.inter_feat[:8]
    expected = model.model.forward(rows["item_id_list"], rows["item_length"])
    assert torch.equal(model.user_vectors(rows), expected) and not model.user_vectors(rows).requires_grad
    model.train()
    assert torch.equal(model.user_vectors(rows), expected)


def test_other_settings_train_another_crm(trained, tiny_data, tiny_llm, tmp_path):
    config, _, _ = trained
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_config={"hidden_size": 8})
    assert crm_store.crm_hash(crm_store.crm_config(other)) != crm_store.crm_hash(crm_store.crm_config(config))
    shown = config_for(tiny_data, tiny_llm, tmp_path, show_progress=True)
    assert crm_store.crm_hash(crm_store.crm_config(shown)) == crm_store.crm_hash(crm_store.crm_config(config))


def test_a_corrupt_cache_is_rebuilt_with_a_warning(trained, caplog):
    config, train, model = trained
    path = weights_file(config)
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level("WARNING"):
        again = crm_store.load_or_train(config, train)
    assert "cannot be read" in caplog.text and again.seconds > 0
    assert torch.allclose(again.item_vectors, model.item_vectors)


def test_weights_for_other_items_are_refused(trained, tiny_llm, tmp_path):
    config, _, _ = trained
    crm_store.load_or_train(config, create_dataset(config).build()[0])
    other_data = tiny.write_dataset(tmp_path / "data", n_items=50)
    other = config_for(other_data, tiny_llm, tmp_path, crm_path=str(weights_file(config)))
    with pytest.raises(ValueError, match="crm_path=.*trained on other items, or in another order.*leave crm_path out"):
        crm_store.load_or_train(other, create_dataset(other).build()[0])


def test_a_cache_for_other_items_is_rebuilt_with_a_warning(trained, monkeypatch, caplog):
    config, train, model = trained
    with monkeypatch.context() as patch:  # as a version that ordered items otherwise would have written it
        patch.setattr(crm_store, "item_tokens_hash", lambda dataset: "others")
        weights_file(config).unlink()
        crm_store.load_or_train(config, train)
    with caplog.at_level("WARNING"):
        again = crm_store.load_or_train(config, train)
    assert "trained on other items" in caplog.text and "the CRM is trained again" in caplog.text
    assert torch.allclose(again.item_vectors, model.item_vectors)


@pytest.mark.parametrize("setting", [{"normalize_all": False}, {"rm_dup_inter": None}, {"normalize_field": ["timestamp"]}])
def test_the_crm_reads_the_rows_of_the_llm_recommender(tiny_data, tiny_llm, tmp_path, setting):
    """RecBole's defaults would order other rows last, so that the CRM learns what the LLM recommender is tested on."""
    config = config_for(tiny_data, tiny_llm, tmp_path, **setting)
    own = crm_store.crm_config(config)
    assert {key: own[key] for key in setting} == setting
    assert crm_store.split_hash(own) == crm_store.split_hash(config)


def test_a_crm_of_other_rows_is_refused(trained, tiny_data, tiny_llm, tmp_path):
    config, train, _ = trained
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_config={"normalize_all": False})
    with pytest.raises(ValueError, match="makes other rows .*normalize_all: False, here None.*leave these keys out"):
        crm_store.load_or_train(other, train)
    other = config_for(tiny_data, tiny_llm, tmp_path, normalize_all=False, crm_path=str(weights_file(config)))
    with pytest.raises(ValueError, match="crm_path=.*learned from another split"):
        crm_store.load_or_train(other, create_dataset(other).build()[0])


def test_weights_of_another_model_are_refused(trained, tiny_data, tiny_llm, tmp_path):
    config, train, _ = trained
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_model="GRU4Rec", crm_path=str(weights_file(config)), crm_config={})
    with pytest.raises(ValueError, match="holds 'SASRec' but crm_model='GRU4Rec'"):
        crm_store.load_or_train(other, train)


def test_a_missing_crm_path_says_so(trained, tiny_data, tiny_llm, tmp_path):
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_path=str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match="crm_path=.*does not exist"):
        crm_store.load_or_train(other, trained[1])


@pytest.mark.parametrize("name", ["GRU4Rec", "Caser", "NARM", "BERT4Rec"])
def test_other_sequential_models_serve_as_crm(name, tiny_data, tiny_llm, tmp_path):
    config = config_for(tiny_data, tiny_llm, tmp_path, crm_model=name, crm_epochs=1, crm_config={"train_batch_size": 64})
    train = create_dataset(config).build()[0]
    model = crm_store.load_or_train(config, train)
    assert model.item_vectors.shape[0] == train.item_num
    rows = train.inter_feat[:6]
    users = model.user_vectors(rows)
    assert users.shape == (6, model.user_dim(train)) and torch.isfinite(users).all()
    torch.testing.assert_close(model.user_vectors(rows[[4]])[0], users[4], rtol=1e-4, atol=1e-5)
    if name == "BERT4Rec":  # its own full_sort_predict reads the same state of the mask token
        hidden = model.model
        scores = hidden.full_sort_predict(rows)
        item_vectors = hidden.item_embedding.weight[: train.item_num]
        torch.testing.assert_close(users @ item_vectors.T + hidden.output_bias, scores, rtol=1e-4, atol=1e-4)


def test_a_model_without_an_item_table_is_refused(trained):
    _, train, _ = trained
    config = trained[0]
    with pytest.raises(ValueError, match="crm_model=FPMC has no `item_embedding`"):
        own = LLMConfig("FPMC", "tiny", config_dict={"data_path": crm_store.os.path.dirname(config["data_path"])})
        crm_store.CRM(get_model("FPMC")(own, train), "0")


def test_a_cache_with_other_weights_is_rebuilt_and_a_users_file_is_taken_as_it_is(trained, tiny_data, tiny_llm, tmp_path, caplog):
    config, train, model = trained
    crm_store.load_or_train(config, train)
    path = weights_file(config)
    with crm_store.safe_open(path, framework="pt") as file:
        meta = file.metadata()
    state = load_file(path)
    state["item_embedding.weight"] += 1
    save_file(state, path, metadata=meta)
    save_file(state, tmp_path / "own.safetensors", metadata=meta)
    with caplog.at_level("WARNING"):
        again = crm_store.load_or_train(config, train)
    assert "its weights are not those that were written" in caplog.text
    assert torch.allclose(again.item_vectors, model.item_vectors)
    given = config_for(tiny_data, tiny_llm, tmp_path, crm_path=str(tmp_path / "own.safetensors"))
    own = crm_store.load_or_train(given, train)
    assert torch.allclose(own.item_vectors, model.item_vectors + 1) and own.sha256 != model.sha256


@pytest.mark.parametrize("content, more, complaint", [
    (b"no weights", {}, "own.safetensors cannot be read"),
    (None, {"crm_config": {"hidden_size": 8, "inner_size": 16}}, "does not hold the weights of a SASRec with this crm_config"),
])  # fmt: skip
def test_a_crm_path_that_does_not_fit_names_the_key(content, more, complaint, trained, tiny_data, tiny_llm, tmp_path):
    config, train, _ = trained
    crm_store.load_or_train(config, train)
    path = tmp_path / "own.safetensors"
    path.write_bytes(content or weights_file(config).read_bytes())
    given = config_for(tiny_data, tiny_llm, tmp_path, crm_path=str(path), **more)
    with pytest.raises(ValueError, match="^crm_path=.*" + complaint):
        crm_store.load_or_train(given, train)


def test_a_model_that_cannot_serve_is_not_trained_first(tiny_data, tiny_llm, tmp_path, monkeypatch):
    config = config_for(tiny_data, tiny_llm, tmp_path, crm_model="FPMC", crm_config={})
    train = create_dataset(config).build()[0]
    monkeypatch.setattr(crm_store.fit, "fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="crm_model=FPMC has no `item_embedding`"):
        crm_store.load_or_train(config, train)
    assert not (tmp_path / "saved" / "crm").exists()


def recbole_checkpoint(tiny_data, tiny_llm, out, **more):
    """A `.pth` that RecBole's trainer wrote, of the SASRec that `config_for` asks for."""
    given = tiny.settings(tiny_data, tiny_llm, out)
    own = {key: given[key] for key in ("data_path", "checkpoint_dir", "load_col", "n_candidates", "show_progress", "state")}
    config = LLMConfig("SASRec", "tiny", config_dict=own | {"epochs": 1, "hidden_size": 16, "inner_size": 16} | more)
    return fit.fit(config).trainer.saved_model_file


def test_a_checkpoint_of_recboles_trainer_serves_as_crm(trained, tiny_data, tiny_llm, tmp_path):
    path = recbole_checkpoint(tiny_data, tiny_llm, tmp_path)
    _, train, _ = trained
    found = crm_store.load_or_train(config_for(tiny_data, tiny_llm, tmp_path, crm_path=path), train)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(found.item_vectors, state["item_embedding.weight"]) and found.sha256 == crm_store.sha256_of(path)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "uni7"}}, "split"),
        ({"normalize_all": False}, "normalize_all"),
    ],
)
def test_a_checkpoint_of_recboles_trainer_that_saw_other_rows_is_refused(more, key, trained, tiny_data, tiny_llm, tmp_path):
    """Its item ids are the same: nothing else would tell that it learned from rows that are tested here."""
    path = recbole_checkpoint(tiny_data, tiny_llm, tmp_path, **more)
    _, train, _ = trained
    with pytest.raises(ValueError, match=f"^crm_path=.*learned from another split.*{key}: .*leave crm_path out"):
        crm_store.load_or_train(config_for(tiny_data, tiny_llm, tmp_path, crm_path=path), train)

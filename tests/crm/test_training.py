import pytest
import torch
from recbole.data import create_dataset
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recbole_llm.crm import store, training
from recbole_llm.crm.training import load_or_train
from tests.crm.files import config_for, weights_file


def test_a_trained_crm_is_frozen_and_kept(trained):
    config, train, model = trained
    assert model.seconds > 0 and not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    again = load_or_train(config, train)
    assert again.seconds == model.seconds and again.sha256 == model.sha256
    assert torch.equal(again.item_vectors, model.item_vectors)


def test_a_corrupt_cache_is_rebuilt_with_a_warning(trained, caplog):
    config, train, model = trained
    path = weights_file(config)
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level("WARNING"):
        again = load_or_train(config, train)
    assert "cannot be read" in caplog.text and again.seconds > 0
    assert torch.allclose(again.item_vectors, model.item_vectors)


def test_a_cache_for_other_items_is_rebuilt_with_a_warning(trained, monkeypatch, caplog):
    config, train, model = trained
    with monkeypatch.context() as patch:  # as a version that ordered items otherwise would have written it
        patch.setattr(store, "item_tokens_hash", lambda dataset: "others")
        weights_file(config).unlink()
        load_or_train(config, train)
    with caplog.at_level("WARNING"):
        again = load_or_train(config, train)
    assert "trained on other items" in caplog.text and "the CRM is trained again" in caplog.text
    assert torch.allclose(again.item_vectors, model.item_vectors)


def test_a_crm_of_other_rows_is_refused(trained, tiny_data, tiny_llm, tmp_path):
    config, train, _ = trained
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_config={"normalize_all": False})
    with pytest.raises(ValueError, match="makes other rows .*normalize_all: False, here None.*leave these keys out"):
        load_or_train(other, train)
    other = config_for(tiny_data, tiny_llm, tmp_path, normalize_all=False, crm_path=str(weights_file(config)))
    with pytest.raises(ValueError, match="crm_path=.*learned from another split"):
        load_or_train(other, create_dataset(other).build()[0])


def test_a_missing_crm_path_says_so(trained, tiny_data, tiny_llm, tmp_path):
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_path=str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match="crm_path=.*does not exist"):
        load_or_train(other, trained[1])


def test_a_model_that_cannot_serve_is_not_trained_first(tiny_data, tiny_llm, tmp_path, monkeypatch):
    config = config_for(tiny_data, tiny_llm, tmp_path, crm_model="FPMC", crm_config={})
    train = create_dataset(config).build()[0]
    monkeypatch.setattr(training.fit, "fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="crm_model=FPMC has no `item_embedding`"):
        load_or_train(config, train)
    assert not (tmp_path / "saved" / "crm").exists()


def test_a_cache_with_other_weights_is_rebuilt_and_a_users_file_is_taken_as_it_is(trained, tiny_data, tiny_llm, tmp_path, caplog):
    config, train, model = trained
    load_or_train(config, train)
    path = weights_file(config)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    state = load_file(path)
    state["item_embedding.weight"] += 1
    save_file(state, path, metadata=meta)
    save_file(state, tmp_path / "own.safetensors", metadata=meta)
    with caplog.at_level("WARNING"):
        again = load_or_train(config, train)
    assert "its weights are not those that were written" in caplog.text
    assert torch.allclose(again.item_vectors, model.item_vectors)
    given = config_for(tiny_data, tiny_llm, tmp_path, crm_path=str(tmp_path / "own.safetensors"))
    own = load_or_train(given, train)
    assert torch.allclose(own.item_vectors, model.item_vectors + 1) and own.sha256 != model.sha256

import pytest
import torch
from recbole.data import create_dataset
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recbole_llm import LLMConfig, fit
from recbole_llm.crm import store
from recbole_llm.crm.training import load_or_train
from tests import tiny
from tests.crm.files import config_for, weights_file


def test_the_same_weights_have_the_same_hash_whatever_the_file_says_besides(trained, tmp_path):
    config, train, model = trained
    path = weights_file(config)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata() | {"best_valid_result": "{}"}
    copy, weights = tmp_path / "copy.safetensors", load_file(path)
    save_file(weights, copy, metadata=meta)
    assert copy.read_bytes() != path.read_bytes()
    assert store.sha256_of(copy) == store.sha256_of(path) == model.sha256
    save_file({name: weight + 1 for name, weight in weights.items()}, copy, metadata=meta)
    assert store.sha256_of(copy) != model.sha256
    copy.write_bytes(path.read_bytes()[:100])
    assert store.sha256_of(copy) not in (None, model.sha256)  # damaged: something, but never the right one
    assert store.sha256_of(tmp_path / "none.safetensors") is None


def test_weights_for_other_items_are_refused(trained, tiny_llm, tmp_path):
    config, _, _ = trained
    load_or_train(config, create_dataset(config).build()[0])
    other_data = tiny.write_dataset(tmp_path / "data", n_items=50)
    other = config_for(other_data, tiny_llm, tmp_path, crm_path=str(weights_file(config)))
    with pytest.raises(ValueError, match="crm_path=.*trained on other items, or in another order.*leave crm_path out"):
        load_or_train(other, create_dataset(other).build()[0])


def test_weights_of_another_model_are_refused(trained, tiny_data, tiny_llm, tmp_path):
    config, train, _ = trained
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_model="GRU4Rec", crm_path=str(weights_file(config)), crm_config={})
    with pytest.raises(ValueError, match="holds 'SASRec' but crm_model='GRU4Rec'"):
        load_or_train(other, train)


@pytest.mark.parametrize("content, more, complaint", [
    (b"no weights", {}, "own.safetensors cannot be read"),
    (None, {"crm_config": {"hidden_size": 8, "inner_size": 16}}, "does not hold the weights of a SASRec with this crm_config"),
])  # fmt: skip
def test_a_crm_path_that_does_not_fit_names_the_key(content, more, complaint, trained, tiny_data, tiny_llm, tmp_path):
    config, train, _ = trained
    load_or_train(config, train)
    path = tmp_path / "own.safetensors"
    path.write_bytes(content or weights_file(config).read_bytes())
    given = config_for(tiny_data, tiny_llm, tmp_path, crm_path=str(path), **more)
    with pytest.raises(ValueError, match="^crm_path=.*" + complaint):
        load_or_train(given, train)


def recbole_checkpoint(tiny_data, tiny_llm, out, **more):
    """A `.pth` that RecBole's trainer wrote, of the SASRec that `config_for` asks for."""
    given = tiny.settings(tiny_data, tiny_llm, out)
    own = {key: given[key] for key in ("data_path", "checkpoint_dir", "load_col", "n_candidates", "show_progress", "state")}
    config = LLMConfig("SASRec", "tiny", config_dict=own | {"epochs": 1, "hidden_size": 16, "inner_size": 16} | more)
    return fit.fit(config).trainer.saved_model_file


def test_a_checkpoint_of_recboles_trainer_serves_as_crm(trained, tiny_data, tiny_llm, tmp_path):
    path = recbole_checkpoint(tiny_data, tiny_llm, tmp_path)
    _, train, _ = trained
    found = load_or_train(config_for(tiny_data, tiny_llm, tmp_path, crm_path=path), train)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(found.item_vectors, state["item_embedding.weight"]) and found.sha256 == store.sha256_of(path)


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
        load_or_train(config_for(tiny_data, tiny_llm, tmp_path, crm_path=path), train)

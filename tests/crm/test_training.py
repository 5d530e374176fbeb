import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recbole_llm import LLMConfig
from recbole_llm.crm import store, training
from recbole_llm.crm.settings import learns_relevant
from recbole_llm.crm.training import load_or_train
from recbole_llm.data.click import retriever
from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests import tiny
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


def relevant(tiny_data, tiny_llm, out, **more):
    """RecLoRA whose CRM is asked with the four earlier items nearest to the one asked about."""
    given = {
        "protocol": "ctr", "crm_history": "relevant", "crm_history_len": 4, "behaviour_tokens": "none", "num_experts": 2, "crm_epochs": 0,
        "crm_model": "DIN", "crm_config": {"train_batch_size": 64, "embedding_size": 4, "mlp_hidden_size": [8]},
    }  # fmt: skip
    return LLMConfig("RecLoRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, **{**given, **more}))


def test_a_crm_asked_with_relevant_histories_learns_from_them(tiny_data, tiny_llm, tmp_path, monkeypatch):
    """Each row's history, in all phases: the k earlier items most similar to its own item, in order of time, none at or after its moment."""
    config, seen = relevant(tiny_data, tiny_llm, tmp_path), []
    original = training.fit.fit
    monkeypatch.setattr(training.fit, "fit", lambda own: seen.append(original(own)) or seen[-1])
    dataset, train, *_ = prepare_data(config)
    crm = load_or_train(config, train._dataset)
    vectors = retriever.item_vectors(config, dataset.titles, dataset.prompt_tokenizer.title_ids)
    data = labelled_rows(config).interactions
    ids = dataset.field2token_id["item_id"]
    retrieved = 0
    for loader in seen[0].data[1:]:
        split = loader._dataset
        for row in range(len(split)):
            user, item = (split.id2token(f, int(split.inter_feat[f][row])) for f in ("user_id", "item_id"))
            moment = data.times[(data.users == user) & (data.items == item)][0]
            before = np.flatnonzero((data.users == user) & (data.times < moment))
            before = [ids[name] for name in data.items[before[np.argsort(data.times[before], kind="stable")]]]
            similar = vectors[before] @ vectors[ids[item]]
            nearest = sorted(len(before) - 1 - np.argsort(-similar[::-1], kind="stable")[:4])  # of equals the later
            length = int(split.inter_feat["item_length"][row])
            assert split.inter_feat["item_id_list"][row][:length].tolist() == [before[place] for place in nearest]
            assert not split.inter_feat["item_id_list"][row][length:].any()
            retrieved += [before[place] for place in nearest] != before[-4:]
    assert retrieved > 40  # not the latest ones
    recent = relevant(tiny_data, tiny_llm, tmp_path, crm_history="recent")
    load_or_train(recent, prepare_data(recent)[1]._dataset)
    assert len(list((tmp_path / "saved" / "crm").glob("*.safetensors"))) == 2  # kept apart
    monkeypatch.setattr(training.fit, "fit", lambda _: pytest.fail("trained again"))
    assert load_or_train(config, train._dataset).sha256 == crm.sha256


@pytest.mark.parametrize("more", [{"crm_model": "SASRec", "crm_config": {}, "gate_input": "sequence"}, {"protocol": "candidates"}], ids=str)
def test_a_crm_that_learns_what_comes_next_is_not_told_by_its_history(more, tiny_data, tiny_llm, tmp_path):
    assert learns_relevant(relevant(tiny_data, tiny_llm, tmp_path)) and not learns_relevant(relevant(tiny_data, tiny_llm, tmp_path, **more))

import os

import pytest
import torch
from recbole.data import create_dataset
from recbole.utils import get_model

from recbole_llm import LLMConfig
from recbole_llm.crm.frozen import CRM
from recbole_llm.crm.training import load_or_train
from tests.crm.files import config_for


def test_user_vectors_are_recboles_sequence_representation_without_dropout(trained):
    _, train, model = trained
    rows = train.inter_feat[:8]
    expected = model.model.forward(rows["item_id_list"], rows["item_length"])
    assert torch.equal(model.user_vectors(rows), expected) and not model.user_vectors(rows).requires_grad
    model.train()
    assert torch.equal(model.user_vectors(rows), expected)


@pytest.mark.parametrize("name", ["GRU4Rec", "Caser", "NARM", "BERT4Rec"])
def test_other_sequential_models_serve_as_crm(name, tiny_data, tiny_llm, tmp_path):
    config = config_for(tiny_data, tiny_llm, tmp_path, crm_model=name, crm_epochs=1, crm_config={"train_batch_size": 64})
    train = create_dataset(config).build()[0]
    model = load_or_train(config, train)
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
        own = LLMConfig("FPMC", "tiny", config_dict={"data_path": os.path.dirname(config["data_path"])})
        CRM(get_model("FPMC")(own, train), "0")

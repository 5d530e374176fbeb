"""Recommenders that know users by their ids (BPR, LightGCN) as the CRM, beside a sequential one."""

import copy

import pytest
import torch
from recbole.data import create_dataset

from recbole_llm import LLMConfig
from recbole_llm.crm import settings, store
from recbole_llm.crm.training import load_or_train
from tests import tiny
from tests.crm.files import weights_file

GENERAL = {"train_batch_size": 64, "embedding_size": 8}
SEQUENTIAL = {"train_batch_size": 64, "hidden_size": 8, "inner_size": 8}


def prepared(tiny_data, tiny_llm, out, crm_model):
    own = SEQUENTIAL if crm_model == "SASRec" else GENERAL
    config = LLMConfig("CoLLM", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, crm_model=crm_model, crm_config=own))
    return config, create_dataset(config).build()[0]


@pytest.mark.parametrize("crm_model", ["BPR", "LightGCN", "SASRec"])
def test_users_have_the_recommenders_vectors(crm_model, tiny_data, tiny_llm, tmp_path):
    config, train = prepared(tiny_data, tiny_llm, tmp_path, crm_model)
    for _ in range(2):  # trained, then read from its file
        crm, rows = load_or_train(config, train), train.inter_feat[:16]
        assert crm.user_vectors(rows).shape == (16, 8) and crm.item_vectors.shape == (train.item_num, 8)
        if crm.general:  # RecBole's sequential splits give a graph their first items too: retrieval ranks by these vectors
            expected = crm.model.full_sort_predict(rows).view(16, -1)
            found = crm.user_table[rows[train.uid_field]] @ crm.item_vectors.T
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_weights_of_other_users_are_refused(tiny_data, tiny_llm, tmp_path):
    config, train = prepared(tiny_data, tiny_llm, tmp_path, "BPR")
    crm, own, file = load_or_train(config, train), settings.crm_config(config), weights_file(config)
    shuffled = copy.copy(train)
    tokens = train.field2id_token[train.uid_field].copy()
    tokens[[1, 2]] = tokens[[2, 1]]
    shuffled.field2id_token = {**train.field2id_token, train.uid_field: tokens}
    assert store.read(file, own, train).sha256 == crm.sha256
    with pytest.raises(ValueError, match="trained on other users, or in another order"):
        store.read(file, own, shuffled)

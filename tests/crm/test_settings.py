import pytest

from recbole_llm.crm.settings import crm_config, crm_hash
from recbole_llm.data.fingerprint import split_hash
from tests.crm.files import config_for


def test_other_settings_train_another_crm(trained, tiny_data, tiny_llm, tmp_path):
    config, _, _ = trained
    other = config_for(tiny_data, tiny_llm, tmp_path, crm_config={"hidden_size": 8})
    assert crm_hash(crm_config(other)) != crm_hash(crm_config(config))
    shown = config_for(tiny_data, tiny_llm, tmp_path, show_progress=True)
    assert crm_hash(crm_config(shown)) == crm_hash(crm_config(config))


@pytest.mark.parametrize("setting", [{"normalize_all": False}, {"rm_dup_inter": None}, {"normalize_field": ["timestamp"]}])
def test_the_crm_reads_the_rows_of_the_llm_recommender(tiny_data, tiny_llm, tmp_path, setting):
    """RecBole's defaults would order other rows last, so that the CRM learns what the LLM recommender is tested on."""
    config = config_for(tiny_data, tiny_llm, tmp_path, **setting)
    own = crm_config(config)
    assert {key: own[key] for key in setting} == setting
    assert split_hash(own) == split_hash(config)

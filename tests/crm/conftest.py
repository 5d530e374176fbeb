import pytest
from recbole.data import create_dataset

from recbole_llm.crm.training import load_or_train
from tests.crm.files import config_for


@pytest.fixture(scope="module")
def trained(tiny_data, tiny_llm, tmp_path_factory):
    config = config_for(tiny_data, tiny_llm, tmp_path_factory.mktemp("crm"))
    dataset = create_dataset(config)
    train, *_ = dataset.build()
    return config, train, load_or_train(config, train)

"""What the tests of the built-in LLM share."""

import pytest

from recbole_llm.builtin.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer()

"""Fixtures shared by all tests."""

import gc
import os
from pathlib import Path

# Before anything starts a pool of threads. Workers of pytest-xdist share the cores: one thread each, and each program that a test starts.
# They inherit what their parent, which reads this file too, has set; threads that wait for each other on too few cores take many times as long.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else os.environ.get("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

import recbole_llm  # noqa: E402, F401  (before any test imports RecBole, which needs its shims)

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
gc.freeze()  # a collection need not look through all that was imported


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder ../shared with real data and reference vectors: needed under CI, optional elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder} is missing; it must lie beside the checkout in CI")
        pytest.skip("../shared is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A ``data_path`` that holds the made-up dataset ``tiny``."""
    from tests import tiny

    return tiny.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory) -> Path:
    """A random two-layer Llama with a tokenizer."""
    from tests import tiny

    return tiny.write_llm(tmp_path_factory.mktemp("llm"))

"""Fixtures of the training loop's tests: a model to train, and a run that has ended."""

import copy
import shutil
from pathlib import Path

import pytest

from tests import tiny, workers


@pytest.fixture(scope="session")
def built(tiny_data, tiny_llm, tmp_path_factory):
    out = tmp_path_factory.mktemp("trainer")
    settings = tiny.settings(
        tiny_data, tiny_llm, out, train_sample_size=16, train_batch_size=4, accumulation_steps=2, valid_sample_size=8,
        eval_batch_size=40, lora_dropout=0.0, lora_target_modules=["q_proj", "v_proj"], curriculum="none",
        learning_rate=0.01, epochs=2,
    )  # fmt: skip
    return workers.build("iLoRA", settings)


@pytest.fixture
def fresh(built, tmp_path):
    """(config, data, model) to change at will."""
    config, data, model = built
    before = dict(config.final_config_dict)
    config["checkpoint_dir"] = str(tmp_path / "saved")
    yield config, data, copy.deepcopy(model)
    config.final_config_dict.clear()
    config.final_config_dict.update(before)


@pytest.fixture(scope="session")
def trained(tiny_data, tiny_llm, tmp_path_factory):
    """(config, data, model, run's folder) after three epochs of one step."""
    out = tmp_path_factory.mktemp("trained")
    settings = tiny.settings(
        tiny_data, tiny_llm, out, epochs=3, train_sample_size=8, valid_sample_size=8, eval_batch_size=40,
        save_total_limit=3, lora_target_modules=["q_proj"], learning_rate=2.0, curriculum="linear",
        projector_lr_scale=1.0,
    )  # fmt: skip
    built = workers.build("iLoRA", settings)
    fitted = workers.train(built, out / "saved")
    return (*built, Path(fitted.saved_model_file).parent)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run's folder that a test may damage, and the model's settings pointing there."""
    config, data, model, folder = trained
    shutil.copytree(folder, tmp_path / "saved" / folder.name)
    config["checkpoint_dir"], config["resume"] = str(tmp_path / "saved"), "auto"
    return tmp_path / "saved" / folder.name

"""Weights are loaded only where they belong, and nothing in a checkpoint runs."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from recbole_llm.training import checkpoint, checkpoint_files
from tests import tiny, workers
from tests.training.damage import edited, reseal


def test_damaged_weights_are_not_tested_with(run, trained):
    best = next(run.glob("best-*"))
    edited(best / "adapter_model.safetensors")
    with pytest.raises(checkpoint_files.DamagedCheckpoint, match=f"{best.name}/adapter_model.safetensors is damaged"):
        checkpoint.load_checkpoint_into(trained[2], run)


def test_an_llm_is_known_by_its_weights_wherever_it_lies(run, trained, tmp_path):
    import shutil

    config, _, model, _ = trained
    before, moved = config["llm_path"], tmp_path / "moved"
    shutil.copytree(before, moved)
    config["llm_path"] = str(moved)
    try:
        assert checkpoint.load_checkpoint_into(model, run)["identity"]["llm"] == before
        edited(moved / "model.safetensors")
        with pytest.raises(ValueError, match="llm: checkpoint .*, here .*moved.*; llm_sha256: checkpoint '[0-9a-f]{64}'"):
            checkpoint.load_checkpoint_into(model, run)
        config["llm_path"] = "owner/name"  # of the hub, whose weights have no sha256 here
        with pytest.raises(ValueError, match="llm_sha256: checkpoint '[0-9a-f]{64}', here None"):
            checkpoint.load_checkpoint_into(model, run)
    finally:
        config["llm_path"] = before


def test_another_recommender_of_the_same_settings_is_refused_with_where_to_look(run, trained, monkeypatch):
    model = trained[2]
    monkeypatch.setattr(model.crm, "sha256", "0" * 64)
    with pytest.raises(ValueError, match="crm_sha256: checkpoint '[0-9a-f]{64}', here '0+'.; set checkpoint_dir or crm_path to where"):
        checkpoint.load_checkpoint_into(model, run)


@pytest.mark.parametrize(("key", "other"), [("dataset", "elsewhere"), ("llm_path", "elsewhere"), ("lora_alpha", 3)])
def test_a_checkpoint_of_other_settings_is_refused_with_both_values(run, trained, key, other):
    config, _, model, _ = trained
    before, config[key] = config[key], other
    try:
        with pytest.raises(ValueError, match=f"{key.removesuffix('_path')}: checkpoint {before!r}, here {other!r}"):
            checkpoint.load_checkpoint_into(model, run)
    finally:
        config[key] = before


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_weights_of_another_shape_or_name_are_refused(run, trained, change):
    best = next(run.glob("best-*"))
    weights = load_file(best / "modules.safetensors")
    first = sorted(weights)[0]
    expected = tuple(weights[first].shape)
    if change == "shape":
        weights[first] = torch.zeros(3, 5)
    elif change == "missing":
        del weights[first]
    else:
        weights["llm.more"] = torch.zeros(2)
    save_file(weights, best / "modules.safetensors")
    reseal(best)
    message = {"shape": f"{first}: checkpoint (3, 5), here {expected}", "missing": f"{first} is missing",
               "extra": "llm.more is unknown here"}[change]  # fmt: skip
    with pytest.raises(ValueError) as raised:
        checkpoint.load_checkpoint_into(trained[2], best)
    assert message in str(raised.value)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "modules.safetensors", "optimizer.safetensors", "state.json", "config.yaml"],
)
@pytest.mark.parametrize("way", ["resume", "evaluate", "load_data_and_model"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_pickle_in_a_checkpoint_is_refused_and_does_nothing(run, trained, tmp_path, name, way, sealed):
    from recbole.quick_start import load_data_and_model

    config, data, model, _ = trained
    mark = tmp_path / "mark"
    for folder in [*run.glob("step-*"), *run.glob("best-*")]:
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
        if name == "config.yaml":
            (folder / name).write_text(f"!!python/object/apply:os.mkdir ['{mark}']\n")
        if sealed and name != "state.json" and name in json.loads((folder / "state.json").read_text())["files"]:
            reseal(folder)
    best = next(run.glob("best-*"))
    reads = not (sealed and way != "load_data_and_model" and name == "config.yaml")
    reads &= not (sealed and way == "resume")  # a finished run reads its weights again when it is tested
    try:
        if way == "resume":
            fitted = workers.train(trained[:3], run.parent, resume="auto")
            fitted.evaluate(data[3])
        elif way == "evaluate":
            workers.trainer.LLMTrainer(config, model).evaluate(data[3], model_file=str(best))
        else:
            load_data_and_model(str(best))
    except (ValueError, FileNotFoundError) as error:
        assert name in str(error) or "checkpoint" in str(error)
    else:
        assert not reads or name in ("optimizer.safetensors", "rng.safetensors")  # not read on this way
    assert not mark.exists()


def test_plain_peft_loads_llaras_adapter(tiny_data, tiny_llm, tmp_path):
    """No code of ours: transformers, peft and the folder."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, train_sample_size=8, valid_sample_size=8)
    config, data, model = workers.build("LLaRA", settings)
    fitted = workers.train((config, data, model), tmp_path / "saved")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm), fitted.saved_model_file)
    ids = torch.arange(20)[None] + 5
    with torch.no_grad():
        ours, theirs = model.llm(input_ids=ids).logits, plain(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours)

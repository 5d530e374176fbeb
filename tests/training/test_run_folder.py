"""A run's folder: which checkpoint is gone on with, who may write, what is kept."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recbole_llm.training import checkpoint_files, run_folder
from recbole_llm.training.resume import find_run
from recbole_llm.training.run_folder import Run, settings_hash
from tests import tiny, workers
from tests.training.damage import cut, edited, emptied


def test_a_run_whose_checkpoints_are_all_damaged_says_so(run, trained):
    for folder in run.glob("step-*"):
        edited(folder / "modules.safetensors")
    message = "no checkpoint of .* can be read: .*modules.safetensors.*Start again"
    with pytest.raises(checkpoint_files.DamagedCheckpoint, match=message):
        workers.train(trained[:3], run.parent, resume="auto")


def test_damaged_best_weights_are_put_back_from_the_same_step(run, trained, caplog):
    best = next(run.glob("best-*"))
    before = (best / "adapter_model.safetensors").read_bytes()
    cut(best / "adapter_model.safetensors")
    fitted = workers.train(trained[:3], run.parent, resume="auto")
    assert (best / "adapter_model.safetensors").read_bytes() == before and fitted.saved_model_file == str(best)
    assert f"put back from {run / best.name.replace('best', 'step')}" in caplog.text


def test_a_step_that_was_being_replaced_is_put_back(tmp_path):
    (tmp_path / ".step-00000003.old").mkdir()  # a kill between the two renames
    (tmp_path / ".step-00000003.0a1b2c3d").mkdir()
    Run(tmp_path).sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.fixture
def mid_epoch(tiny_data, tiny_llm, tmp_path, monkeypatch):
    """(built, run's folder) after two epochs of three steps, each validation better, with saves at even steps too."""
    settings = tiny.settings(
        tiny_data, tiny_llm, tmp_path, epochs=2, train_sample_size=24, valid_sample_size=8, eval_batch_size=40,
        save_steps=2, save_total_limit=2, lora_target_modules=["q_proj"],
    )  # fmt: skip
    scores = lambda self, *_, **__: (self.position.step / 10, {"ndcg@10": self.position.step / 10})  # noqa: E731
    monkeypatch.setattr(workers.trainer.LLMTrainer, "_valid_epoch", scores)
    built = workers.build("iLoRA", settings)
    fitted = workers.train(built, tmp_path / "saved")
    return built, Path(fitted.saved_model_file).parent


def test_the_checkpoint_before_a_damaged_one_still_has_its_best_weights(mid_epoch, caplog):
    built, run = mid_epoch
    assert sorted(p.name for p in run.glob("*-*")) == [f"{kind}-{n:08d}" for kind, n in
        (("best", 3), ("best", 6), ("step", 4), ("step", 6))]  # fmt: skip
    end = load_file(run / "step-00000006" / "adapter_model.safetensors")
    cut(run / "step-00000006" / "optimizer.safetensors")
    fitted = workers.train(built, run.parent, resume="auto")
    assert "step-00000006/optimizer.safetensors" in caplog.text
    assert fitted.position.best == "best-00000006" and fitted.position.step == 6
    for name, weight in load_file(run / "step-00000006" / "adapter_model.safetensors").items():
        assert torch.equal(weight, end[name])


def test_lost_best_weights_are_named_and_training_goes_on(mid_epoch, caplog):
    built, run = mid_epoch
    cut(run / "best-00000003" / "adapter_model.safetensors")
    fitted = workers.train(built, run.parent, resume=str(run / "step-00000004"))
    assert "best-00000003/adapter_model.safetensors is damaged" in caplog.text and "are lost" in caplog.text
    assert fitted.saved_model_file == str(run / "best-00000006") and fitted.best_valid_score == 0.6


@pytest.mark.parametrize("damage", [cut, edited, emptied])
@pytest.mark.parametrize("way", ["auto", "path"])
def test_a_damaged_run_json_is_named_and_rebuilt_from_a_checkpoint(run, trained, caplog, damage, way):
    damage(run / "run.json")
    found, _ = find_run(trained[0], "auto" if way == "auto" else str(run))
    found.close()
    assert found.folder == run
    assert f"{run / 'run.json'} is damaged" in caplog.text and "step-00000003 are taken instead" in caplog.text


def test_a_run_of_which_nothing_can_be_read_says_so(run, trained):
    for file in (run / "run.json", *run.glob("step-*/state.json")):
        cut(file)
    with pytest.raises(checkpoint_files.DamagedCheckpoint, match="run.json is damaged and no checkpoint beside it can be read"):
        find_run(trained[0], str(run))
    assert find_run(trained[0], "auto") == (None, None)


def test_resume_finds_the_newest_run_of_the_same_settings(run, trained):
    config = trained[0]
    found, step = find_run(config, "auto")
    found.close()
    assert found.folder == run and step is None
    before, config["learning_rate"] = config["learning_rate"], 0.5
    try:
        assert find_run(config, "auto") == (None, None)
        with pytest.raises(ValueError, match="learning_rate: run 2.0, here 0.5"):
            find_run(config, str(run))
    finally:
        config["learning_rate"] = before


def test_resume_leaves_runs_of_other_data_and_what_other_code_has_finished(run, trained, caplog, monkeypatch):
    """Old weights under new titles, or a repaired bug's weights, must not come back as this code's result."""
    config, record = trained[0], json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "data": "others"}))
    assert find_run(config, "auto") == (None, None) and "files changed since it began" in caplog.text
    with pytest.raises(ValueError, match="the dataset's files changed"):
        find_run(config, str(run))
    (run / "run.json").write_text(json.dumps({**record, "code": "other"}))
    assert find_run(config, "auto") == (None, None) and "was finished with other code" in caplog.text
    monkeypatch.setattr(Run, "finished", lambda self: False)
    found, _ = find_run(config, "auto")
    found.close()
    assert found.folder == run and "goes on with this one" in caplog.text


def test_resume_leaves_runs_that_read_another_recommender(run, trained, caplog, monkeypatch):
    """A cached CRM that was trained again is not bitwise the old one: its run cannot go on, and must not stop a new one."""
    config, _, model, _ = trained
    monkeypatch.setattr(model.crm, "sha256", "another")
    assert find_run(config, "auto", model) == (None, None)
    assert "passes over" in caplog.text and "crm_sha256" in caplog.text


def test_a_run_belongs_to_the_last_code_that_trained_it(run, trained, monkeypatch):
    """Begun with one code, finished with another: the first must not take its weights for its own."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "code": "before"}))
    Run(run).set_code_version(record["code"])  # finished: nothing is trained any more
    assert json.loads((run / "run.json").read_text())["code"] == "before"
    monkeypatch.setattr(Run, "finished", lambda self: False)
    Run(run).set_code_version(record["code"])
    assert json.loads((run / "run.json").read_text()) == record


def test_a_run_of_an_earlier_version_that_counted_more_keys_goes_on(run, trained):
    record = json.loads((run / "run.json").read_text())
    settings = {**record["settings"], "variant": None, "latency_rows": 32, "worker": 0}
    (run / "run.json").write_text(json.dumps({**record, "settings": settings, "hash": run_folder._hash(settings)}))
    for resume in ("auto", str(run)):
        found, _ = find_run(trained[0], resume)
        found.close()
        assert found.folder == run


@pytest.mark.parametrize("where", ["", "step-00000001"])
def test_resume_takes_a_run_or_a_step(run, trained, where):
    found, step = find_run(trained[0], str(run / where) if where else str(run))
    found.close()
    assert found.folder == run and (step.name if step else "") == where


def test_resume_of_nothing_names_the_path(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="resume='.*nowhere'"):
        find_run(trained[0], str(tmp_path / "nowhere"))


def test_places_and_display_do_not_change_the_hash(trained):
    config = trained[0]
    before = settings_hash(config)
    for key, value in {"show_progress": True, "checkpoint_dir": "x", "save_steps": 7, "latency_rows": 3, "resume": None}.items():
        kept, config[key] = config[key], value
        assert settings_hash(config) == before
        config[key] = kept
    kept, config["seed"] = config["seed"], 1
    assert settings_hash(config) != before
    config["seed"] = kept


def test_which_test_rows_are_measured_shapes_weights_only_where_they_select_them(trained):
    config, hashes = trained[0], {}
    kept = config["recipe"], config["test_sample_size"]
    for recipe in ("paper", "released"):
        for size in (None, 5):
            config["recipe"], config["test_sample_size"] = recipe, size
            hashes[recipe, size] = settings_hash(config)
    config["recipe"], config["test_sample_size"] = kept
    assert hashes["paper", None] == hashes["paper", 5] and hashes["released", None] != hashes["released", 5]


def test_a_run_that_is_being_written_is_left_alone(run, trained, caplog):
    writer = Run(run)
    writer.lock()
    with pytest.raises(BlockingIOError, match=f"being written by process {os.getpid()}"):
        find_run(trained[0], str(run))
    assert find_run(trained[0], "auto") == (None, None) and "passes over" in caplog.text
    writer.close()


def test_a_file_system_without_locks_is_warned_of(run, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    opened = Run(run)
    opened.lock()
    opened.close()
    assert "without locks (No locks available)" in caplog.text


def test_only_the_newest_and_the_best_are_kept(trained):
    names = sorted(p.name for p in trained[3].iterdir())
    assert [n for n in names if n.startswith("step-")] == [f"step-{i:08d}" for i in (1, 2, 3)]
    assert len([n for n in names if n.startswith("best-")]) == 1


def test_a_finished_run_is_only_tested_again(run, trained, monkeypatch):
    monkeypatch.setattr(workers.trainer.LLMTrainer, "_step", lambda *_: pytest.fail("it trained"))
    fitted = workers.train(trained[:3], run.parent, resume="auto")
    assert fitted.position.finished and fitted.position.step == 3

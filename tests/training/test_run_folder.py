"""Checkpoints: what they hold, what is refused, what a damaged or missing one leads to."""

import errno
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recbole_llm.runtime import distributed
from recbole_llm.training import checkpoint, checkpoint_files, run_folder
from recbole_llm.training.optimizer_state import restore_rng, rng_tensors
from recbole_llm.training.position import Position, step_seed
from recbole_llm.training.resume import find_run
from recbole_llm.training.run_folder import Run, settings_hash
from tests import tiny, workers


@pytest.fixture(scope="module")
def trained(tiny_data, tiny_llm, tmp_path_factory):
    """(config, data, model, run's folder) after three epochs of one step."""
    out = tmp_path_factory.mktemp("trained")
    settings = tiny.settings(
        tiny_data, tiny_llm, out, epochs=3, train_sample_size=8, valid_sample_size=8, eval_batch_size=40,
        save_total_limit=3, lora_target_modules=["q_proj"], learning_rate=2.0,
        projector_lr_scale=1.0,
    )  # fmt: skip
    built = workers.build("iLoRA", settings)
    fitted = workers.train(built, out / "saved")
    return (*built, Path(fitted.saved_model_file).parent)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run's folder that a test may damage, and the model's settings pointing there."""
    import shutil

    config, data, model, folder = trained
    shutil.copytree(folder, tmp_path / "saved" / folder.name)
    config["checkpoint_dir"], config["resume"] = str(tmp_path / "saved"), "auto"
    return tmp_path / "saved" / folder.name


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def edited(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def test_a_folder_holds_what_going_on_needs_and_nothing_else(trained):
    folder = trained[3] / "step-00000003"
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "config.yaml", "modules.safetensors",
        "optimizer.safetensors", "rng.safetensors", "state.json",
    ]  # fmt: skip
    state = checkpoint_files.read_state(folder)
    position = Position.of(state)
    assert (position.step, position.epoch, position.epoch_step, position.finished) == (3, 3, 0, True)
    assert set(state["files"]) == {p.name for p in folder.iterdir()} - {"state.json"}
    weights = {n for n, w in trained[2].named_parameters() if w.requires_grad}
    moments = load_file(folder / "optimizer.safetensors")
    assert moments.keys() == {f"{n}|{key}" for n in weights for key in ("step", "exp_avg", "exp_avg_sq")}


@pytest.mark.parametrize("damage", [cut, edited, emptied, removed])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.safetensors", "state.json", "config.yaml"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_used(run, trained, caplog, damage, name):
    damage(run / "step-00000003" / name)
    with pytest.raises(checkpoint_files.DamagedCheckpoint, match=f"step-00000003/{name}"):
        checkpoint_files.read_state(run / "step-00000003")
    folder, state = Run(run).readable()
    assert folder.name == "step-00000002" and state["step"] == 2
    assert f"step-00000003/{name}" in caplog.text and "the checkpoint before it is used" in caplog.text


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


def test_damaged_weights_are_not_tested_with(run, trained):
    best = next(run.glob("best-*"))
    edited(best / "adapter_model.safetensors")
    with pytest.raises(checkpoint_files.DamagedCheckpoint, match=f"{best.name}/adapter_model.safetensors is damaged"):
        checkpoint.load_checkpoint_into(trained[2], run)


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
    Run(run).goes_on_with(record["code"])  # finished: nothing is trained any more
    assert json.loads((run / "run.json").read_text())["code"] == "before"
    monkeypatch.setattr(Run, "finished", lambda self: False)
    Run(run).goes_on_with(record["code"])
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
    finally:
        config["llm_path"] = before


@pytest.mark.parametrize(("key", "other"), [("dataset", "elsewhere"), ("llm_path", "elsewhere"), ("lora_alpha", 3)])
def test_a_checkpoint_of_other_settings_is_refused_with_both_values(run, trained, key, other):
    config, _, model, _ = trained
    before, config[key] = config[key], other
    try:
        with pytest.raises(ValueError, match=f"{key.removesuffix('_path')}: checkpoint {before!r}, here {other!r}"):
            checkpoint.load_checkpoint_into(model, run)
    finally:
        config[key] = before


def reseal(folder):
    """Make an edited folder's hashes right again."""
    state = json.loads((folder / "state.json").read_text())
    del state["sha256"]
    state["files"] = {name: checkpoint_files._file_hash(folder / name) for name in state["files"]}
    (folder / "state.json").write_text(json.dumps({**state, "sha256": checkpoint_files._record_hash(state)}))


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


@pytest.mark.parametrize("trusted", [False, True])
def test_a_checkpoint_cannot_ask_for_an_llms_own_code(run, tiny_llm, tmp_path, trusted):
    """It names an LLM that brings code and says trust_remote_code: only the caller's word counts."""
    import shutil

    import yaml
    from recbole.quick_start import load_data_and_model

    mark, llm = tmp_path / "mark", tmp_path / "llm"
    shutil.copytree(tiny_llm, llm)
    settings = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps({**settings, "auto_map": {"AutoConfig": "own.OwnConfig"}}))
    code = f"import os\nos.mkdir({str(mark)!r})\nfrom transformers import LlamaConfig\n\nclass OwnConfig(LlamaConfig):\n    pass\n"
    (llm / "own.py").write_text(code)
    best = next(run.glob("best-*"))
    values = yaml.safe_load((best / "config.yaml").read_text())
    (best / "config.yaml").write_text(yaml.safe_dump({**values, "llm_path": str(llm), "trust_remote_code": True}))
    reseal(best)
    with pytest.raises((ValueError, FileExistsError)):  # in the end it is another LLM than the checkpoint's
        load_data_and_model(str(best), trust_remote_code=trusted)
    assert mark.exists() == trusted


def test_disk_full_stops_the_run_and_leaves_earlier_checkpoints(trained, tmp_path, monkeypatch):
    config, data, model, _ = trained
    write, seen = Path.write_bytes, []

    def full(self, content):
        seen.append(self)
        if len(seen) == 12:  # in the second step folder
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device while writing .*step-00000002; free some space or set checkpoint_dir elsewhere"):
        workers.train((config, data, model), tmp_path / "full")
    monkeypatch.undo()
    (run,) = (tmp_path / "full").glob("iLoRA-*")
    names = sorted(p.name for p in run.iterdir())
    assert "step-00000001" in names and not any(name.startswith(".") for name in names)
    for folder in [*run.glob("step-*"), *run.glob("best-*")]:
        checkpoint_files.read_state(folder)


def test_only_the_newest_and_the_best_are_kept(trained):
    names = sorted(p.name for p in trained[3].iterdir())
    assert [n for n in names if n.startswith("step-")] == [f"step-{i:08d}" for i in (1, 2, 3)]
    assert len([n for n in names if n.startswith("best-")]) == 1


def test_a_finished_run_is_only_tested_again(run, trained, monkeypatch):
    monkeypatch.setattr(workers.trainer.LLMTrainer, "_step", lambda *_: pytest.fail("it trained"))
    fitted = workers.train(trained[:3], run.parent, resume="auto")
    assert fitted.position.finished and fitted.position.step == 3


def test_generator_states_come_back():
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    random.gauss(0, 1), np.random.randn()
    kept = rng_tensors()
    drawn = random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist()
    restore_rng(kept)
    assert drawn == (random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist())


def test_step_seeds_differ_and_are_fixed():
    seeds = {step_seed(*key) for key in [(1, 2, 3), (12, 3, 0), (1, 23, 0), (2020, 0, 0), (2020, 0, 1)]}
    assert len(seeds) == 5 and step_seed(2020, 0, 0) == step_seed(2020, 0, 0) < 2**63


def test_one_process_needs_no_group():
    assert (distributed.rank(), distributed.world_size(), distributed.gather(3)) == (0, 1, [3])
    assert distributed.broadcast("x") == "x" and distributed.total(1, 2.5) == [1.0, 2.5]
    with distributed.main_first():
        pass


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

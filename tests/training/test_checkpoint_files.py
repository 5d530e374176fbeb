"""What a checkpoint folder holds, and what a damaged file leads to."""

import errno
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from recbole_llm.training import checkpoint_files
from recbole_llm.training.position import Position
from recbole_llm.training.run_folder import Run
from tests import workers
from tests.training.damage import cut, edited, emptied, removed


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

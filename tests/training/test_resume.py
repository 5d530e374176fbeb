"""A run that is killed at any moment and resumed ends bitwise where an uninterrupted one does."""

import json
import os
import signal
import sys
import time

import pytest

from tests import tiny, workers

N_FILE_KILLS, N_TIMED_KILLS = 18, 6


class KillAt:
    """Kills this process at its n-th file operation under `folder`; counts them where n is None."""

    EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")

    def __init__(self, folder, n=None):
        self.folder, self.n, self.count = str(folder), n, 0

    def __call__(self, event, args):
        path = args[0] if event in self.EVENTS and args else None
        if isinstance(path, (str, os.PathLike)) and self.folder in os.fspath(path):
            self.count += 1
            if self.count == self.n:
                os.kill(os.getpid(), signal.SIGKILL)


def trial(built, folder, out, resume, kill_at):
    if kill_at != 0:
        counter = KillAt(folder, kill_at)
        sys.addaudithook(counter)
    workers.train(built, folder, out, resume)
    if kill_at is None:
        (out.parent / "operations").write_text(str(counter.count))


def checkpoints_are_whole(folder):
    """Every folder with a checkpoint's name can be read."""
    from recbole_llm.training.checkpoint_files import read_state

    found = [p for run in folder.glob("iLoRA-*") for p in run.iterdir() if p.name.startswith(("step-", "best-"))]
    for path in found:
        read_state(path)
    return len(found)


def interrupt(settings, out):
    """All kills, from one process that has built the model once and forks for each trial."""
    from recbole_llm.training.run_folder import best_of

    built = workers.build("iLoRA", settings)
    log = out / "trials.log"
    start = time.monotonic()
    assert workers.ended(workers.forked(trial, built, out / "whole", out / "reference", None, None, log=log)) == 0
    seconds, operations = time.monotonic() - start, int((out / "operations").read_text())
    kills = [("file", 1 + (i * (operations - 1)) // (N_FILE_KILLS - 1)) for i in range(N_FILE_KILLS)]
    kills += [("time", seconds * (i + 0.5) / N_TIMED_KILLS) for i in range(N_TIMED_KILLS)]
    ends = []
    for number, (kind, at) in enumerate(kills):
        folder = out / f"trial{number}"
        count, limit = (at, None) if kind == "file" else (0, at)
        first = workers.ended(workers.forked(trial, built, folder, out / f"t{number}", "auto", count, log=log), limit)
        kept = checkpoints_are_whole(folder) if folder.exists() else 0
        if number % 3 == 0:  # killed again while it resumes
            again = workers.forked(trial, built, folder, out / f"t{number}", "auto", max(1, operations // 3), log=log)
            workers.ended(again)
            checkpoints_are_whole(folder)
        second = workers.ended(workers.forked(trial, built, folder, out / f"t{number}", "auto", 0, log=log))
        left = [p.name for run in folder.glob("iLoRA-*") for p in run.iterdir()]
        named = sorted({best_of(step) for step in folder.glob("iLoRA-*/step-*")})
        ends.append({"kind": kind, "at": at, "first": first, "second": second, "kept": kept, "left": left, "named": named})
    (out / "ends.json").write_text(json.dumps({"operations": operations, "seconds": seconds, "ends": ends}))


@pytest.fixture(scope="module")
def outcome(tiny_data, tiny_llm, tmp_path_factory):
    out = tmp_path_factory.mktemp("kills")
    settings = tiny.settings(
        tiny_data, tiny_llm, out, epochs=2, train_sample_size=12, train_batch_size=2, accumulation_steps=2,
        save_steps=1, valid_sample_size=8, test_sample_size=8, eval_batch_size=40, lora_target_modules=["q_proj", "v_proj"],
        gate_form="noisy", user_token=True, learning_rate=0.01,
    )  # fmt: skip
    workers.run(interrupt, settings, out, folder=out / "work", seconds=1500)
    return out, json.loads((out / "ends.json").read_text())


def test_kills_came_at_different_moments(outcome):
    ends = outcome[1]["ends"]
    killed = [end for end in ends if end["first"] == -signal.SIGKILL]
    assert len(killed) >= 20, ends
    assert len({end["kept"] for end in killed}) >= 3  # from before the first checkpoint to after several
    assert all(end["second"] == 0 for end in ends)


def test_every_resumed_run_ends_bitwise_as_the_uninterrupted_one(outcome):
    out, record = outcome
    reference = (out / "reference.safetensors").read_bytes(), json.loads((out / "reference.json").read_text())
    assert reference[1]["step"] == 6 and len(reference[1]["losses"]) == 2
    for number in range(len(record["ends"])):
        numbers = json.loads((out / f"t{number}.json").read_text())
        assert (out / f"t{number}.safetensors").read_bytes() == reference[0], record["ends"][number]
        for key in ("score", "valid", "test", "ranks", "step"):
            assert numbers[key] == reference[1][key], record["ends"][number]
        assert numbers["losses"].items() <= reference[1]["losses"].items()


def test_nothing_is_left_over(outcome):
    for end in outcome[1]["ends"]:
        steps = sorted(name for name in end["left"] if name.startswith("step-"))
        assert steps == ["step-00000005", "step-00000006"]
        assert sorted(name for name in end["left"] if name.startswith("best-")) == end["named"]  # by the steps that are left
        assert set(end["left"]) - {"run.json", "lock"} == {n for n in end["left"] if n.startswith(("step-", "best-"))}

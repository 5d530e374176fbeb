"""Several gloo processes compute what one computes, write one set of files, and end together when one dies."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recbole_llm.cli import main as cli_main
from recbole_llm.data.prompt_rows import Key
from recbole_llm.runtime import distributed
from recbole_llm.training.step_batches import Steps
from tests import tiny, workers

ROOT = Path(__file__).resolve().parents[2]


def whole_run(settings, out):
    """The recipe, with the gradients of the first step and the rows of every batch kept."""
    from recbole_llm.training.trainer import LLMTrainer

    rank, step, kept = distributed.rank(), LLMTrainer._step, {}

    def _step(self, group):
        found = step(self, group)
        if self.position.step == 1:
            save_file({n: w.grad.clone() for n, w in self.model.named_parameters() if w.requires_grad},
                      out / f"gradients{rank}.safetensors")  # fmt: skip
        kept["trainer"] = self
        return found

    LLMTrainer._step = _step
    outcome = recipe("iLoRA", settings)
    fitted = kept["trainer"]
    rows = fitted.eval_collector.rows()
    record = {
        "outcome": outcome, "losses": fitted.train_loss_dict, "row": rows.row.tolist(), "rank": rows.rank.tolist(),
        "generation": fitted.generation,
    }  # fmt: skip
    (out / f"record{rank}.json").write_text(json.dumps(record))


def sharing_settings(data, llm, out, **more):
    """Batches and steps that two and three processes cannot share evenly; no dropout."""
    return tiny.settings(
        data, llm, out, epochs=2, train_sample_size=22, train_batch_size=5, accumulation_steps=2, eval_batch_size=12,
        lora_dropout=0.0, lora_target_modules=["q_proj", "v_proj"], valid_sample_size=20, curriculum="none",
        learning_rate=3e-4, projector_lr_scale=1.0, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny_data, tiny_llm, tmp_path_factory):
    found = {}
    for world in (1, 2, 3):
        out = tmp_path_factory.mktemp(f"world{world}")
        more = {"llm_eval": "generate"} if world == 3 else {}
        settings = sharing_settings(tiny_data, tiny_llm, out, **more)
        workers.run(whole_run, settings, out, world=world, folder=out / "work", seconds=900)
        found[world] = out
    return found


def record(out, rank=0):
    return json.loads((out / f"record{rank}.json").read_text())


@pytest.mark.parametrize("world", [2, 3])
def test_gradients_equal_those_of_one_process(runs, world):
    single = load_file(runs[1] / "gradients0.safetensors")
    assert sum(g.abs().sum() > 0 for g in single.values()) > len(single) / 2
    for rank in range(world):
        shared = load_file(runs[world] / f"gradients{rank}.safetensors")
        assert shared.keys() == single.keys()
        for name, gradient in single.items():
            torch.testing.assert_close(shared[name], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_metrics_losses_and_ranks_equal_those_of_one_process(runs, world):
    single = record(runs[1])
    for rank in range(world):
        shared = record(runs[world], rank)
        assert shared["row"] == single["row"] == list(range(40))  # every row, once, in every process
        assert shared["rank"] == single["rank"]
        for key in ("test_result", "best_valid_result", "best_valid_score"):
            assert shared["outcome"][key] == single["outcome"][key]
        assert shared["losses"] == pytest.approx(single["losses"], rel=1e-5)


def test_generated_answers_are_gathered_once(runs):
    assert all(record(runs[3], rank)["generation"]["n"] == 40 for rank in range(3))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_one_set_of_files(runs, world):
    out = runs[world]
    (run,) = (out / "saved").glob("iLoRA-*")
    assert sorted(p.name.partition("-")[0] for p in run.iterdir()) == [
        "best", "best", "lock", "run.json", "step", "step",
    ]  # fmt: skip
    assert sorted(p.suffix for p in (out / "saved" / "crm").iterdir()) == [".json", ".safetensors"]
    assert len(list((out / "saved" / "candidates").iterdir())) == 1
    assert sorted(p.suffix for p in (out / "results").iterdir()) == [".csv", ".json"]
    kinds = [("log", "*.log"), ("log_tensorboard", "events*")]
    logs = [[len(list((runs[w] / "work" / name).rglob(pattern))) for name, pattern in kinds] for w in (1, world)]
    assert logs[0] == logs[1]
    candidates = [json.loads(next((runs[w] / "results").glob("*.json")).read_text())["candidates"] for w in (1, world)]
    assert candidates[0] == candidates[1]


def sharded_run(settings, out):
    """`whole_run` under FSDP2, which Accelerate itself allows on GPUs alone."""
    from accelerate import Accelerator
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    from recbole_llm.training import optimizer_step
    from recbole_llm.training.trainer import LLMTrainer

    def accelerator(**arguments):
        found = Accelerator(**arguments)
        PartialState._shared_state["distributed_type"] = found.state.distributed_type = DistributedType.FSDP
        found.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"], state_dict_type="FULL_STATE_DICT",
        )  # fmt: skip
        return found

    def fit(self, *arguments, **options):
        found = whole_fit(self, *arguments, **options)
        assert all(hasattr(weight, "full_tensor") for weight in self.model.llm.parameters())  # they are shards
        return found

    whole_fit, LLMTrainer.fit, optimizer_step.Accelerator = LLMTrainer.fit, fit, accelerator
    outcome = recipe("iLoRA", settings)
    (out / f"record{distributed.rank()}.json").write_text(json.dumps(outcome))


def recipe(model, settings):
    from recbole_llm import run_recbole_llm

    return run_recbole_llm(model, "tiny", config_dict=settings)


def test_fsdp2_gives_the_metrics_of_one_process_and_resumes(runs, tiny_data, tiny_llm, tmp_path):
    settings = sharing_settings(tiny_data, tiny_llm, tmp_path, save_steps=1, save_total_limit=9)
    workers.run(sharded_run, settings, tmp_path, world=2, folder=tmp_path / "work", seconds=900)
    single = record(runs[1])["outcome"]
    for rank in range(2):
        for key in ("test_result", "best_valid_result"):
            assert record(tmp_path, rank)[key] == single[key]
    (run,) = (tmp_path / "saved").glob("iLoRA-*")
    files = ("adapter_model.safetensors", "modules.safetensors")
    ends = {name: load_file(run / "step-00000006" / name) for name in files}
    alone = next((runs[1] / "saved").glob("iLoRA-*")) / "step-00000006"
    for name, weights in ends.items():
        for key, weight in load_file(alone / name).items():
            torch.testing.assert_close(weights[key], weight, rtol=1e-3, atol=1e-4)
    resumed = {**settings, "resume": str(run / "step-00000004")}
    workers.run(sharded_run, resumed, tmp_path, world=2, folder=tmp_path / "again", seconds=900)
    for name, weights in ends.items():
        for key, weight in load_file(run / "step-00000006" / name).items():
            assert torch.equal(weight, weights[key])


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 4])
def test_every_row_of_a_step_goes_to_one_process_with_weight_one(world, micro_batch):
    batches = [[Key(row, (), 0) for row in range(start, min(start + 5, 22))] for start in range(0, 22, 5)]
    shares = [list(Steps(batches, 2, rank, world, micro_batch)) for rank in range(world)]
    assert {len(steps) for steps in shares} == {3}
    for number, rows in enumerate((range(10), range(10, 20), range(20, 22))):
        passes = [steps[number] for steps in shares]
        assert len({len(step) for step in passes}) == 1  # as many forward passes in every process
        counted = [key for step in passes for keys, weight in step for key in keys if weight]
        assert sorted(key.row for key in counted) == list(rows)
        assert all(len(keys) == 1 for step in passes for keys, weight in step if not weight)
        if micro_batch:
            assert all(len(keys) <= micro_batch for step in passes for keys, _ in step)
            assert len(passes[0]) == -(-len(rows) // (micro_batch * world))  # no more passes than that takes


def dies(settings, out):
    """Process 1 kills itself in the second step."""
    from recbole_llm.training.trainer import LLMTrainer

    step = LLMTrainer._step

    def _step(self, group):
        if distributed.rank() == 1 and self.position.step == 1:
            (out / "died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, group)

    LLMTrainer._step = _step
    recipe("LLaRA", settings)


def test_a_process_that_dies_ends_the_run_and_it_can_be_resumed(tiny_data, tiny_llm, tmp_path):
    settings = sharing_settings(tiny_data, tiny_llm, tmp_path, save_steps=1)
    processes = workers.start(dies, settings, tmp_path, world=2, folder=tmp_path / "work")
    for process in processes:
        process.join(600)
    seconds = time.time() - float((tmp_path / "died").read_text())
    codes = [process.exitcode for process in processes]
    assert seconds < 60 and codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert "Traceback" in (tmp_path / "work" / "rank0.log").read_text()
    (run,) = (tmp_path / "saved").glob("LLaRA-*")
    assert [p.name for p in run.glob("step-*")] == ["step-00000001"]
    workers.run(recipe, "LLaRA", {**settings, "resume": "auto"}, world=2, folder=tmp_path / "again", seconds=600)
    assert {p.name for p in run.glob("step-*")} == {"step-00000005", "step-00000006"}


def fails(arguments):
    if distributed.rank() == 1:
        raise RuntimeError(f"this process cannot go on: {arguments}")
    time.sleep(60)


def test_launch_ends_all_with_the_failing_ones_traceback(capfd):
    from torch.multiprocessing import ProcessRaisedException

    start = time.monotonic()
    with pytest.raises(ProcessRaisedException, match="this process cannot go on: 7"):
        distributed.launch(fails, (7,), nproc=2, port=str(workers.free_port()), method="forkserver")
    assert time.monotonic() - start < 60


def waits(folder):
    (Path(folder) / str(distributed.rank())).write_text(str(os.getpid()))
    time.sleep(600)


def test_a_signal_to_the_launching_process_alone_ends_the_others(tmp_path):
    launch = f"distributed.launch(waits, ({str(tmp_path)!r},), nproc=2, port='{workers.free_port()}', method='forkserver')"
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background job ignores it
    code = f"{heard}\nfrom recbole_llm.runtime import distributed\nfrom tests.runtime.test_distributed import waits\n{launch}"
    launching = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while len(started := [file for file in tmp_path.iterdir() if file.read_text()]) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    launching.send_signal(signal.SIGINT)
    try:
        assert "KeyboardInterrupt" in launching.communicate(timeout=60)[1]
        for file in started:
            with pytest.raises(ProcessLookupError):
                os.kill(int(file.read_text()), 0)
    finally:
        for file in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)
        launching.kill()


@pytest.mark.parametrize("code, said", [(2, "the other processes were ended\n"), (1, "were ended; go on with --resume=auto\n")])
def test_bad_input_of_several_processes_is_not_told_to_go_on(code, said, capfd):
    def launch(*_):
        raise ProcessExitedException("process 0 ended", error_index=0, error_pid=1, exit_code=code)

    from torch.multiprocessing import ProcessExitedException

    arguments = ["--model=LLaRA", "--dataset=tiny", "--nproc=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "launch", launch)
        assert cli_main._launch(cli_main.parse_command_line(arguments), arguments) == code
    assert capfd.readouterr().err.endswith(said)


def test_launch_names_ranks_that_do_not_exist():
    with pytest.raises(ValueError, match="nproc=2, group_offset=2 and world_size=3: ranks 2 to 3"):
        distributed.launch(fails, (), nproc=2, total_processes=3, offset=2)


def test_nproc_on_the_command_line_starts_processes(tiny_data, tiny_llm, tmp_path):
    settings = sharing_settings(tiny_data, tiny_llm, tmp_path)
    workers.run(command_line, settings, world=1, folder=tmp_path / "work", seconds=600)
    (found,) = (tmp_path / "results").glob("*.json")
    assert json.loads(found.read_text())["n_rows"] == 40
    assert len(list((tmp_path / "saved").glob("LLaRA-*"))) == 1


def command_line(settings):
    workers.server()  # its processes import the package once, for both
    file = Path("settings.yaml")
    file.write_text(json.dumps({**settings, "epochs": 1, "load_col": settings["load_col"]}))
    arguments = ["--model=LLaRA", "--dataset=tiny", f"--config_files={file}", "--nproc=2"]
    arguments.append(f"--port={workers.free_port()}")
    assert cli_main._launch(cli_main.parse_command_line(arguments), arguments, method="forkserver") == 0


@pytest.mark.parametrize("said, processes, asked", [("true", 2, True), ("true", 1, False), ("false", 2, False)])
def test_a_launcher_that_asks_for_fsdp_keeps_the_model_off_one_device(monkeypatch, said, processes, asked):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", said)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert distributed.sharded() == asked


def leaves_the_run():
    cli_main.run_recbole_llm = lambda *settings: distributed.total(distributed.rank())
    assert cli_main.main(["--model=LLaRA", "--dataset=tiny"]) == 0
    assert not torch.distributed.is_initialized()


def test_the_command_line_leaves_the_run_before_the_interpreter_ends(tmp_path):
    workers.run(leaves_the_run, world=2, folder=tmp_path)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node=2", "--master_port={port}"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port={port}"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_the_command(tiny_data, tiny_llm, tmp_path, launcher):
    settings = sharing_settings(tiny_data, tiny_llm, tmp_path)
    (tmp_path / "settings.yaml").write_text(json.dumps({**settings, "epochs": 1, "gpu_id": ""}))
    launcher = ["-m", *(word.format(port=workers.free_port()) for word in LAUNCHERS[launcher])]
    script = [str(ROOT / "run_recbole_llm.py"), "--model=LLaRA", "--dataset=tiny", "--config_files=settings.yaml"]
    command = [sys.executable, *launcher, *script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("result file: ") == 1
    assert len(list((tmp_path / "results").glob("*.json"))) == 1


def test_one_process_needs_no_group():
    assert (distributed.rank(), distributed.world_size(), distributed.gather(3)) == (0, 1, [3])
    assert distributed.broadcast("x") == "x" and distributed.total(1, 2.5) == [1.0, 2.5]
    with distributed.main_first():
        pass

"""Runs functions in fresh processes, alone or as one distributed run, without importing torch anew for each.

Processes are forked from one server that has imported the package and has run nothing.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch

import recbole_llm  # noqa: F401  (registers)
from recbole_llm import LLMConfig
from recbole_llm.runtime import distributed
from recbole_llm.training import trainer  # noqa: F401  (imported once, by the server)
from recbole_llm.training.log import NoWriter


def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.workers"])
    return context


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(function, *args, world=1, folder, port=None):
    """Start `function(*args)` in `world` processes whose output goes to files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    processes = []
    for rank in range(world):
        described = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        described |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        process = server().Process(target=_child, args=(function, args, described if world > 1 else {}, folder, rank))
        process.start()
        processes.append(process)
    return processes


def run(function, *args, world=1, folder, seconds=300):
    """Run `function(*args)` in `world` processes to their end; fails with their output unless all exit with 0."""
    processes = start(function, *args, world=world, folder=folder)
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
    logs = "\n".join((folder / f"rank{i}.log").read_text()[-3000:] for i in range(world))
    assert codes == [0] * world, f"exit codes {codes}\n{logs}"


def _child(function, args, described, folder, rank):
    log = os.open(folder / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    os.environ.update({name: str(value) for name, value in described.items()})
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        function(*args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    distributed.stop()


def forked(function, *args, log):
    """Run `function(*args)` in a fork of this process, which must have one thread; (pid) is given to wait for."""
    pid = os.fork()
    if pid:
        return pid
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 0
    try:
        function(*args)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def ended(pid, seconds=None):
    """Wait for a forked process, killing it after `seconds`; its exit code, or minus the signal's number."""
    until = time.monotonic() + (seconds if seconds is not None else 1e9)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.005)


def build(model, settings):
    """(config, loaders, untrained model) as the recipe makes them."""
    from recbole.utils import get_model, init_seed

    from recbole_llm.evaluation.preparation import prepare_data
    from recbole_llm.results.provenance import code_hash

    code_hash(True)  # read once here, and known to every fork
    config = LLMConfig(model, "tiny", config_dict=settings)
    init_seed(config["seed"], True)
    data = prepare_data(config)
    init_seed(config["seed"], True)
    return config, data, get_model(model)(config, data[1]._dataset)


def weights_of(model):
    """Copies of the weights that training changes, by name."""
    return {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}


def train(built, checkpoint_dir, out=None, resume=None, **settings):
    """Fit and test a built model; its numbers and weights go to `out`."""
    config, data, model = built
    config["checkpoint_dir"], config["resume"] = str(checkpoint_dir), resume
    for key, value in settings.items():
        config[key] = value
    fitted = trainer.LLMTrainer(config, model)
    fitted.tensorboard = NoWriter()
    score, result = fitted.fit(data[1], data[2], show_progress=False)
    last = weights_of(model)
    test = fitted.evaluate(data[3])
    if out is not None:
        report(out, score, result, test, fitted, last)
    return fitted


def report(out, score, result, test, fitted, last):
    from safetensors.torch import save_file

    weights = {f"last.{n}": w for n, w in last.items()}
    weights |= {f"best.{n}": w.contiguous() for n, w in weights_of(fitted.model).items()}
    save_file(weights, f"{out}.safetensors")
    ranks = fitted.eval_collector.rows().rank.tolist()
    losses = {str(k): v for k, v in fitted.train_loss_dict.items()}
    record = {"score": score, "valid": dict(result), "test": dict(test), "ranks": ranks, "losses": losses}
    Path(f"{out}.json").write_text(json.dumps({**record, "step": fitted.position.step}))




"""Several processes as one run: where this process stands, who goes first, what all of them hold, how they start.

``torchrun``, ``accelerate launch`` and ``--nproc`` all describe the run by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT; :func:`start` reads them, once. RecBole's own distributed mode (``local_rank`` in the config, NCCL only, metrics
averaged over uneven shares) stays off: for RecBole every process is a single one.

Waiting and gathering go through a gloo group of their own with a long time limit, since the main process may train a
CRM for an hour while the others wait; a process that dies still breaks its connections, and so the wait, at once.
Accelerate's gathers take no group: they would wait on NCCL, and no longer than its time limit.
"""

import logging
import os
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

PATIENCE = timedelta(hours=24)
GRACE = 5  # seconds that processes have to end by themselves
_host = None  # the gloo group for waiting and gathering


def rank():
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size():
    """Number of processes."""
    joined = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if joined else int(os.environ.get("WORLD_SIZE", 1))


def local_rank():
    """Number of this process on its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def sharded():
    """Whether ``accelerate launch`` asks for FSDP: a model is then too large for one device, and stays off it until then."""
    return world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


def is_main():
    """Whether this process writes the files."""
    return rank() == 0


def place(final):
    """Fill in the device keys of one process of several, instead of RecBole; False in a single process.

    RecBole's own way hides every GPU but ``gpu_id`` from all processes. Here process i of a machine takes its i-th GPU
    (none with ``gpu_id=''``), and all but the main one are silent.

    Args:
        final: the configuration's values; changed in place.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    if world_size() == 1:
        return False
    gpus = torch.cuda.device_count() if str(final["gpu_id"]) and final.get("use_gpu") is not False else 0
    if 0 < gpus <= local_rank():
        raise ValueError(
            f"process {local_rank()} of this machine has no GPU, there are {gpus}: start fewer processes, or set "
            "gpu_id='' to train on the CPU"
        )
    device = torch.device("cuda", local_rank()) if gpus else torch.device("cpu")
    final.update(gpu_id=str(final["gpu_id"]), single_spec=True, local_rank=0, device=device)
    if not is_main():
        final.update(state="error", show_progress=False, log_wandb=False)
    return True


def start(device="cpu"):
    """Join the run that the environment describes; nothing for a single process, or where that is done.

    Raises:
        RuntimeError: the other processes cannot be reached.
    """
    global _host
    if world_size() == 1:
        return
    if not dist.is_initialized():
        cuda = torch.device(device).type == "cuda"
        if cuda:
            torch.cuda.set_device(local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=30))
    if _host is None:
        _host = dist.new_group(backend="gloo", timeout=PATIENCE)


def stop():
    """Leave the run. Safe to call twice, and in a single process."""
    global _host
    _host = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def wait():
    """Return when every process has come here."""
    if world_size() > 1:
        start()
        dist.barrier(group=_host)


def gather(value):
    """[value of rank 0, value of rank 1, ...] in every process; values are anything that pickles between processes."""
    if world_size() == 1:
        return [value]
    start()
    values = [None] * world_size()
    dist.all_gather_object(values, value, group=_host)
    return values


def broadcast(value):
    """The main process's value, in every process."""
    if world_size() == 1:
        return value
    start()
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_host)
    return box[0]


def total(*values):
    """Sums over all processes, as floats in float64."""
    if world_size() == 1:
        return [float(value) for value in values]
    start()
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums, group=_host)
    return sums.tolist()


@contextmanager
def main_first():
    """The main process runs the block alone, then the others run it: what it left on disk is there for them.

    An error of the main process goes up from there; the others learn of it as its connections close.
    """
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def on_main(function, *args, **kwargs):
    """Run ``function`` in the main process alone; its value, OSError or ValueError comes back in every process."""
    outcome, error = None, None
    if is_main():
        try:
            outcome = function(*args, **kwargs)
        except (OSError, ValueError) as raised:
            error = raised
    outcome, error = broadcast((outcome, error))
    if error is not None:
        raise error
    return outcome


def quiet_others():
    """Keep the log of every process but the main one to errors, on the screen alone."""
    if not is_main():
        logging.basicConfig(level=logging.ERROR, format=f"rank {rank()}: %(levelname)s %(message)s")


def launch(function, args, nproc, ip="localhost", port="5678", total_processes=-1, offset=0, method="spawn"):
    """Run ``function(*args)`` in processes of this machine.

    Args:
        function: importable by name; each process imports this package, so that RecBole knows the plugin's models.
        args: its arguments.
        nproc: processes of this machine.
        ip: address of the machine of rank 0.
        port: a free port there.
        total_processes: of all machines; -1: ``nproc``.
        offset: the first rank of this machine.
        method: of multiprocessing; ``spawn`` is the one that CUDA allows.

    Raises:
        ValueError: ranks that do not lie below the number of processes.
        torch.multiprocessing.ProcessRaisedException: with the traceback of the first process that fails, or
            ProcessExitedException; the others are ended first.
    """
    world = nproc if total_processes == -1 else total_processes
    if nproc < 1 or offset < 0 or offset + nproc > world:
        raise ValueError(
            f"nproc={nproc}, group_offset={offset} and world_size={world}: ranks {offset} to {offset + nproc - 1} must "
            "lie below world_size; give the number of processes of all machines"
        )
    described = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": nproc, "MASTER_ADDR": ip, "MASTER_PORT": port}
    context = torch.multiprocessing.start_processes(
        _process, (function, tuple(args), described, offset), nprocs=nproc, join=False, start_method=method
    )
    try:
        while not context.join(grace_period=GRACE):
            pass
    except KeyboardInterrupt:  # a signal to this process alone leaves the others at work; a terminal's Ctrl-C reaches all
        end = time.monotonic() + GRACE
        for process in context.processes:
            process.join(max(0, end - time.monotonic()))
            process.terminate()
        raise


def _process(local, function, args, described, offset):
    """One process of :func:`launch`."""
    os.environ.update({name: str(value) for name, value in described.items()})
    os.environ.update({"RANK": str(local + offset), "LOCAL_RANK": str(local)})
    try:
        function(*args)
    except Exception:  # of Ctrl-C the parent says, and of an exit the command has said
        traceback.print_exc()  # each process says what befell it; the parent shows only the first that ended
        raise
    stop()

"""The command line of `run_recbole_llm.py` and of `recbole-llm run`: one run, several processes, or a leaderboard."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from logging import getLogger

from recbole_llm.cli.arguments import parse_command_line, refuse_unread
from recbole_llm.cli.leaderboard import is_leaderboard, run_command_line
from recbole_llm.config.values import ConfigError
from recbole_llm.quick_start import run_recbole_llm
from recbole_llm.runtime import distributed

PROCESSES = ("nproc", "ip", "port", "world_size", "group_offset")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code. A bad setting or bad data is a message, not a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse_command_line(arguments)
        if options.nproc > 1 or options.world_size > 1:
            if "RANK" not in os.environ:  # neither torchrun nor accelerate started this process
                return _launch(options, arguments)
        if is_leaderboard(options):
            if distributed.world_size() > 1:
                raise ValueError("several models are compared in one process: train each by several processes first, "
                                 "then compare, which reads their result files")  # fmt: skip
            return run_command_line(options)
        refuse_unread(options, "a run of one model", PROCESSES)
        run_recbole_llm(options.model, options.dataset, options.config_files, None, options.options)
        distributed.stop()  # gloo's threads must have ended when the interpreter does, or it may abort
    except (ConfigError, ValueError, FileNotFoundError, FloatingPointError, ImportError, OSError) as error:
        getLogger().debug("", exc_info=True)
        if distributed.world_size() > 1:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        logging.shutdown()
    return 0


def _launch(options, arguments, method: str = "spawn") -> int:
    """``--nproc`` processes of this machine, each of them the command itself; the exit code of the first that fails."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    places = (options.ip, options.port, options.world_size, options.group_offset, method)
    try:
        distributed.launch(_process, (arguments,), options.nproc, *places)
    except (ProcessExitedException, ProcessRaisedException) as error:
        print(f"error: {error}\nthe other processes were ended; go on with --resume=auto", file=sys.stderr)
        return getattr(error, "exit_code", None) or 1
    return 0


def _process(arguments) -> None:
    """One process of `_launch`."""
    if code := main(arguments):
        sys.exit(code)

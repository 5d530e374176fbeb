"""The command line of `run_recbole_llm.py` and of `recbole-llm run`: one run, several processes, or a leaderboard."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from logging import getLogger

from recbole_llm.cli import STOPPED
from recbole_llm.cli.arguments import parse_command_line, refuse_unread
from recbole_llm.cli.leaderboard import is_leaderboard, run_command_line
from recbole_llm.config.values import ConfigError
from recbole_llm.quick_start import run_recbole_llm
from recbole_llm.runtime import distributed

PROCESSES = ("nproc", "ip", "port", "world_size", "group_offset")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code. A bad setting, bad data or Ctrl-C is a message, not a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        if distributed.is_main():
            print(f"stopped; {_how_to_go_on(arguments)}", file=sys.stderr)
        return STOPPED


def _how_to_go_on(arguments) -> str:
    """What the same command does when it is given again."""
    line = parse_command_line(arguments)
    checkpoint = "an LLM recommender's last checkpoint, if one was written (save_steps)"
    if is_leaderboard(line):
        without = "without --rerun " if line.rerun else ""
        return f"{without}the same command goes on with the rows that have no result yet; with --resume=auto, within a row from {checkpoint}"
    if line.options.get("resume") == "auto":
        return f"the same command goes on from {checkpoint}"
    return f"the same command begins as it did; with --resume=auto it goes on from {checkpoint}"


def _run(arguments) -> int:
    """`main`, with Ctrl-C left to the caller."""
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
        code = getattr(error, "exit_code", None) or 1
        remedy = "" if code == 2 else "; go on with --resume=auto"  # 2: a bad setting or bad data
        print(f"error: {error}\nthe other processes were ended{remedy}", file=sys.stderr)
        return code
    return 0


def _process(arguments) -> None:
    """One process of `_launch`, which alone says what Ctrl-C means."""
    if code := _run(arguments):
        sys.exit(code)

"""The command line of `run_recbole_llm.py`, read as RecBole's `run_recbole.py` reads its own.

    -m/--model NAME  -d/--dataset NAME  --config_files "a.yaml b.yaml"  --nproc N  --ip  --port  --world_size
    --group_offset  those of leaderboards (--seeds --leaderboard --rerun --reference --metric --resamples --tune), and any
    setting as --key=value

RecBole calls `eval` on values and drops those that hold "="; here a value is a Python literal, true/false/null, a YAML
list or mapping such as [q_proj, v_proj], or else a string, and only the first "=" separates.
"""

import argparse
from dataclasses import dataclass, field

from recbole_llm.config.values import ConfigError, flow, parse_value


@dataclass
class CommandLine:
    """A parsed command line; `options` are the --key=value settings, the highest layer of the configuration."""

    model: str | None
    dataset: str | None
    config_files: list
    nproc: int
    ip: str
    port: str
    world_size: int
    group_offset: int
    seeds: int | list | None = None
    leaderboard: str | None = None
    rerun: bool = False
    reference: str | None = None
    metric: str | None = None
    resamples: int | None = None
    tune: str | None = None
    options: dict = field(default_factory=dict)


def parse_command_line(argv):
    """Parse `argv` (without the script's name) into a `CommandLine`.

    It exits with argparse's message for -h and for a wrong --nproc and the like.

    Raises:
        ConfigError: arguments that are not --key=value, or settings given twice with two values; lists them all.
    """
    known, rest = _parser().parse_known_args(argv)
    options = parse_settings(rest)
    values = vars(known) | {"config_files": (known.config_files or "").split()}
    if known.seeds is not None:  # "3" is a number of seeds, "1,2,3" and "[1, 2, 3]" are the seeds
        values["seeds"] = parse_value(known.seeds) if "," not in known.seeds else flow(f"[{known.seeds.strip('[]')}]")
    return CommandLine(**values, options=options)


def refuse_unread(line, command: str, read=()):
    """Refuse flags that a command does not read, so that none is given in vain.

    Args:
        line: a parsed command line.
        command: what reads it, for the message.
        read: the flags that it does read, besides --model, --dataset, --config_files and settings.

    Raises:
        ConfigError: lists them all.
    """
    flags = vars(_parser().parse_args([]))
    read = {"model", "dataset", "config_files", *read}
    if wrong := [name for name, default in flags.items() if name not in read and getattr(line, name) != default]:
        raise ConfigError([f"--{name}: {command} does not read it; remove it" for name in wrong])


def parse_settings(arguments):
    """{key: value} of arguments --key=value.

    Raises:
        ConfigError: arguments that are none, or keys given twice with two values; lists them all.
    """
    options, problems = {}, []
    for argument in arguments:
        argument = "--offline=True" if argument == "--offline" else argument
        key, separator, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not separator or not key.replace("-", "_").isidentifier():
            problems.append(f"{argument}: settings are written --key=value, e.g. --epochs=3")
        elif key in options and options[key] != parse_value(text, key):
            problems.append(f"{key}: given twice, as {options[key]!r} and {text!r}; keep one")
        else:
            options[key] = parse_value(text, key)
    if problems:
        raise ConfigError(problems)
    return options


def _parser():
    parser = argparse.ArgumentParser(
        prog="run_recbole_llm.py",
        usage="%(prog)s --model=NAME --dataset=NAME [--key=value ...]",
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=27),
        epilog="Recommenders of RecBole and of the plugin, on the same candidate sets. --offline: download nothing. --key=value: any other "
        "setting. Command line > files of --config_files > properties/ > RecBole.",
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("-m", "--model", metavar="NAME", help="a model: iLoRA, LLaRA, SASRec ...")
    parser.add_argument("-d", "--dataset", metavar="NAME", help="a dataset: ml-100k ...")
    board = parser.add_argument_group("leaderboards: several models, datasets, protocols or seeds, separated by commas")
    board.add_argument("--seeds", metavar="N", help="3: three seeds; 1,2,3: these seeds")
    board.add_argument("--leaderboard", metavar="YAML", help="models, variants: properties/leaderboard/*.yaml")
    board.add_argument("--rerun", action="store_true", help="run again what is already on disk")
    board.add_argument("--reference", metavar="ROW", help="the row that all others are compared with")
    board.add_argument("--metric", metavar="NAME", help="what ranks the rows, e.g. hit@1")
    board.add_argument("--resamples", metavar="N", type=int, help="bootstrap resamples (10000)")
    board.add_argument("--tune", metavar="YAML", help="a search space: tune every row on validation first")
    parser.add_argument("--config_files", metavar="FILES", help='YAML files, separated by spaces: "a.yaml b.yaml"')
    parser.add_argument("--nproc", metavar="N", type=int, default=1, help="processes on this machine")
    parser.add_argument("--ip", default="localhost", help="address of the first machine")
    parser.add_argument("--port", default="5678", help="port of the first machine")
    parser.add_argument("--world_size", metavar="N", type=int, default=-1, help="processes on all machines; -1: nproc")
    parser.add_argument("--group_offset", metavar="N", type=int, default=0, help="rank of this machine's first process")
    return parser

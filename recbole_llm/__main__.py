"""The command recbole-llm, or python -m recbole_llm: one of its commands, each a module with ``main(arguments) -> exit code``."""

from __future__ import annotations

import sys
from importlib import import_module

# command -> (module with `main`, whether it takes the command's name as its first argument, what it does)
COMMANDS = {
    "run": ("recbole_llm.quick_start", False, "train and test models: --model=iLoRA --dataset=ml-100k [--key=value ...]; run may be left out"),
    "compare": ("recbole_llm.leaderboard.__main__", True, "A.json B.json: two result files, row by row"),
    "recommend": ("recbole_llm.recommend_command", False, "RUN --user=ID --k=10: the best items of users or of histories typed by hand"),
    "data": ("recbole_llm.data.__main__", False, "check NAME: what a dataset holds and what a run makes of it; convert NAME"),
    "analysis": ("recbole_llm.analysis.__main__", False, "NAME --dataset=ml-100k: a figure of the papers (experts, gradients, gate, shots ...)"),
    "reproduce": ("recbole_llm.reproduce", False, "PAPER --dataset=lastfm-llara: a paper's main table beside its published numbers"),
    "report": ("recbole_llm.leaderboard.__main__", True, "FOLDER: the leaderboards of a folder of result files"),
    "completion": ("recbole_llm.completion", False, "a script that completes these commands in bash and zsh"),
}


def main(arguments: list[str] | None = None) -> int:
    """Hand the rest of the command line to a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0].startswith("-"):  # recbole-llm --model=... --dataset=...
        arguments = ["run", *arguments]
    if arguments[0] not in COMMANDS:
        print(f"error: {arguments[0]!r} is no command; choose {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, named, _ = COMMANDS[arguments[0]]
    return import_module(module).main(arguments if named else arguments[1:])


def help_text() -> str:
    """What --help prints."""
    commands = "\n".join(f"  {name:<12}{what}" for name, (_, _, what) in COMMANDS.items())
    return f"recbole-llm COMMAND ...   (or python -m recbole_llm COMMAND ...)\n\n{commands}\n\nrecbole-llm COMMAND --help tells the rest."


if __name__ == "__main__":
    sys.exit(main())

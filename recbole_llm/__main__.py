"""The command recbole-llm, or python -m recbole_llm: one of its commands, each a module with ``main(arguments) -> exit code``."""

from __future__ import annotations

import sys
from importlib import import_module

from recbole_llm.cli import COMMANDS, STOPPED


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
    try:
        return import_module(module).main(arguments if named else arguments[1:])
    except KeyboardInterrupt:  # of `run`, its own module says how to go on
        print("stopped", file=sys.stderr)
        return STOPPED


def help_text() -> str:
    """What --help prints."""
    commands = "\n".join(f"  {name:<12}{what}" for name, (_, _, what) in COMMANDS.items())
    return f"recbole-llm COMMAND ...   (or python -m recbole_llm COMMAND ...)\n\n{commands}\n\nrecbole-llm COMMAND --help tells the rest."


if __name__ == "__main__":
    sys.exit(main())

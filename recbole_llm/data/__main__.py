"""recbole-llm data COMMAND ...   (or python -m recbole_llm.data COMMAND ...)

  check NAME    what a dataset holds and what a run makes of it: counts, lengths, titles, rows, candidates, a prompt
  convert NAME  from published files to RecBole's atomic files

recbole-llm data COMMAND --help tells the rest.
"""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {"check": "recbole_llm.cli.check_data", "convert": "recbole_llm.data.convert.__main__"}


def main(arguments: list[str] | None = None) -> int:
    """Hand the rest of the command line to a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"error: {arguments[0]!r} is no command of data; choose {' or '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return import_module(COMMANDS[arguments[0]]).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())

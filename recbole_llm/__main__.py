"""recbole-llm COMMAND ...   (or python -m recbole_llm COMMAND ...)

  run        train and test models: --model=iLoRA --dataset=ml-100k [--key=value ...]; run itself may be left out
  recommend  RUN --user=ID --k=10: the best items of users or of histories typed by hand
  compare    A.json B.json: two result files, row by row
  analysis   NAME --dataset=ml-100k: a figure of the papers (experts, gradients, gate, shots ...)
  reproduce  PAPER --dataset=lastfm-llara: a paper's main table beside its published numbers
  report     FOLDER: the leaderboards of a folder of result files

recbole-llm COMMAND --help tells the rest.
"""

from __future__ import annotations

import sys
from importlib import import_module

# command -> (module with `main`, whether it takes the command's name as its first argument)
COMMANDS = {
    "run": ("recbole_llm.quick_start", False),
    "recommend": ("recbole_llm.recommend_command", False),
    "analysis": ("recbole_llm.analysis.__main__", False),
    "reproduce": ("recbole_llm.reproduce", False),
    "compare": ("recbole_llm.leaderboard.__main__", True),
    "report": ("recbole_llm.leaderboard.__main__", True),
}


def main(arguments: list[str] | None = None) -> int:
    """Hand the rest of the command line to a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    if arguments[0].startswith("-"):  # recbole-llm --model=... --dataset=...
        arguments = ["run", *arguments]
    if arguments[0] not in COMMANDS:
        print(f"error: {arguments[0]!r} is no command; choose {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, named = COMMANDS[arguments[0]]
    return import_module(module).main(arguments if named else arguments[1:])


if __name__ == "__main__":
    sys.exit(main())

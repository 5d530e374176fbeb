"""recbole-llm completion prints a script that completes the command in bash, and in zsh after `autoload bashcompinit; bashcompinit`.

    recbole-llm completion > ~/.local/share/bash-completion/completions/recbole-llm

The script is static: the commands and options of this version, models, datasets and settings that properties/ names.
"""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress

_SCRIPT = """\
# bash completion of recbole-llm, made by `recbole-llm completion`
_recbole_llm() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" key="" words="" command="${{COMP_WORDS[1]}}"
    if [[ $word == "=" ]]; then key="${{COMP_WORDS[COMP_CWORD-1]}}" word=""
    elif [[ ${{COMP_WORDS[COMP_CWORD-1]}} == "=" ]]; then key="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    if [[ $COMP_CWORD -gt 2 && $command == data ]]; then command="data ${{COMP_WORDS[2]}}"; fi
    case "$key" in
        --model) words="{models}" ;;
        --dataset) words="{datasets}" ;;
        --*) COMPREPLY=($(compgen -f -- "$word")); return ;;
        *) if [[ $COMP_CWORD -eq 1 ]]; then words="{commands}"; else case "$command" in
{cases}
            esac; fi ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ $word != -* && $COMP_CWORD -gt 1 && -z $key ]] && COMPREPLY+=($(compgen -f -- "$word"))
    [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}}
complete -F _recbole_llm recbole-llm
"""


def options_of(main, arguments: list[str]) -> list[str]:
    """The options that the --help of a command names, those that take a value with "=" behind them."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text), suppress(SystemExit):
        main([*arguments, "--help"])
    found = re.findall(r"(?<![\w-])(--[a-z][\w-]*)([ =][A-Z{])?", text.getvalue())
    valued = {name for name, value in found if value}
    return sorted({name + ("=" if name in valued else "") for name, _ in found if name != "--key"})


def script() -> str:
    """The completion script."""
    from recbole_llm import __main__, registry
    from recbole_llm.cli import COMMANDS
    from recbole_llm.config.known_keys import known_keys, model_keys
    from recbole_llm.config.properties import properties_dir

    models = [name for group in registry.available_models() for name in group]
    datasets = sorted(file.stem for file in properties_dir().glob("dataset/*.yaml"))
    settings = [f"--{key}=" for key in sorted(known_keys("iLoRA", "ml-100k").union(*model_keys().values()))]
    ways = [[name] for name in COMMANDS] + [["data", "check"], ["data", "convert"]]
    cases = []
    for way in ways:
        words = {*options_of(__main__.main, way), *(settings if way[-1] in ("run", "check") else ())}
        if way == ["data"]:
            words = {"check", "convert"}
        elif way[0] == "data":
            words |= {*datasets}
        cases.append(f'            "{" ".join(way)}") words="{" ".join(sorted(words))}" ;;')
    return _SCRIPT.format(models=" ".join(models), datasets=" ".join(datasets), commands=" ".join(COMMANDS), cases="\n".join(cases))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        print(__doc__.strip())
        return 0
    print(script(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""recommend RUN --user=196 --k=10               the best items of a user
recommend RUN --history="Heat | 50"           of a new user, oldest item first
recommend RUN --users=ids.txt --out=a.csv     of many users, one id per line

Places and sizes are set as --key=value, e.g. --data_path=DIR.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tabulate import tabulate

from recbole_llm.cli.arguments import parse_settings
from recbole_llm.config.known_keys import known_keys, unknown_problems
from recbole_llm.config.values import ConfigError
from recbole_llm.registry import available_models
from recbole_llm.runtime.files import whole_file, write_text


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    options, rest = _parser().parse_known_args(arguments)
    try:
        settings = {"show_progress": False, "state": "WARNING", **_settings(rest)}
        if options.k is not None and options.k < 1:
            raise ValueError(f"--k={options.k}: must be at least 1, the items that each list has")
        if options.out and not Path(options.out).resolve().parent.is_dir():
            raise ValueError(f"--out={options.out}: no such folder; make it, or name another")
        users = _named_users(options.user) + _read_users(options.users)
        asked = {
            "users": users, "history": _items(options.history), "k": options.k, "until": options.until,
            "candidates": _items(options.candidates), "exclude": _items(options.exclude) or (),
        }  # fmt: skip
        _run(options, asked, settings)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        logging.getLogger().debug("", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _settings(rest: list[str]) -> dict:
    """Settings --key=value.

    Raises:
        ConfigError: a key that is no setting of any LLM recommender; the options of this command are among what it may have meant.
    """
    settings = parse_settings(rest)
    known = set().union(*(known_keys(model, "") for model in available_models()[0]))
    own = {flag.removeprefix("--") for flag in _parser()._option_string_actions}
    if problems := unknown_problems(settings, known | own):
        raise ConfigError(problems)
    return settings


def _run(options, asked: dict, settings: dict) -> None:
    from recbole_llm.data.item_names import UnknownNameError
    from recbole_llm.recommend.recommender import load

    recommender = load(options.run, options.trust_remote_code, **settings)
    try:
        found = recommender.explain(**asked) if options.explain else recommender.recommend(**asked)
    except UnknownNameError as error:
        raise UnknownNameError("; ".join([str(error), *_separated(options)])) from None
    if options.explain:
        if options.out:
            write_text(options.out, found + "\n")
        print(f"written to {options.out}" if options.out else found)
        return
    if options.out:
        with whole_file(options.out) as aside:
            found.to_csv(aside, index=False)
        print(f"{len(found)} rows in {options.out}")
        return
    for user, rows in found.groupby("user", sort=False):
        shown = rows.drop(columns="user").astype(object).where(rows.drop(columns="user").notna(), "")
        print(f"\n{user}\n{tabulate(shown, headers='keys', showindex=False, disable_numparse=False)}")


def _separated(options) -> list[str]:
    """Which options were taken apart at their separators, and how a name that holds one is written."""
    told = ["--user is separated by commas: write an id that holds one to a file, --users=FILE"] if any("," in text for text in options.user) else []
    told += [
        f"--{name} is separated by |: name an item whose title holds one by its id"
        for name in ("history", "candidates", "exclude")
        if any("|" in text for text in getattr(options, name))
    ]
    return told


def _items(given: list[str]) -> list[str] | None:
    """Items of a repeatable option, separated by | since titles hold commas; None where it is not given."""
    return [name.strip() for text in given for name in text.split("|") if name.strip()] if given else None


def _named_users(given: list[str]) -> list[str]:
    users = [user.strip() for text in given for user in text.split(",") if user.strip()]
    if given and not users:
        raise ValueError("--user: names no user; write --user=ID, several ids separated by commas")
    return users


def _read_users(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"--users={file}: no such file; name a text file with one id per line, or users by --user=ID") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"--users={file}: byte {error.start} is not UTF-8 text; save the file as UTF-8, one id per line") from None
    users = [line.strip() for line in text.splitlines() if line.strip()]
    if not users:
        raise ValueError(f"--users={file}: the file names no user; write one id per line")
    return users


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recbole-llm recommend", usage="%(prog)s RUN [options] [--key=value ...]", description=__doc__,
                                     allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", metavar="RUN", help="a result file (.json) or a folder under checkpoint_dir")
    parser.add_argument("--user", metavar="ID", action="append", default=[], help="a user; several: repeat it, or separate by commas")
    parser.add_argument("--users", metavar="FILE", help="a file with one id per line")
    parser.add_argument("--history", action="append", default=[], metavar="ITEMS", help="a new user's ids or titles, separated by |")
    parser.add_argument("--k", type=int, help="items for each (10)")
    parser.add_argument("--candidates", action="append", default=[], metavar="ITEMS", help="rank these, separated by |")
    parser.add_argument("--exclude", action="append", default=[], metavar="ITEMS", help="leave these out, separated by |")
    parser.add_argument("--until", choices=["test"], help="read what came before a test row, as evaluation did")
    parser.add_argument("--explain", action="store_true", help="show prompts, the gate's weights, the scores")
    parser.add_argument("--out", metavar="FILE", help="write a CSV file (--explain: text), no table")
    parser.add_argument("--trust_remote_code", action="store_true", help="let the LLM's repository run its code")
    return parser

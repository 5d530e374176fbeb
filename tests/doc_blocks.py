"""The code blocks of README and docs/: found, and checked each by its language.

Shell commands are parsed by the program's own parser, and settings by building the configuration (a leaderboard's, its plan), so that a key that
is gone or a value that breaks a rule fails; nothing is trained. A marker in the line above a block says what is special:
`<!-- not run: REASON -->`, and for YAML what it is, `<!-- config: NAME -->` or `<!-- leaderboard -->`.
"""

import importlib.util
import pkgutil
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from recbole_llm.__main__ import COMMANDS
from recbole_llm.analysis import __main__ as analysis
from recbole_llm.cli import recommend
from recbole_llm.cli.arguments import parse_command_line, parse_settings
from recbole_llm.cli.leaderboard import is_leaderboard
from recbole_llm.config.known_keys import known_keys
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import properties_dir
from recbole_llm.data.convert.__main__ import _parser as convert_parser
from recbole_llm.data.convert.sources import source_of
from recbole_llm.leaderboard.__main__ import _parser as leaderboard_parser
from recbole_llm.leaderboard.entries import pick_models
from recbole_llm.leaderboard.plan import make_plan, read_spec
from recbole_llm.leaderboard.published import of_dataset

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"<!--\s*(.*?)\s*-->\s*\Z")
SHOWN = ("text", "mermaid")  # pictures are drawn by the site's build


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its marker ("" without) and its text."""

    place: str
    language: str
    marker: str
    text: str


def pages() -> list[Path]:
    """The pages written by hand."""
    docs = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "leaderboards"]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def blocks_of(text: str, name: str) -> list[Block]:
    """All blocks of a page.

    Raises:
        ValueError: a fence is open at the end, or is none that this finds.
    """
    found = []
    for match in _FENCE.finditer(text):
        marker = _MARKER.search(text[: match.start()])
        line = text[: match.start()].count("\n") + 1
        found.append(Block(f"{name}:{line}", match[1], marker[1] if marker else "", match[2]))
    if text.count("```") != 2 * len(found):
        raise ValueError(f"{name}: {text.count('```')} fences make {len(found)} blocks")
    return found


def lost_names(text: str) -> Iterator[str]:
    """What a page's text names and is not there: modules and their contents, files of this repository, settings written `key: value`."""
    for name in re.findall(r"(?<![\w./])((?:recbole_llm|benchmarks|docs\.tools)(?:\.[A-Za-z_]\w*)+)", text):
        if not _importable(name) and not name.endswith((".py", ".yaml", ".json")):
            yield name
    for name in re.findall(r"(?<![\w./])((?:recbole_llm|tests|benchmarks|docs)/[\w./-]*\w)", text):
        if not (ROOT / name).exists():
            yield name
    packages = {path.stem for path in (ROOT / "recbole_llm").iterdir()}
    for quoted in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)):
        dotted = re.fullmatch(r"(\w+)(?:\.[A-Za-z_]\w*)+", quoted)
        if dotted and dotted[1] in packages and not quoted.endswith((".py", ".yaml", ".json")) and not _importable(f"recbole_llm.{quoted}"):
            yield quoted
        if (key := re.match(r"([a-z_]+): ", quoted)) and key[1] not in _declared():
            yield quoted


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@cache
def _declared() -> frozenset[str]:
    """The settings of every model here, and the keys of an LLM's file."""
    models = sorted(path.stem for path in (ROOT / "properties/model").glob("*.yaml") if path.stem != "PointwiseLLM")
    return frozenset({"models", "llm_source"}.union(*(known_keys(model, "ml-100k") for model in models)))


def check_shell(text: str) -> None:
    """Every command of a shell block.

    Raises:
        ValueError: a command that is not known, an option or a setting that its program does not take.
    """
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    for command in (part for line in lines for part in re.split(r"\s&&\s", line)):
        words = shlex.split(command, comments=True)
        if words:
            check_command(words)


def check_command(words: list[str]) -> None:
    """One command, as `check_shell`."""
    program, rest = Path(words[0]).name, words[1:]
    if program.startswith("python") and rest[:1] == ["-m"]:
        _check_module(rest[1], rest[2:])
    elif program.startswith("python") and rest[:1] == ["run_recbole_llm.py"]:
        check_run(rest[1:])
    elif program == "recbole-llm":
        _check_ours(rest)
    elif program == "pip" and rest[:1] == ["install"]:
        _check_pip(rest[1:])
    elif program == "pytest":
        _check_paths(rest)
    elif program == ".ci/run" or words[0] in (".ci/run", "./.ci/run"):
        _check_paths([".ci/run"])
    elif program not in ("ruff", "mkdocs", ".", "git"):
        raise ValueError(f"{' '.join(words)}: no check knows the command {words[0]}")


def _check_module(module: str, arguments: list[str]) -> None:
    if module in ("venv", "build", "twine"):
        return
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"python -m {module}: no such module")
    if module == "pytest":
        _check_paths(arguments)
    elif module == "recbole_llm.data.convert":
        name = _parsed(convert_parser(), arguments).name
        if source_of(name) is None:
            raise ValueError(f"convert {name}: no such dataset")
    elif module == "recbole_llm.analysis":
        _check_analysis(arguments)
    elif module == "recbole_llm.reproduce":
        _check_reproduction(arguments)
    elif module == "recbole_llm":
        _check_ours(arguments)
    elif module == "recbole_llm.leaderboard":
        _parsed(leaderboard_parser(), arguments)


def _check_analysis(words: list[str]) -> None:
    name, *rest = words
    if name not in analysis.NAMES:
        raise ValueError(f"analysis {name}: no such analysis")
    own = analysis._module(name).OPTIONS
    analysis.parse_request(rest, own)
    models = [] if any(word.startswith("--model=") for word in rest) else [f"--model={analysis._module(name).MODELS[0]}"]
    check_run([*models, *(word for word in rest if word.removeprefix("--").partition("=")[0] not in own)])


def _check_reproduction(words: list[str]) -> None:
    paper, *rest = words
    known = {path.stem.partition("-")[0] for path in (properties_dir() / "recipe").glob("*.yaml")}
    if paper not in known:
        raise ValueError(f"reproduce {paper}: no such paper")
    (dataset,) = [word.partition("=")[2] for word in rest if word.startswith("--dataset=")]
    if not (of_dataset("ranking", dataset) or of_dataset("click", dataset)):
        raise ValueError(f"reproduce {paper} {dataset}: nothing is published for this dataset")


def _check_ours(words: list[str]) -> None:
    if words[0] not in COMMANDS:
        raise ValueError(f"recbole-llm {words[0]}: no such command")
    if words[0] == "run":
        check_run(words[1:])
    elif words[0] == "recommend":
        _, rest = recommend._parser().parse_known_args(words[1:])
        parse_settings(rest)
        if unknown := [word for word in rest if word.partition("=")[0].removeprefix("--") not in _settable()]:
            raise ValueError(f"recbole-llm recommend: {unknown[0]} is no option and no setting")
    else:
        _parsed(leaderboard_parser(), words)


def _settable() -> frozenset[str]:
    from recbole_llm.config.known_keys import known_keys, model_keys

    return frozenset(known_keys("iLoRA", "ml-100k").union(*model_keys().values()))


def _parsed(parser, arguments: list[str]):
    try:
        return parser.parse_args(arguments)
    except SystemExit:
        raise ValueError(f"{parser.prog} does not take {' '.join(arguments)}") from None


def _check_pip(words: list[str]) -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        if missing := [name for name in extra.split(",") if f'"{name}": [' not in setup]:
            raise ValueError(f"pip install ...[{extra}]: setup.py has no extra {missing[0]}")


def _check_paths(words: list[str]) -> None:
    for word in words:
        if "/" in word and not (ROOT / word.partition("::")[0]).exists():
            raise ValueError(f"{word} does not exist")


def check_run(arguments: list[str]) -> None:
    """The settings of `run_recbole_llm.py`: a run's configuration, or a leaderboard's plan.

    Raises:
        ValueError: as the command itself would, before anything is trained.
    """
    _check_run(tuple(arguments))


@cache
def _check_run(arguments: tuple[str, ...]) -> None:
    """`check_run`, once for a command that stands on several pages."""
    line = parse_command_line(arguments)
    if not is_leaderboard(line):
        LLMConfig(line.model, line.dataset, line.config_files, None, line.options)
        return
    spec = read_spec(ROOT / line.leaderboard) if line.leaderboard else {}
    plan(spec, line.model, line.dataset, line.options)
    _check_paths([word for word in (line.tune,) if word])


def plan(spec: dict, models: str | None = None, datasets: str | None = None, options: dict | None = None) -> list:
    """The runs of a leaderboard's YAML with one seed, each with a checked configuration."""
    options = dict(options or {})
    chosen = pick_models(spec.get("models"), models) if models else spec.get("models")
    protocols = options.pop("protocol", None) or spec.get("protocols")
    shared = {**(spec.get("settings") or {}), **options}
    return make_plan(chosen, datasets or spec.get("datasets"), protocols, 1, shared, spec.get("llm"), spec.get("baselines"))


def check_yaml(block: Block, folder: Path) -> None:
    """A YAML block by its marker.

    Raises:
        ValueError: there is no marker, a key is unknown, or a value breaks a rule.
    """
    kind = block.marker.partition(":")[0]
    file = folder / "block.yaml"
    if kind == "leaderboard":
        file.write_text(block.text, encoding="utf-8")
        plan(read_spec(file))
    elif kind == "config":
        values = yaml.safe_load(block.text)
        source = values.pop("llm_source", None)
        if source is not None and set(source) not in ({"hub"}, {"distribution", "file", "sha256"}):
            raise ValueError(f"{block.place}: llm_source holds {sorted(source)}")
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        LLMConfig("iLoRA", "made-up", [str(file)])
    else:
        raise ValueError(f"{block.place}: a YAML block needs a marker, <!-- config: NAME --> or <!-- leaderboard -->")

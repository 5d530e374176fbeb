"""What docstrings say otherwise than in Google's format: lists of arguments as numpydoc or prose writes them, errors in prose."""

import ast
import re
from collections.abc import Iterator

SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line of the definition, line of its docstring) of each fault in a module."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)):
            for line in faults_of((ast.get_docstring(node) or "").splitlines(), *names_of(node)):
                yield getattr(node, "lineno", 1), line


def names_of(node) -> tuple[set[str], bool]:
    """(parameters and fields of a definition, whether these are all)."""
    if isinstance(node, FUNCTIONS):
        return parameters(node), True
    inits = [one for one in getattr(node, "body", ()) if isinstance(one, FUNCTIONS) and one.name == "__init__"]
    fields = {one.target.id for one in getattr(node, "body", ()) if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    return fields.union(*map(parameters, inits)), bool(inits)


def parameters(function) -> set[str]:
    every = function.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
    return {one.arg for one in named if one is not None}


def faults_of(lines: list[str], own: set[str], complete: bool) -> Iterator[str]:
    section = None
    for line in lines:
        if line.strip() in SECTIONS and not line.startswith(" "):
            section = line
            continue
        if line and not line.startswith(" "):
            section = None
        entry = re.match(r" {4}\*{0,2}(\w+(?:, \w+)*): ", line) if section in ("Args:", "Attributes:") else None
        listed = re.match(r"\s*(\w+)(?:, \w+)*: ", line) if section is None else None
        also = [name for name in re.findall(r"[.;] (?:\w+, )*(\w+): ", line) if name in own]
        numpydoc = re.match(r"\s*[\w*`]+(?:, [\w*`]+)* : ", line) or re.fullmatch(r"\s*-{4,}", line)
        prose = re.search(r"^\s*Raises [A-Z]|; [A-Z]\w+Error (if|for|where|lists?|nam(es|ing))\b", line)
        if (
            numpydoc or prose or also
            or (listed and listed[1] in own)
            or (entry and "," in entry[1])
            or (entry and complete and section == "Args:" and entry[1] not in own)
        ):  # fmt: skip
            yield line

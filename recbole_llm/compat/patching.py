"""How RecBole's code is changed while it is loaded, for the one version whose source is known."""

import ast
import inspect
import sys
import textwrap
import types
from importlib import metadata

RECBOLE_VERSION = "1.2.1"


def check_version():
    """Refuse any RecBole but 1.2.1.

    Raises:
        ImportError: it is missing or has another version; says how to install it.
    """
    remedy = f"pip install --no-deps recbole=={RECBOLE_VERSION}"
    try:
        found = metadata.version("recbole")
    except metadata.PackageNotFoundError:
        raise ImportError(f"recbole_llm needs RecBole, which is not installed. Run: {remedy}") from None
    if found != RECBOLE_VERSION:
        raise ImportError(f"recbole_llm supports recbole=={RECBOLE_VERSION} alone, found {found}. Run: {remedy}")


def rewrite(owner, name, *changes):
    """Replace strings in the source of RecBole's own function `owner.name` and compile it again in its module.

    Args:
        owner: class or module.
        name: the function's name in it.
        changes: (old, new, number of occurrences expected), each within one line, so that line numbers in tracebacks stay
            right.

    Returns:
        (original, replacement)

    Raises:
        RuntimeError: the source is another than the released one.
    """
    original = vars(owner)[name]
    function = inspect.unwrap(original)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new, count in changes:
        if source.count(old) != count:
            raise RuntimeError(
                f"{function.__module__}.{function.__qualname__} holds {old!r} {source.count(old)} times, not {count}: "
                f"this is not the released RecBole {RECBOLE_VERSION}. Reinstall it: "
                f"pip install --force-reinstall --no-deps recbole=={RECBOLE_VERSION}"
            )
        source = source.replace(old, new)
    tree = ast.increment_lineno(ast.parse(source), function.__code__.co_firstlineno - 1)
    namespace = {}
    exec(compile(tree, inspect.getsourcefile(function), "exec"), function.__globals__, namespace)
    replacement = namespace[name]
    inspect.unwrap(replacement).__qualname__ = function.__qualname__
    setattr(owner, name, replacement)
    return original, replacement


def rebind(original, replacement):
    """Point every name in a loaded RecBole module that is bound to `original` at `replacement`."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "recbole" and isinstance(module, types.ModuleType):
            for name in [name for name, value in vars(module).items() if value is original]:
                setattr(module, name, replacement)

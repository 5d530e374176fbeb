"""What a result was made of, as hashes: code, data, LLM weights. Two runs that agree in these, in their resolved
configuration, their packages' versions and their candidates would give the same numbers.

The code hash reads the syntax trees of the modules that a run goes through, without comments and docstrings: rewording
a comment does not make a stored result stale, changing a line does. RecBole's own models do not pass through prompts,
adapters or LLMs, so those modules do not count for them.
"""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from pathlib import Path

from recbole_llm.config.properties import short_name_file
from recbole_llm.data.fingerprint import fingerprint
from recbole_llm.llm import source as llm_source
from recbole_llm.runtime.files import expanded

PACKAGES = ("recbole_llm", "recbole", "torch", "numpy", "pandas", "scipy")
LLM_PACKAGES = (*PACKAGES, "transformers", "peft")
# What a RecBole model runs through: files, or the beginnings of their names
_BASELINE = (
    "fit.py", "protocols/", "compat/shims/", "data/candidate", "data/fingerprint.py", "data/rows.py", "data/sample.py", "data/interactions.py",
    "data/atomic.py", "data/records.py", "data/loading.py", "data/time_order.py", "data/benchmark.py", "data/filters.py",
    "data/model_kinds.py", "data/click/interactions.py", "data/click/rows.py", "data/click/splits.py", "data/click/timelines.py",
    "crm/rated_din.py", "evaluation/candidate_",
    "evaluation/preparation.py", "evaluation/full_", "evaluation/labelled_rows.py", "evaluation/row_collector.py", "evaluation/click_metrics.py",
)  # fmt: skip
# What a plugin model's numbers do not depend on
_NOT_RUN = ("analysis/", "cli/", "leaderboard/", "results/", "data/convert/", "config/rules.py", "config/checks.py", "config/known_keys.py",
            "quick_start.py",
            "recommend/", "reproduce.py", "version.py", "__main__.py")  # fmt: skip
_WEIGHTS = (".safetensors", ".json", ".model", ".py")  # of an LLM's folder: weights, configuration, tokenizer, its own code
_WORDS = ("merges.txt", "vocab.txt")  # of tokenizers without a tokenizer.json
_WHOLE = 2**26  # files up to this size are hashed whole
_PART, _PARTS = 2**20, 64


@lru_cache(maxsize=2)
def code_hash(plugin: bool) -> str:
    """sha256 of the source that a run of an LLM recommender (``plugin``) or of a RecBole model goes through."""
    root = Path(__file__).resolve().parent.parent
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    names = [name for name in names if (not name.startswith(_NOT_RUN) if plugin else name.startswith(_BASELINE))]
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n{source_hash((root / name).read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()


def source_hash(source: str) -> str:
    """sha256 of a module's syntax tree without docstrings, comments and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def data_hash(config) -> str:
    """sha256 over the dataset's atomic files (titles and features too) and all that its rows and candidates depend on."""
    digest = hashlib.sha256(fingerprint(config).encode())
    for name, sha256 in data_files(config).items():
        if not name.endswith(".inter"):  # the fingerprint has read these
            digest.update(f"{name} {sha256}".encode())
    return digest.hexdigest()


def data_files(config) -> dict[str, str]:
    """sha256 of each of the dataset's atomic files, by name."""
    found = {}
    for path in sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*")):
        if path.suffix in (".inter", ".item", ".user", ".link", ".kg"):
            stat = path.stat()
            found[path.name] = _file_hash(str(path), stat.st_size, stat.st_mtime_ns)
    return found


def weights_hash(llm_path: str) -> str | None:
    """sha256 of a local LLM's configuration, tokenizer and weights, or of its GGUF file; None for a hub name, which must do.

    Of a file over 64 MiB the size and 64 MiB of it count, spread evenly from the first to the last: hashing 13 GB would take longer
    than reading it.
    """
    gguf = llm_source.gguf_sha256(llm_path)
    if gguf or short_name_file(llm_path):
        return gguf
    folder = expanded(llm_path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not (path.suffix in _WEIGHTS or path.name in _WORDS):
            continue
        stat = path.stat()
        digest.update(f"{path.name} {_file_hash(str(path), stat.st_size, stat.st_mtime_ns)}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for part in range(_PARTS):
            file.seek(part * (size - _PART) // (_PARTS - 1))
            digest.update(file.read(_PART))
        return digest.hexdigest()

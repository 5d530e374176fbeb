"""What an installed copy holds and asks for, and what continuous integration runs."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def setup_py(*arguments):
    subprocess.run([sys.executable, "setup.py", "-q", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree that a wheel would install."""
    folder = tmp_path_factory.mktemp("installed")
    setup_py("build", "--build-base", str(folder / "base"), "--build-lib", str(folder / "lib"))
    return folder / "lib"


@pytest.fixture(scope="module")
def requirements(tmp_path_factory):
    """[(extra or None, Requirement)] of the real metadata."""
    folder = tmp_path_factory.mktemp("metadata")
    setup_py("egg_info", "--egg-base", str(folder))
    lines = (folder / "recbole_llm.egg-info/requires.txt").read_text().splitlines()
    found, extra, marker = [], None, ""
    for line in filter(None, lines):
        if section := re.fullmatch(r"\[(.*?)(?::(.*))?\]", line):
            extra, marker = section[1] or None, section[2] or ""
        else:
            found.append((extra, Requirement(f"{line}; {marker}" if marker else line)))
    return found


def names(requirements, python, extra=None):
    environment = {"python_version": python}
    return {r.name: r for e, r in requirements if e == extra and (not r.marker or r.marker.evaluate(environment))}


def test_properties_and_sources_are_inside(installed):
    package = installed / "recbole_llm"
    for file in ROOT.glob("properties/**/*.yaml"):
        assert (package / "properties" / file.relative_to(ROOT / "properties")).read_bytes() == file.read_bytes()
    ours = {file.relative_to(ROOT) for file in ROOT.glob("recbole_llm/**/*.py")}
    assert ours == {file.relative_to(installed) for file in package.rglob("*.py")}
    assert not (installed / "properties").exists() and not (installed / "tests").exists()


def test_installed_copy_works_from_another_directory(installed, tmp_path):
    code = (
        "import recbole_llm; from recbole_llm.config.properties import properties_dir;"
        "c = recbole_llm.LLMConfig('iLoRA', 'ml-100k');"
        "print(recbole_llm.__file__, properties_dir(), c['n_candidates'], c['item_text_field'], sep='|')"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    file, folder, *values = done.stdout.strip().splitlines()[-1].split("|")
    assert Path(file).is_relative_to(installed) and Path(folder) == installed / "recbole_llm/properties"
    assert values == ["20", "movie_title"]


def test_missing_properties_are_an_error(monkeypatch, tmp_path):
    from recbole_llm.config import properties

    monkeypatch.setattr(properties, "__file__", str(tmp_path / "recbole_llm/config/properties.py"))
    with pytest.raises(FileNotFoundError, match="no properties/overall.yaml"):
        properties.properties_dir.__wrapped__()


def test_recbole_is_left_out_where_pip_cannot_resolve_it(requirements):
    assert str(names(requirements, "3.11")["recbole"].specifier) == "==1.2.1"
    for python in ("3.12", "3.13"):
        assert "recbole" not in names(requirements, python) and "setuptools" in names(requirements, python)


def test_ranges(requirements):
    found = names(requirements, "3.11")
    for name, inside, outside in [
        ("torch", ["2.6.0", "2.13.0"], ["2.5.1", "2.14.0"]),
        ("transformers", ["5.0.0", "5.23.0"], ["4.57.0", "6.0.0"]),
        ("peft", ["0.21.2"], ["0.20.0", "0.22.0"]),
        ("numpy", ["1.26.4", "2.4.6"], []),
        ("pandas", ["2.3.0", "3.1.1"], []),
    ]:
        assert all(found[name].specifier.contains(version) for version in inside), name
        assert not any(found[name].specifier.contains(version) for version in outside), name
    assert "ray" not in found and {"accelerate", "safetensors"} <= found.keys()


def test_recbole_s_own_needs_are_ours(requirements):
    from importlib import metadata

    theirs = [Requirement(line) for line in metadata.requires("recbole") if "extra ==" not in line]
    assert {r.name.lower() for r in theirs} - {"ray"} <= names(requirements, "3.12").keys()


def test_extras(requirements):
    extras = {extra for extra, _ in requirements if extra}
    assert extras == {"test", "quantized", "encoder", "tune", "docs"}
    assert {"pytest", "hypothesis", "ruff"} <= names(requirements, "3.11", "test").keys()


def test_metadata_is_complete_and_agrees_with_the_citation(tmp_path):
    setup_py("egg_info", "--egg-base", str(tmp_path))
    found = message_from_string((tmp_path / "recbole_llm.egg-info/PKG-INFO").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (found["Version"], found["License"]) == (citation["version"], citation["license"])
    assert found["License-File"] == "LICENSE" and (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert found["Description-Content-Type"] == "text/markdown" and found.get_payload().strip().startswith("# recbole_llm")
    cited = {reference["url"] for reference in citation["references"]}
    urls = [url.partition(", ")[2] for url in found.get_all("Project-URL")]
    assert len(urls) == 4 and cited >= set(urls)
    assert {"Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.12"} <= set(found.get_all("Classifier"))


def test_an_archive_of_the_sources_holds_what_tests_read(tmp_path):
    setup_py("egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {Path(*Path(name).parts[1:]).as_posix() for name in file.getnames()}
    folders = ("recbole_llm", "properties", "docs", "benchmarks", "tests")
    ours = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    ours += [ROOT / name for name in (".ci/run", "CONTRIBUTING.md", "CITATION.cff", "mkdocs.yml", "ruff.toml", "pytest.ini", "run_recbole_llm.py")]
    assert not {file.relative_to(ROOT).as_posix() for file in ours} - held


def test_ci_runs_the_command_of_the_readme(tmp_path):
    script = (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK) and script.startswith("#!/usr/bin/env bash")
    code = re.search(r"<<'PY'\n(.*?)\nPY\n", script, re.DOTALL)[1]
    run = [sys.executable, "-c", code]
    shown = subprocess.run([*run, str(ROOT / "README.md")], capture_output=True, text=True, check=True).stdout
    assert "pytest" in shown and ".venv" in shown and shown.startswith("set -euo pipefail")
    shutil.copy(ROOT / ".ci/run", tmp_path / "README.md")
    assert subprocess.run([*run, str(tmp_path / "README.md")], capture_output=True).returncode != 0

"""Each shim repairs what its docstring says, and is needed."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import recbole_llm
from recbole_llm.compat import shims

ROOT = Path(__file__).resolve().parents[2]
FAILURES = {
    "ray_stand_in, ray absent": "ModuleNotFoundError",
    "ray_stand_in, ray broken": "bool8",
    "numpy_aliases": "has no attribute 'float'",
    "pandas_fillna": "the padding row keeps NaN",
    "pandas_agg_len": "does not match length of index",
    "pandas_agg_len_in_benchmark_files": "does not match length of index",
    "collector_cpu": "'cpu'",
    "dok_update": "_update",
    "pop_counts": "[0, 1, 1, 0]",
    "download_barrier": "process group",
    "own_datasets": "a download of",
    "stable_duplicates": "lost the file's order",
    "atomic_files": "an item called NA is lost",
    "time_order": "not the latest items",
    "exact_split": "rows are the latest tenth",
    "imputed_means": "was made up",
    "filter_counts": "Some feat is empty",
    "benchmark_files": "item_id_list_field",
    "flops": "a second copy of the model",
    "case_studies": "2 lines of scores for 3 users",
    "plain_checkpoints": "Unpickling",
    "pickled_datasets": "the pickle ran",
    "hyper_tuning": "integers",
}
# Shims that repair a library's change are needed from that version on
SINCE = {"pandas_fillna": ("pandas", 3), "pandas_agg_len": ("pandas", 3), "numpy_aliases": ("numpy", 2)}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """{probe: {"with": None or error, "without": None or error}} from one fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.compat.probes", str(tmp_path_factory.mktemp("probes"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FAILURES)
def test_shim_works(report, name):
    assert report[name]["with"] is None


@pytest.mark.parametrize("name", FAILURES)
def test_shim_is_needed(report, name):
    library, major = next((since for shim, since in SINCE.items() if name.startswith(shim)), ("numpy", 0))
    if int(metadata.version(library).split(".")[0]) < major:
        pytest.skip(f"{library} {metadata.version(library)} does not need it")
    assert FAILURES[name] in (report[name]["without"] or "nothing failed")


def test_working_ray_is_left_alone(report):
    assert report["ray_stand_in, ray works"] == {"with": None, "without": None}


def test_every_shim_has_a_probe_and_a_reason():
    for name, function in shims.SHIMS.items():
        assert any(probe.startswith(name) for probe in FAILURES), name
        assert "Cause:" in function.__doc__ and "Effect without" in function.__doc__, name


def test_apply_is_idempotent_and_names_wrong_shims():
    shims.apply()
    with pytest.raises(ValueError, match="no shim.*'typo'"):
        shims.apply(skip={"typo"})


def test_numpy_keeps_its_own_names():
    assert np.float_ is np.float64 and np.bool is np.bool_ and np.long is not None


def test_import_without_recbole_names_the_command(tmp_path):
    """As on Python 3.12, where pip leaves RecBole out: nothing but the message, not even torch, is needed."""
    code = "import importlib.metadata as m\ndef no(name): raise m.PackageNotFoundError(name)\nm.version = no\n"
    code += f"import sys; sys.path.insert(0, {str(ROOT)!r}); import recbole_llm"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError")
    assert last.endswith("pip install --no-deps recbole==1.2.1")


def test_import_loads_nothing_heavy(tmp_path):
    code = "import sys, recbole_llm; print([m for m in ('transformers', 'peft', 'accelerate') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]", done.stderr
    assert recbole_llm.__version__ == "0.1.0"

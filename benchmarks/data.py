"""python -m benchmarks.data [FOLDER]: what rows and candidate sets cost, and how that grows.

amazon-games   reading, splitting and drawing two candidate sets, against RecBole's own reading and splitting of the same
               interactions (FOLDER holds the dataset; default ../shared/data)
growth         the same of 0.4 and 4 million made-up rows; 1 is linear

Every measurement has a process of its own, so that its peak memory is its own too. Ours and RecBole's take turns, and ratios are
of processor time: other work on the machine stretches the clock's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RATIO, MEMORY = 1.5, 2048  # aims: times RecBole's, MB
SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "train_neg_sample_args": None, "state": "ERROR", "show_progress": False, "MAX_ITEM_LIST_LENGTH": 50,
}  # fmt: skip
READERS = {"own_datasets", "stable_duplicates", "atomic_files", "time_order", "exact_split", "imputed_means", "filter_counts", "benchmark_files"}
OTHERS = {"flops", "case_studies", "plain_checkpoints", "pickled_datasets", "hyper_tuning"}  # these import the package, which applies all


def recbole(dataset: str, data_path: str) -> Iterator:
    """RecBole's own reading and splitting, without the plugin's reader; its number of rows."""
    package = types.ModuleType("recbole_llm")  # in place of the package, whose import replaces the reader
    package.__path__ = [str(ROOT / "recbole_llm")]
    sys.modules["recbole_llm"] = package
    from recbole_llm.compat import shims

    shims.apply(skip=READERS | OTHERS)
    from recbole.config import Config
    from recbole.data import create_dataset

    config = Config("SASRec", dataset, config_dict={"data_path": data_path, **SETTINGS})
    yield
    yield sum(map(len, create_dataset(config).build()))


def ours(dataset: str, data_path: str) -> Iterator:
    """Reading, splitting, and the candidates of all validation and test rows, stored."""
    from recbole_llm import LLMConfig
    from recbole_llm.data.candidate_sets import candidate_sets

    with tempfile.TemporaryDirectory() as folder:
        order = {key: value for key, value in SETTINGS["eval_args"].items() if key != "mode"}  # the protocol's
        given = {**SETTINGS, "eval_args": order, "data_path": data_path, "checkpoint_dir": folder}
        config = LLMConfig("SASRec", dataset, config_dict=given)
        yield
        sets = candidate_sets(config)
        yield len(sets.valid) + len(sets.test)


WORK = {"recbole": recbole, "ours": ours}


def measure(work: str, dataset: str, data_path: str) -> dict[str, float]:
    """{"seconds" of processor, "clock", "memory" peak MB, "rows"} of a piece of work in this process; imports are not counted."""
    from resource import RUSAGE_SELF, getrusage

    steps = WORK[work](dataset, data_path)
    next(steps)
    clock, processor = time.perf_counter(), time.process_time()
    rows = next(steps)
    found = {"seconds": time.process_time() - processor, "clock": time.perf_counter() - clock, "rows": rows}
    return {**found, "memory": getrusage(RUSAGE_SELF).ru_maxrss / 2**10}


def in_a_process(work: str, dataset: str, data_path: str) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.data", data_path, f"--work={work}", f"--dataset={dataset}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{work} on {dataset} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def write_rows(folder: Path, name: str, users: int, items: int = 17_000, length: int = 8) -> str:
    """Interactions of users with as many distinct items each, in the order of time; the folder that holds them."""
    rng = np.random.default_rng(0)
    target = folder / name
    target.mkdir(parents=True)
    first, step = rng.integers(items, size=users), rng.integers(1, items // length, size=users)
    with open(target / f"{name}.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, (start, stride) in enumerate(zip(first.tolist(), step.tolist(), strict=True)):
            file.writelines(f"{user}\t{(start + k * stride) % items}\t{k}\n" for k in range(length))
    return str(folder)


def against_recbole(data_path: str, dataset: str, repeats: int) -> bool:
    """Print the ratio to RecBole's own loading; whether time and memory are as aimed at."""
    found = {work: [] for work in WORK}
    for _ in range(repeats):
        for work in WORK:
            found[work].append(in_a_process(work, dataset, data_path))
    seconds = {work: median(one["seconds"] for one in found[work]) for work in WORK}
    memory = {work: max(one["memory"] for one in found[work]) for work in WORK}
    ratio = seconds["ours"] / seconds["recbole"]
    print(f"{dataset}: RecBole's reading and splitting {seconds['recbole']:.1f} s, {memory['recbole']:,.0f} MB; ours with the candidates of "
          f"{found['ours'][0]['rows']:,} rows {seconds['ours']:.1f} s, {memory['ours']:,.0f} MB; ratio {ratio:.2f} (<= {RATIO}), memory "
          f"< {MEMORY:,} MB", flush=True)  # fmt: skip
    return ratio <= RATIO and memory["ours"] < MEMORY


def growth(users: int) -> bool:
    """Print what ten times the rows cost; whether that is at most 10% over ten times as much, and the memory as aimed at."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = (
            in_a_process("ours", f"rows{n}", write_rows(Path(folder), f"rows{n}", n)) for n in (users, 10 * users)
        )
    exponent = np.log10(large["seconds"] / small["seconds"])
    print(f"growth: {8 * users:,} rows {small['seconds']:.1f} s, {small['memory']:,.0f} MB; {80 * users:,} rows {large['seconds']:.1f} s, "
          f"{large['memory']:,.0f} MB; exponent {exponent:.2f} (<= 1.05)", flush=True)  # fmt: skip
    return exponent <= 1.05


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(ROOT.parent / "shared/data"))
    parser.add_argument("--dataset", default="amazon-games")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--users", type=int, default=50_000, help="of the smaller made-up dataset, 8 rows each")
    parser.add_argument("--work", choices=WORK, help="one measurement in this process, printed as JSON")
    options = parser.parse_args(arguments)
    if options.work:
        print(json.dumps(measure(options.work, options.dataset, options.folder)))
        return 0
    met = [against_recbole(options.folder, options.dataset, options.repeats), growth(options.users)]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

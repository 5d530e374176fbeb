"""python -m benchmarks.leaderboard [--full] [RESULTS]: what the leaderboard costs beside the models.

statistics   10 rows x 6,000 users x 3 metrics x 10,000 resamples, all pairs tested: seconds and memory
report       the whole page from 10 x 3 made-up result files over 6,000 rows
runner       plan, checks and reuse of a 10-row, 3-seed board on ml-100k whose runs cost nothing; with RESULTS (a folder
             of real result files) as a share of the models' own time there
--full       protocol full on a catalogue of 100,000 items, one row per kind of model, each in a fresh process: peak memory
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from recbole_llm.leaderboard import statistics as st
from recbole_llm.leaderboard.files import Stored
from recbole_llm.leaderboard.report import write_report
from recbole_llm.leaderboard.table import all_pairs, build_column
from recbole_llm.results.result_file import peak_memory_mb, reset_peak_memory, write_result

NAMES = "Random Pop ItemKNN BPR FPMC GRU4Rec SASRec LLaRA iLoRA RecLoRA".split()


def made_up(folder: str, users: int, seeds: int) -> None:
    """Result files of ten rows over the same users."""
    rng = np.random.default_rng(0)
    names = [f"{metric}@{k}" for metric in ("hit", "ndcg", "mrr") for k in (1, 5, 10)]
    for number, name in enumerate(NAMES):
        for seed in range(seeds):
            rank = 1 + (20 * rng.random(users) ** (1 + number / 4)).astype(int)
            record = {
                "model": name,
                "dataset": "made-up",
                "protocol": "candidates",
                "seed": seed,
                "candidates": {"count": 20, "sha256": "a" * 64},
                "metrics": {metric: round(float(st.ranking_values(rank, metric).mean()), 4) for metric in names},
                "config": {"model": name},
            }
            rows = [(f"u{i}", f"i{i}", int(r), 0) for i, r in enumerate(rank)]
            write_result(Path(folder) / f"made-up.candidates.{name}.seed{seed}.json", record, rows)


def measured(work) -> tuple[str, float]:
    """(seconds on the clock and on the processor, MB above what was there before) of ``work()``."""
    reset_peak_memory()
    before, clock, processor = peak_memory_mb(), time.perf_counter(), time.process_time()
    work()
    text = f"{time.perf_counter() - clock:.1f} s ({time.process_time() - processor:.1f} s of processor)"
    return text, peak_memory_mb() - before


def statistics_of(folder: str) -> None:
    from recbole_llm.leaderboard.files import read_stored

    groups: list[list[Stored]] = [
        [read_stored(Path(folder) / f"made-up.candidates.{name}.seed{seed}.json") for seed in range(3)]
        for name in NAMES
    ]
    seconds, memory = measured(
        lambda: [
            all_pairs(build_column(m, "candidates", groups, st.RESAMPLES, 0)) for m in ("hit@1", "ndcg@10", "mrr@10")
        ]
    )
    print(
        f"statistics: 10 rows x 6,000 users, 3 metrics, 10,000 resamples, 135 paired tests: {seconds}, "
        f"{memory:.0f} MB (< 20 s, < 1,000 MB)"
    )


def runner(results: str | None) -> None:
    """Everything around the runs, on a plan whose runs are all reused."""
    from recbole_llm.leaderboard import reuse
    from recbole_llm.leaderboard.plan import make_plan

    def plan() -> None:
        settings = {"result_dir": f"{folder}/results", "checkpoint_dir": f"{folder}/saved", "state": "WARNING"}
        for run in make_plan(NAMES, "ml-100k", None, 3, settings)[::3]:
            reuse.expected(run.config)

    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        first, _ = measured(plan)
        again, _ = measured(plan)
        made_up(folder, 943, 3)
        report, _ = measured(lambda: write_report(folder))
    text = f"runner: plan and checks of 30 runs on ml-100k {first} with imports and candidate sets, {again} without; "
    text += f"report {report}"
    if results:
        paths = [path for path in Path(results).glob("*.seed*.json") if path.name.count(".failed.") == 0]
        own = sum(sum(json.loads(path.read_text())["seconds"].values()) for path in paths)
        share = 100 * (time.perf_counter() - clock) / own
        text += f"; the models' own time in {results} is {own:.0f} s: {share:.2f}% (< 2%)"
    print(text)


def write_catalogue(folder: Path, items: int = 100_000, users: int = 1000, length: int = 100) -> None:
    """Atomic files in which every item occurs once."""
    rng = np.random.default_rng(0)
    target = folder / "large"
    target.mkdir(parents=True)
    order = rng.permutation(items).reshape(users, -1)[:, :length]
    lines = [f"u{u}\ti{i}\t{1000 + t}" for u, row in enumerate(order.tolist()) for t, i in enumerate(row)]
    (target / "large.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n")
    titles = [f"i{i}\tTitle {i}" for i in range(items)]
    (target / "large.item").write_text("item_id:token\ttitle:token_seq\n" + "\n".join(titles) + "\n")


def full() -> None:
    script = Path(__file__).resolve().parent.parent / "run_recbole_llm.py"
    with tempfile.TemporaryDirectory() as folder:
        write_catalogue(Path(folder))
        shared = [
            "--dataset=large",
            f"--data_path={folder}",
            "--protocol=full",
            "--epochs=1",
            "--show_progress=False",
            "--state=WARNING",
            "--load_col={inter: [user_id, item_id, timestamp]}",
            "--item_text_field=title",
            f"--result_dir={folder}/results",
            f"--checkpoint_dir={folder}/saved",
        ]
        small = [
            "--train_sample_size=32",
            "--valid_sample_size=32",
            "--crm_epochs=1",
            "--crm_model=GRU4Rec",
            "--crm_config={train_batch_size: 64, hidden_size: 16, embedding_size: 16, num_layers: 1}",
            "--rerank_n=20",
        ]
        for model, more in (
            ("Pop", []),
            ("BPR", []),
            ("SASRec", ["--train_batch_size=64", "--hidden_size=16"]),
            ("LLaRA", small),
        ):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(script), f"--model={model}", *shared, *more], capture_output=True, text=True
            )
            if done.returncode:
                print(f"full, 100,000 items, {model}: failed\n{done.stderr[-1500:]}")
                continue
            record = json.loads((Path(folder) / f"results/large.full.{model}.seed2020.json").read_text())
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
            print(
                f"full, 100,000 items, {model}: {time.perf_counter() - start:.0f} s, evaluate "
                f"{record['seconds']['evaluate']:.0f} s on "
                f"{record['n_rows']} rows, peak so far {peak:,.0f} MB (< 2,048 MB)",
                flush=True,
            )


def main(arguments: list[str]) -> None:
    folders = [argument for argument in arguments if not argument.startswith("-")]
    if "--full" in arguments:
        return full()
    with tempfile.TemporaryDirectory() as folder:
        made_up(folder, 6000, 3)
        statistics_of(folder)
        seconds, memory = measured(lambda: write_report(folder))
        print(f"report: 10 rows x 3 seeds x 6,000 test rows, every format: {seconds}, {memory:.0f} MB")
    runner(folders[0] if folders else None)


if __name__ == "__main__":
    main(sys.argv[1:])

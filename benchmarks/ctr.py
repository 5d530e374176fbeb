"""Rows scored per second with a shared prefix against without, and the retriever's speed: `python -m benchmarks.ctr`.

A random Llama answers Yes or No about 20 items after one history of 10 titles. Both ways take turns in one run, and the
medians are compared. The retriever finds 10 of 1,000-item histories for 10,000 rows, each of another user (the worst
case: nothing is shared between rows). Exit status 1 where an aim is missed or scores differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc

import numpy as np
import torch

from benchmarks.scoring import _now, random_llm
from recbole_llm.data.click.retriever import most_relevant, unit
from recbole_llm.llm.yes_no import branch_scores

SPEED_UP, SECONDS, GIGABYTES, TOLERANCE = 5.0, 5.0, 1.0, 1e-4


@torch.no_grad()
def scoring(args) -> tuple[float, float]:
    """(speed-up of the shared prefix, largest difference of the scores)."""
    llm = random_llm(args.hidden, args.layers, args.vocabulary, "sdpa", args.device)
    torch.manual_seed(1)
    embed, shape = llm.get_input_embeddings(), (args.batch, args.targets, args.tokens)
    prompt = embed(torch.randint(args.vocabulary, (args.batch, args.prompt), device=args.device))
    branch = embed(torch.randint(args.vocabulary, shape, device=args.device))
    masks = [torch.ones(part.shape[:-1], dtype=torch.bool, device=args.device) for part in (prompt, branch)]
    inputs = (llm, prompt, masks[0], branch, masks[1], (5, 6))
    ways = {"shared": {"method": "tree"}, "alone": {"method": "separate", "candidates_per_forward": args.targets}}
    seconds, scores = {way: [] for way in ways}, {}
    for repeat in range(args.repeats + 1):
        for way, options in ways.items():
            started = _now(llm.device)
            scores[way] = branch_scores(*inputs, **options)
            if repeat:
                seconds[way].append(_now(llm.device) - started)
    apart = (scores["shared"] - scores["alone"]).abs().max().item()
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    rows = args.batch * args.targets
    for way, median in medians.items():
        print(f"{way:<8}{rows / median:>10,.0f} rows/s")
    return medians["alone"] / medians["shared"], apart


def retrieval(args) -> tuple[float, float]:
    """(CPU seconds, gigabytes with vectors and histories) of `most_relevant`."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((args.items, args.width), dtype=np.float32))
    items = rng.integers(1, args.items, size=args.rows * args.history)
    end = np.arange(1, args.rows + 1) * args.history
    targets = rng.integers(1, args.items, size=args.rows)
    started = time.process_time()  # other programs on the machine disturb it least
    most_relevant(vectors, items, end - args.history, end, targets, 10)
    seconds = time.process_time() - started
    tracemalloc.start()
    most_relevant(vectors, items, end - args.history, end, targets, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, (peak + vectors.nbytes + items.nbytes) / 2**30


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ctr", description=__doc__.split("\n")[0])
    for name, value in {"prompt": 160, "targets": 20, "tokens": 16, "batch": 1, "hidden": 256, "layers": 4,
                        "vocabulary": 4096, "repeats": 7, "rows": 10_000, "history": 1000, "items": 20_000,
                        "width": 64}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    seconds, gigabytes = retrieval(args)
    print(f"10 of {args.history}; {args.rows:,}, width {args.width}: {seconds:.2f} s of a core (aim {SECONDS:.0f}), "
          f"{gigabytes:.2f} GB in all (aim {GIGABYTES:.0f} GB)")  # fmt: skip
    ratio, apart = scoring(args)
    print(f"{args.targets} targets, prompt {args.prompt}, question {args.tokens}: shared prefix {ratio:.1f}x "
          f"(aim {SPEED_UP:.0f}x), scores within {apart:.1e} ({TOLERANCE:.0e})")  # fmt: skip
    met = seconds <= SECONDS and gigabytes <= GIGABYTES and ratio >= SPEED_UP and apart <= TOLERANCE
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

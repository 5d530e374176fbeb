"""Speed of `recommend` over evaluation's: `python -m benchmarks.recommend RUN [--users 100]`.

RUN is a result file or a run's folder of `protocol: candidates`. Both rank as many items by the same LLM for the same users in batches of
the same size, in turn: evaluation reads their test rows' candidate sets from its loader, `recommend` retrieves what the CRM ranks first
(`rerank_n`, set to `n_candidates`), renders prompts and makes a table. The ratio of the medians of prompts a second should be .9 or more;
exit status 1 below.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

import recbole_llm
from recbole_llm.evaluation.preparation import prepare_data


def evaluate(recommender, loader, n_batches: int) -> int:
    """Score the first batches of a test loader; the number of prompts."""
    prompts = 0
    for number, batch in enumerate(loader):
        if number == n_batches:
            break
        prompts += len(recommender.ranker.score(batch))
    return prompts


def rate(function) -> float:
    """Prompts a second of one call."""
    start = time.perf_counter()
    return function() / (time.perf_counter() - start)


def measure(run: str, n_users: int, repeats: int) -> tuple[float, float]:
    """Prompts a second: (recommend's, evaluation's), medians of runs that take turns."""
    recommender = recbole_llm.load(run)
    config = recommender.config
    recommender = recbole_llm.load(run, rerank_n=config["n_candidates"])
    loader = prepare_data(recommender.config)[3]
    n_batches = min(len(loader), -(-n_users // config["eval_batch_size"]))
    rows = [key.row for batch in list(loader.batch_sampler)[:n_batches] for key in batch]
    split = loader.dataset.split
    users = split.id2token(split.uid_field, split.inter_feat[split.uid_field][rows].numpy()).tolist()

    def recommend() -> int:
        recommender.recommend(users=users, k=10, until="test", show_progress=False)
        return len(users)

    pairs = [(rate(recommend), rate(lambda: evaluate(recommender, loader, n_batches))) for _ in range(repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours, theirs


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recommend", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a result file or a run's folder")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    ours, theirs = measure(options.run, options.users, options.repeats)
    ratio = round(ours / theirs, 2)
    print(f"recommend {ours:.2f} prompts/s, evaluation {theirs:.2f} prompts/s, ratio {ratio:.2f} ({torch.get_num_threads()} threads)")
    return int(ratio < 0.9)


if __name__ == "__main__":
    sys.exit(main())

"""Speed of `recommend` over evaluation's: `python -m benchmarks.recommend RUN [--users 100]`.

RUN is a result file or a run's folder of `protocol: candidates`. Both rank as many items by the same LLM for the same users in batches of
the same size, in turn: evaluation reads their test rows' candidate sets from its loader, `recommend` retrieves what the CRM ranks first
(`rerank_n`, set to `n_candidates`), renders prompts and makes a table. The ratio of prompts a second should be .9 or more; exit status 1 below.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import recbole_llm
from recbole_llm.evaluation.preparation import prepare_data

TURN = 100  # users in a turn, as far as batches allow


def recommend(recommender, split, rows: list[int]) -> None:
    """Recommend to the users of a split's rows."""
    users = split.id2token(split.uid_field, split.inter_feat[split.uid_field][rows].numpy()).tolist()
    recommender.recommend(users=users, k=10, until="test", show_progress=False)


def evaluate(recommender, batches, rows: list[int]) -> None:
    """Score the next rows of a test loader's batches."""
    left = len(rows)
    while left:
        left -= len(recommender.ranker.score(next(batches)))


def seconds(function, *arguments) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure(run: str, n_users: int, repeats: int) -> tuple[float, float]:
    """Prompts a second: (recommend's, evaluation's). They take turns of about 100 users, and in going first: a machine's speed drifts."""
    config = recbole_llm.load(run).config
    recommender = recbole_llm.load(run, rerank_n=config["n_candidates"])
    loader = prepare_data(recommender.config)[3]
    at_once = max(1, TURN // config["eval_batch_size"])  # batches in a turn
    batches = list(loader.batch_sampler)[: -(-n_users // config["eval_batch_size"])]
    turns = [[key.row for batch in batches[start : start + at_once] for key in batch] for start in range(0, len(batches), at_once)]
    spent = {recommend: 0.0, evaluate: 0.0}
    for _ in range(repeats):
        source = {recommend: loader.dataset.split, evaluate: iter(loader)}
        for number, rows in enumerate(turns):
            for work in (recommend, evaluate) if number % 2 else (evaluate, recommend):
                spent[work] += seconds(work, recommender, source[work], rows)
    prompts = repeats * sum(map(len, turns))
    return prompts / spent[recommend], prompts / spent[evaluate]


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

"""Speed of `recommend` over evaluation's: `python -m benchmarks.recommend RUN [--users 100]`.

RUN is a result file or a run's folder of `protocol: candidates`. Both rank as many items by the same LLM for the same users in batches of
the same size, each ordered by length: evaluation reads their test rows' candidate sets, `recommend` retrieves what the CRM ranks first
(`rerank_n`, set to `n_candidates`), renders prompts and makes a table. They take turns of 100 users drawn at random, since a machine's speed
drifts. The ratio of prompts a second should be 1; exit status 1 where it is below by more than twice its standard error over turns.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

import recbole_llm
from recbole_llm.evaluation.preparation import prepare_data

TURN = 100  # users in a turn


def recommend(recommender, loader, keys: list) -> None:
    """Recommend to the users of test rows."""
    split = loader.dataset.split
    users = split.id2token(split.uid_field, split.inter_feat[split.uid_field][[key.row for key in keys]].numpy()).tolist()
    recommender.recommend(users=users, k=10, until="test", show_progress=False)


def evaluate(recommender, loader, keys: list) -> None:
    """Score test rows as evaluation does; ``keys`` are the longest first, as its loader has them."""
    size = recommender.config["eval_batch_size"]
    for start in range(0, len(keys), size):
        recommender.ranker.score(loader.collate_fn([loader.dataset[key] for key in keys[start : start + size]]))


def seconds(function, *arguments) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure(run: str, n_users: int, repeats: int) -> tuple[float, float, float]:
    """Prompts a second (recommend's, evaluation's), and the standard error of their ratio over turns. They take turns in going first too."""
    config = recbole_llm.load(run).config
    recommender = recbole_llm.load(run, rerank_n=config["n_candidates"])
    loader = prepare_data(recommender.config)[3]
    keys = [key for batch in loader.batch_sampler for key in batch]
    drawn = np.random.default_rng(0).permutation(len(keys))[:n_users]
    turns = [[keys[i] for i in np.sort(drawn[start : start + TURN])] for start in range(0, len(drawn), TURN)] * repeats
    spent = {recommend: [], evaluate: []}
    for number, turn in enumerate(turns):
        for work in (recommend, evaluate) if number % 2 else (evaluate, recommend):
            spent[work].append(seconds(work, recommender, loader, turn))
    ratios = np.divide(spent[evaluate], spent[recommend])
    error = ratios.std(ddof=1) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    prompts = sum(map(len, turns))
    return prompts / sum(spent[recommend]), prompts / sum(spent[evaluate]), float(error)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recommend", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a result file or a run's folder")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    ours, theirs, error = measure(options.run, options.users, options.repeats)
    ratio = ours / theirs
    print(f"recommend {ours:.2f} prompts/s, evaluation {theirs:.2f} prompts/s, ratio {ratio:.3f}, standard error {error:.3f} "
          f"({torch.get_num_threads()} threads)")  # fmt: skip
    return int(ratio + 2 * error < 1)


if __name__ == "__main__":
    sys.exit(main())

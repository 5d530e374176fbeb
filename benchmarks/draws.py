"""python -m benchmarks.draws --model=NAME --dataset=NAME [--draws=10 --seeds=2020,2021,2022 --out=FILE.json --key=value ...]

An LLM recommender beside the CRM that it reads, under many draws of candidates. One draw of 20 candidates for 943 users leaves
.01 of Hit@1 to chance; what is left after ten is mostly users. The model is trained once a seed (its validation rows keep the
config's own candidates) and then ranks the test rows under ``candidate_seed`` 1 to ``draws``; so does its CRM.
A user's value is the mean over seeds and draws; intervals and p come from resampled users, as in leaderboards.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from recbole_llm import fit
from recbole_llm.cli.arguments import parse_command_line
from recbole_llm.config.loader import LLMConfig
from recbole_llm.crm.settings import crm_config
from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.evaluation.candidate_collector import CandidateCollector
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.leaderboard.plan import seed_list
from recbole_llm.leaderboard.render.markdown import p_text
from recbole_llm.leaderboard.statistics import bootstrap_p, percentile_interval, ranking_values, resampled_means
from recbole_llm.registry import is_plugin_model
from recbole_llm.results import result_file

METRICS = ("hit@1", "ndcg@10")


def ranks(trainer, config, load_best: bool) -> np.ndarray:
    """The target's rank in each test row, under the candidates of ``config``. int64 [n]"""
    trainer.eval_collector = CandidateCollector(config)
    trainer.evaluate(prepare_data(config)[3], load_best_model=load_best, show_progress=False)
    return trainer.eval_collector.rows().rank


def one_seed(make_config, seed: int, draws: range) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the LLM recommender and of its CRM, [draws, n] each."""
    fitted = fit.fit(make_config(seed=seed))
    crm = fitted.trainer.model.crm
    crm_trainer, _ = fit.build(crm_config(make_config(seed=seed)))
    crm_trainer.model.load_state_dict(crm.model.state_dict())
    both = []
    for draw in draws:
        config = make_config(seed=seed, candidate_seed=draw)
        both.append((ranks(fitted.trainer, config, draw == draws[0]), ranks(crm_trainer, crm_config(config), False)))
        shown = " ".join(f"{np.mean(rank == 1):.4f}" for rank in both[-1])
        print(f"seed {seed}, draw {draw}: hit@1 {shown} ({crm.name})", flush=True)
    model, reference = zip(*both, strict=True)
    return np.stack(model), np.stack(reference)


def compared(model: np.ndarray, reference: np.ndarray, user: np.ndarray, metric: str) -> dict:
    """Means, difference, its interval over users and p.

    Args:
        model, reference: ranks [seeds, draws, n].
        user: [n] whose row it is.
    """
    of_users = np.unique(user, return_inverse=True)[1]
    values = [ranking_values(rank, metric).mean((0, 1)) for rank in (model, reference)]  # [n] each
    sums = np.stack([np.bincount(of_users, value) for value in values], 1)  # [U, 2]
    means = resampled_means(sums, np.bincount(of_users)[:, None])
    samples, difference = means[:, 0] - means[:, 1], values[0].mean() - values[1].mean()
    won, lost = int((sums[:, 0] > sums[:, 1]).sum()), int((sums[:, 0] < sums[:, 1]).sum())
    found = {"model": values[0].mean(), "crm": values[1].mean(), "difference": difference}
    found["interval"] = percentile_interval(samples)
    return {**found, "p": bootstrap_p(samples, difference, won + lost), "won": won, "lost": lost}


def main(arguments: list[str]) -> dict:
    """Print the comparison, and write it to ``--out``.

    Raises:
        ConfigError: wrong settings, before anything is trained; ValueError: a model without a CRM, or another protocol.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draws", allow_abbrev=False, add_help=False)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path)
    own, rest = parser.parse_known_args(arguments)
    given = parse_command_line(rest)
    seeds = seed_list(given.seeds or 3)

    def make_config(**values):
        return LLMConfig(given.model, given.dataset, given.config_files, None, {**given.options, **values})

    config = make_config(seed=seeds[0])
    if not is_plugin_model(config["model"]) or config["protocol"] != "candidates" or own.draws < 1:
        raise ValueError("one or more --draws compare an LLM recommender (LLaRA, iLoRA, RecLoRA) with its CRM under --protocol=candidates")
    pairs = [one_seed(make_config, seed, range(1, own.draws + 1)) for seed in seeds]
    model, reference = (np.stack(part) for part in zip(*pairs, strict=True))  # [seeds, draws, n] each
    user = candidate_sets(config).test.user_ids
    record = {"model": given.model, "dataset": given.dataset, "settings": given.options, "seeds": seeds, "draws": own.draws}
    record |= {"n_rows": len(user), "n_users": len(set(user.tolist())), "commit": result_file.commit()}
    record["metrics"] = {metric: compared(model, reference, user, metric) for metric in METRICS}
    for metric, found in record["metrics"].items():
        low, high = found["interval"]
        print(f"{metric}: {given.model} {found['model']:.4f}, its CRM {found['crm']:.4f}, difference {found['difference']:+.4f} "
              f"[{low:+.4f}, {high:+.4f}], p {p_text(found['p'])}, users {found['won']} : {found['lost']}")  # fmt: skip
    if own.out:
        own.out.parent.mkdir(parents=True, exist_ok=True)
        own.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:  # ConfigError too
        sys.exit(f"error: {error}")

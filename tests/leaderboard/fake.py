"""Result files of made-up runs, as the runner would leave them, with planted quality."""

import hashlib
from pathlib import Path

import numpy as np

from recbole_llm.data.fingerprint import ROWS
from recbole_llm.evaluation import bias_checks
from recbole_llm.leaderboard.statistics import ranking_values
from recbole_llm.results.result_file import file_name, write_result

METRICS = [f"{name}@{k}" for name in ("hit", "ndcg", "mrr") for k in (1, 3, 5, 10)]
SHA = hashlib.sha256(b"the candidates").hexdigest()


def ranks(rng, n: int, skill: float, count: int = 20, common=None) -> np.ndarray:
    """Ranks 1..count; higher skill, more hits. ``common`` [n] makes users easy or hard for all models alike."""
    ease = 0 if common is None else common
    u = rng.random(n) ** np.exp(skill + ease)
    return 1 + np.minimum((u * count).astype(int), count - 1)


def write_run(
    folder,
    name: str,
    rank: np.ndarray,
    seed: int = 2020,
    *,
    llm: bool = False,
    count: int = 20,
    sha256: str = SHA,
    dataset: str = "made-up",
    users=None,
    items=None,
    config=None,
    protocol: str = "candidates",
    rows: int | None = ROWS,
    **fields,
) -> Path:
    n = len(rank)
    users = [f"u{i}" for i in range(n)] if users is None else users
    items = [f"i{i % 97}" for i in range(n)] if items is None else items
    position = np.random.default_rng(7).integers(count, size=n)
    model = name.partition("@")[0]
    record = {
        "model": model,
        "variant": None if model == name else name,
        "dataset": dataset,
        "protocol": protocol,
        "seed": seed,
        "metrics": {metric: round(float(ranking_values(rank, metric).mean()), 4) for metric in METRICS},
        "generation": None,
        "candidates": {"count": count, "sha256": sha256, "rows": rows},
        "llm": {"name": "smollm2-135m", "parameters": 134_500_000, "trainable_parameters": 210_000} if llm else None,
        "crm": {"model": "SASRec", "sha256": "c" * 64} if llm else None,
        "seconds": {"crm": 21.0 if llm else 0.0, "train": 310.0 if llm else 12.5, "evaluate": 41.0 if llm else 0.8},
        "peak_memory_mb": 1900.0 if llm else 640.0,
        "device": "cpu (x86_64, 1 threads)",
        "versions": {"torch": "2.13.0"},
        "commit": "0" * 40,
        "code": "code",
        "data": "data",
        "cost": {
            "parameters": 3_610_000 if llm else 214_000,
            "trainable_parameters": 210_000 if llm else 214_000,
            "rows_per_second": n / (41.0 if llm else 0.8),
            "latency_ms": {"p50": 48.2 if llm else 0.9, "p95": 61.0 if llm else 1.3, "rows": 32},
        },
        "checks": checks(rank, position, count, llm) if protocol == "candidates" else None,
        "config": {
            "model": model,
            "dataset": dataset,
            "seed": seed,
            "n_candidates": count,
            "epochs": 1,
            **(config or {}),
        },
        **fields,
    }
    path = Path(folder) / f"{dataset}.{protocol}.{file_name(name)}.seed{seed}.json"
    return write_result(path, record, list(zip(users, items, rank.tolist(), position.tolist(), strict=True)))


def checks(rank, position, count: int, llm: bool) -> dict:
    third = np.arange(len(rank)) % 3
    return {
        "position": bias_checks.group_counts(rank, position, [str(i) for i in range(count)]),
        "popularity": bias_checks.group_counts(rank, third, ["head", "middle", "tail"]),
        "history": bias_checks.group_counts(rank, third, ["4-16", "17-40", "41-300"]),
        "leaks": {"rows": len(rank), "id_outside": 0, "title_outside": 0, "examples": []} if llm else None,
        "permutations": {"k": 3, "hit@1": [0.41, 0.42, 0.415], "sd": 0.005, "same_top": 0.93} if llm else None,
    }


SKILLS = {
    "Random": 0.0,
    "Pop": 0.75,
    "ItemKNN": 0.95,
    "BPR": 1.0,
    "FPMC": 1.25,
    "GRU4Rec": 1.35,
    "SASRec": 1.4,
    "LLaRA": 1.4,
    "iLoRA": 1.45,
    "RecLoRA": 1.7,
}


def write_table(folder, n: int = 943, seeds=(2020, 2021, 2022), dataset: str = "ml-100k") -> None:
    """Ten rows, several seeds, users that are easy or hard for all."""
    common = np.random.default_rng(1).normal(0, 0.5, n)
    for number, (name, skill) in enumerate(SKILLS.items()):
        for seed in seeds:
            rng = np.random.default_rng([seed, number])
            write_run(
                folder,
                name,
                ranks(rng, n, skill, common=common),
                seed,
                llm="LoRA" in name or name == "LLaRA",
                dataset=dataset,
            )

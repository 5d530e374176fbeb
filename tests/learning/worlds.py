"""A generated dataset whose best answer is known, and the recommender that knows it.

Items have vectors: 24 dimensions that say the cluster, and 8 louder ones that say nothing. A user picks all items of one
cluster; the last is the target, and the 19 other candidates are of other clusters. Titles are made up and say nothing. The
recommender is a SASRec whose item table holds these vectors, so what LLaRA, iLoRA and RecLoRA can know, they know from
behaviour tokens, once the projector silences the loud dimensions. Known answers: all dimensions find the target in .67 of
the rows, the 24 in all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from recbole_llm import crm
from recbole_llm.config import LLMConfig
from recbole_llm.data.dataset import PromptDataset

CLUSTERS, PER_CLUSTER, USERS, LENGTH, SIGNAL, NOISE, LOUD = 60, 8, 300, 8, 24, 8, 2.9


def vectors(seed: int = 0) -> np.ndarray:
    """``[items, SIGNAL + NOISE]`` float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLUSTERS, SIGNAL))
    signal = np.repeat(centres, PER_CLUSTER, 0) + 0.3 * rng.normal(size=(CLUSTERS * PER_CLUSTER, SIGNAL))
    return np.concatenate([signal, LOUD * rng.normal(size=(len(signal), NOISE))], 1).astype(np.float32)


def write_dataset(folder: Path, seed: int = 0) -> Path:
    """Atomic files ``folder/world/world.{inter,item}``."""
    rng = np.random.default_rng(seed)
    (folder / "world").mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        items = rng.integers(CLUSTERS) * PER_CLUSTER + rng.permutation(PER_CLUSTER)[:LENGTH]
        lines += [f"u{user}\ti{item}\t5\t{1000 + step}" for step, item in enumerate(items)]
    titles = short_titles(4242, CLUSTERS * PER_CLUSTER)
    items = ["item_id:token\ttitle:token_seq", *(f"i{i}\t{title}" for i, title in enumerate(titles))]
    (folder / "world" / "world.inter").write_text("\n".join(lines) + "\n")
    (folder / "world" / "world.item").write_text("\n".join(items) + "\n")
    return folder


def short_titles(seed: int, count: int) -> list[str]:
    """Distinct made-up words: short prompts, so that minutes suffice."""
    rng, words = np.random.default_rng(seed), {}
    while len(words) < count:
        words["".join(rng.choice(list("bdfgklmnprstv")) + rng.choice(list("aeiou")) for _ in range(3)).capitalize()] = None
    return list(words)


def settings(data: Path, out: Path, **more) -> dict:
    """A config_dict with the default LLM."""
    return {
        "data_path": str(data), "llm_path": "smollm2-135m", "checkpoint_dir": str(out / "saved"),
        "result_dir": str(out / "results"), "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
        "item_text_field": "title", "n_candidates": 20, "crm_model": "SASRec", "crm_epochs": 0,
        "crm_config": {"hidden_size": SIGNAL + NOISE, "inner_size": 32}, "show_progress": False, "epochs": 1,
        "prompt_words": {"verb": "watch", "verbed": "watched", "item": "movie", "items": "movies"}, "latency_rows": 0,
        "learning_rate": 2e-4,  # there is much to unlearn here: the default is for real vectors, which the start reads already
        **more,
    }  # fmt: skip


def with_known_vectors(config: LLMConfig, out: Path) -> str:
    """``crm_path`` of a SASRec whose item table holds :func:`vectors`; its other weights are as drawn."""
    dataset = PromptDataset(config)
    crm.load_or_train(config, dataset)
    (file,) = (out / "saved" / "crm").glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        meta, state = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    order = [int(token[1:]) for token in dataset.field2id_token[dataset.iid_field][1:]]
    state["item_embedding.weight"][1:] = torch.as_tensor(vectors()[order])
    save_file(state, out / "known.safetensors", metadata=meta)
    return str(out / "known.safetensors")

"""Two generated datasets whose best answers are known, and the recommender that knows them.

In ``alike`` an item's vector says its cluster, and a user picks items of one cluster: the answer is the candidate whose vector
is like the user's, and titles say nothing. In ``chain`` an item's vector says of which of eight kinds (countries, animals ...)
the next item's title is, and nothing else does: 24 dimensions are the signal and 8 louder ones say nothing.

The recommender is a SASRec whose item table holds these vectors; with its other weights as drawn, a user's vector is that of
the last item, normalised. Titles are one token each and prompts short, so that minutes on a CPU suffice.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from recbole_llm.config.loader import LLMConfig
from recbole_llm.crm.training import load_or_train
from recbole_llm.data.dataset import PromptDataset
from recbole_llm.llm import source as llm_source

LLM = "smollm2-135m"
CLUSTERS, PER_CLUSTER, USERS, LENGTH, SIGNAL, NOISE, LOUD = 60, 8, 300, 8, 24, 8, 2.9
KINDS = [
    line.split() for line in """France Spain Italy Germany Japan China India Brazil
    Dog Cat Horse Bird Bear Wolf Lion Rabbit
    Red Blue Green Yellow Black White Brown Purple
    John Mary Peter Anna David Sarah James Emily
    Bread Cheese Rice Milk Sugar Butter Meat Soup
    Doctor Teacher Engineer Nurse Farmer Artist Soldier Pilot
    Head Hand Foot Arm Leg Heart Mouth Finger
    Monday Tuesday Friday Sunday January March June October""".splitlines()
]  # fmt: skip


def write_alike(folder: Path, seed: int = 0) -> np.ndarray:
    """Atomic files ``folder/alike/alike.{inter,item}``; vectors ``[items, SIGNAL + NOISE]``."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(CLUSTERS), PER_CLUSTER)
    users = [rng.choice(np.flatnonzero(clusters == rng.integers(CLUSTERS)), LENGTH, replace=False) for _ in range(USERS)]
    _write(folder / "alike", users, _one_token_words(len(clusters), rng))
    return _vectors(rng.normal(size=(CLUSTERS, SIGNAL))[clusters], rng, loud=0.0)


def write_chain(folder: Path, seed: int = 0) -> np.ndarray:
    """Atomic files ``folder/chain/chain.{inter,item}``; vectors as above.

    Item ``8 a + b`` is the word b of kind a and is followed by an item of kind b.
    """
    rng, n = np.random.default_rng(seed), len(KINDS)
    users = []
    while len(users) < USERS:
        items = [int(rng.integers(n * n))]
        while len(items) < LENGTH and (left := [i for i in items[-1] % n * n + np.arange(n) if i not in items]):
            items.append(int(rng.choice(left)))
        users.append(items)
    _write(folder / "chain", users, [word for kind in KINDS for word in kind])
    return _vectors(np.tile(rng.normal(size=(n, SIGNAL)), (n, 1)), rng, loud=LOUD)


def _vectors(centres: np.ndarray, rng: np.random.Generator, loud: float) -> np.ndarray:
    signal = centres + 0.3 * rng.normal(size=centres.shape)
    return np.concatenate([signal, loud * rng.normal(size=(len(signal), NOISE))], 1).astype(np.float32)


def _write(folder: Path, users: list, titles: list[str]) -> None:
    folder.mkdir(parents=True)
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    inter += [f"u{user}\ti{item}\t5\t{1000 + step}" for user, items in enumerate(users) for step, item in enumerate(items)]
    items = ["item_id:token\ttitle:token_seq", *(f"i{i}\t{title}" for i, title in enumerate(titles))]
    for suffix, lines in (("inter", inter), ("item", items)):
        (folder / f"{folder.name}.{suffix}").write_text("\n".join(lines) + "\n")


def _one_token_words(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct words that are one token each behind a blank."""
    tokenizer = AutoTokenizer.from_pretrained(llm_source.locate(LLM))
    words = sorted(word[1:] for word in tokenizer.get_vocab() if re.fullmatch("Ġ[A-Z][a-z]{3,8}", word))
    return rng.choice(words, count, replace=False).tolist()


def settings(data: Path, out: Path, **more) -> dict:
    """A config_dict with the default LLM and its recipe (properties/llm/smollm2-135m.yaml), in shorter prompts."""
    return {
        "data_path": str(data), "llm_path": LLM, "checkpoint_dir": str(out / "saved"), "result_dir": str(out / "results"),
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}, "item_text_field": "title", "n_candidates": 10,
        "crm_model": "SASRec", "crm_epochs": 0, "crm_config": {"hidden_size": SIGNAL + NOISE, "inner_size": 32},
        "show_progress": False, "save_steps": None, "latency_rows": 0, "valid_sample_size": 10, "test_sample_size": 80,
        "prompt_words": {"verb": "choose", "verbed": "chosen", "item": "item", "items": "items"},
        "prompt_templates": ["{candidates}\n{history}\n{user}"], "history_max_len": 1, "history_from": 0.0,
        "users_per_list": 8, "train_batch_size": 8, "accumulation_steps": 1, "train_sample_size": 960,
        **more,
    }  # fmt: skip


def with_known_vectors(config: LLMConfig, vectors: np.ndarray, out: Path) -> str:
    """``crm_path`` of a SASRec whose item table holds the vectors; its other weights are as drawn."""
    dataset = PromptDataset(config)
    load_or_train(config, dataset)
    (file,) = (out / "saved" / "crm").glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        meta, state = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    order = [int(token[1:]) for token in dataset.field2id_token[dataset.iid_field][1:]]
    state["item_embedding.weight"][1:] = torch.as_tensor(vectors[order])
    save_file(state, out / "known.safetensors", metadata=meta)
    return str(out / "known.safetensors")

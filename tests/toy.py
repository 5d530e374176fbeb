"""Made-up atomic files and RecBole configs for the tests of data and evaluation."""

from pathlib import Path

import numpy as np
import pytest

import recbole_llm  # noqa: F401  (RecBole imports only after its shims)

CE_MODELS = ("SASRec", "BERT4Rec", "GRU4Rec")  # trained on the whole catalogue, without sampled negatives


def write_files(folder: Path, name: str = "toy", n_users: int = 16, n_items: int = 40, seed: int = 3) -> Path:
    """Atomic files under `folder/name`: histories of 5 to 12 distinct items, with user and item features."""
    rng = np.random.default_rng(seed)
    target = folder / name
    target.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(n_users):
        items = rng.choice(n_items, size=rng.integers(5, 13), replace=False)
        lines += [f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{100 * user + step}" for step, item in enumerate(items)]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n")
    items = [f"i{item}\tTitle {item}\tclass{item % 3} class{item % 5}" for item in range(n_items)]
    (target / f"{name}.item").write_text("\n".join(["item_id:token\ttitle:token_seq\tclass:token_seq", *items]) + "\n")
    users = [f"u{user}\t{20 + user % 4}" for user in range(n_users)]
    (target / f"{name}.user").write_text("\n".join(["user_id:token\tage:token", *users]) + "\n")
    return folder


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory) -> Path:
    """A `data_path` that holds the dataset `toy`."""
    return write_files(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def make_config(toy_path, tmp_path, monkeypatch):
    """A function (model, **settings) -> RecBole Config under the candidate protocol, with its own checkpoint_dir."""
    monkeypatch.setattr("sys.argv", ["test"])  # RecBole reads settings from the command line
    monkeypatch.chdir(tmp_path)  # its trainers write log_tensorboard/ where they run
    from recbole.config import Config

    def make(model="SASRec", dataset="toy", **settings):
        base = {
            "data_path": str(toy_path),
            "checkpoint_dir": str(tmp_path / "saved"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni7"},
            "protocol": "candidates",
            "n_candidates": 8,
            "candidate_seed": 2020,
            "metrics": ["Hit", "NDCG", "MRR"],
            "topk": [1, 3, 5, 10],
            "valid_metric": "NDCG@10",
            "MAX_ITEM_LIST_LENGTH": 6,
            "eval_batch_size": 40,
            "train_batch_size": 64,
            "epochs": 1,
            "show_progress": False,
            "state": "ERROR",
            "threshold": None,
        }
        if model in CE_MODELS:
            base["train_neg_sample_args"] = None
        return Config(model=model, dataset=dataset, config_dict={**base, **settings})

    return make


@pytest.fixture(autouse=True)
def forget_candidate_sets():
    """Each test reads its candidate sets anew."""
    from recbole_llm.data import candidate_sets

    candidate_sets._memory.clear()

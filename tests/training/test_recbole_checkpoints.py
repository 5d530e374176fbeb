"""Checkpoints of RecBole's models: plain data, equal after loading, and nothing in a file is ever run."""

import recbole_llm  # noqa: F401, I001  isort: skip  (RecBole imports only after it)

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer, init_seed
from scipy import sparse

from recbole_llm.training import recbole_checkpoints

CONTEXT = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "title"],
    },
    "threshold": {"rating": 4},
    "mlp_hidden_size": [8],
}
MODELS = {
    "SASRec": {"train_neg_sample_args": None, "hidden_size": 8, "inner_size": 8},
    "DIN": CONTEXT | {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni5"}},
    "DeepFM": CONTEXT,
    "LightGCN": {},
    "Pop": {},
    "ItemKNN": {},
    "EASE": {},
}


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def settings(data, out, **more):
    base = {"data_path": str(data), "checkpoint_dir": str(out / "saved"), "state": "error", "show_progress": False}
    base |= {"epochs": 1, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 5, "topk": [3], "valid_metric": "MRR@3"}
    base |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    return base | more


@pytest.fixture
def trained(tiny_data, tmp_path, monkeypatch):
    """A function: train one epoch of a model with RecBole's own pieces; (trainer, train data, test data)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])

    def train(name, **more):
        given = settings(tiny_data, tmp_path) | more
        if "threshold" in given:
            given |= {"metrics": ["AUC"], "valid_metric": "AUC"}
        config = Config(name, "tiny", config_dict=given)
        init_seed(config["seed"], True)
        dataset = create_dataset(config)
        train_data, valid_data, test_data = data_preparation(config, dataset)
        model = get_model(name)(config, train_data._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        trainer.fit(train_data, valid_data, verbose=False)
        return trainer, train_data, test_data

    return train


def scores(model, dataset):
    model.eval()
    rows = dataset.join(dataset.inter_feat[:6])
    with torch.no_grad():
        return torch.as_tensor(np.asarray(model.predict(rows), dtype=float))


@pytest.mark.parametrize("name", MODELS)
def test_reload_gives_the_same_scores(trained, name):
    trainer, _, test_data = trained(name, **MODELS[name])
    config, model, dataset, *loaders = load_data_and_model(trainer.saved_model_file)
    torch.testing.assert_close(scores(model, test_data._dataset), scores(trainer.model, test_data._dataset))
    assert type(config) is Config and config["device"] == torch.device("cpu") and len(loaders) == 3
    assert config["MODEL_TYPE"] is trainer.config["MODEL_TYPE"]
    assert config["MODEL_INPUT_TYPE"] is trainer.config["MODEL_INPUT_TYPE"]
    assert config["eval_type"] is trainer.config["eval_type"]
    assert recbole_checkpoints.encode(torch.load(trainer.saved_model_file, weights_only=True)["config"])["model"] == name


def test_best_model_is_loaded_for_the_test(trained):
    trainer, _, test_data = trained("BPR")
    best = scores(trainer.model, test_data._dataset)
    with torch.no_grad():
        trainer.model.item_embedding.weight.zero_()
    trainer.evaluate(test_data, load_best_model=True)
    torch.testing.assert_close(scores(trainer.model, test_data._dataset), best)


def test_resume_continues_from_the_checkpoint(trained):
    trainer, _, test_data = trained("BPR")
    best, file = scores(trainer.model, test_data._dataset), trainer.saved_model_file
    again = get_trainer(trainer.config["MODEL_TYPE"], "BPR")(trainer.config, trainer.model)
    with torch.no_grad():
        trainer.model.item_embedding.weight.zero_()
    again.resume_checkpoint(file)
    torch.testing.assert_close(scores(again.model, test_data._dataset), best)
    assert again.start_epoch == 1 and again.optimizer.state_dict()["state"]


@pytest.mark.parametrize("write", [lambda value, file: torch.save(value, file), None], ids=["torch", "pickle"])
@pytest.mark.parametrize("where", ["resume", "evaluate", "load"])
def test_malicious_checkpoints_are_refused_and_do_nothing(trained, tmp_path, write, where):
    trainer, _, test_data = trained("BPR")
    mark, file = tmp_path / "mark", tmp_path / "evil.pth"
    evil = {"config": {"model": "BPR"}, "state_dict": trainer.model.state_dict(), "other_parameter": Evil(mark)}
    write(evil, file) if write else file.write_bytes(pickle.dumps(evil))
    calls = {
        "resume": lambda: trainer.resume_checkpoint(file),
        "evaluate": lambda: trainer.evaluate(test_data, model_file=str(file)),
        "load": lambda: load_data_and_model(str(file)),
    }
    with pytest.raises(ValueError, match=f"{file.name} holds Python objects"):
        calls[where]()
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # the file would have done something
    assert mark.exists()


@pytest.mark.parametrize("kind", ["dataset", "dataloaders"])
def test_pickled_data_is_refused(trained, tmp_path, kind):
    trainer, *_ = trained("BPR")
    name = "tiny-Dataset.pth" if kind == "dataset" else "tiny-for-BPR-dataloader.pth"
    file = Path(trainer.config["checkpoint_dir"]) / name
    file.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(ValueError, match=f"{name} is a pickled dataset.*set checkpoint_dir"):
        data_preparation(trainer.config, create_dataset(trainer.config))
    assert not (tmp_path / "mark").exists()


def test_pickles_are_not_written(trained):
    trainer, train_data, _ = trained("BPR")
    with pytest.raises(ValueError, match="save_dataset and save_dataloaders write pickles"):
        train_data._dataset.save()
    from recbole.data import save_split_dataloaders

    with pytest.raises(ValueError, match="save_dataset and save_dataloaders"):
        save_split_dataloaders(trainer.config, (train_data,))


def test_damaged_and_foreign_files_are_named(tmp_path, trained):
    trainer, *_ = trained("BPR")
    whole = Path(trainer.saved_model_file).read_bytes()
    for name, content in {"cut.pth": whole[: len(whole) // 2], "empty.pth": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            recbole_checkpoints.load_plain(tmp_path / name)
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth is not a checkpoint"):
        recbole_checkpoints.load_plain(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        recbole_checkpoints.load_plain(tmp_path / "missing.pth")


def test_failed_save_leaves_the_old_file_and_no_part(trained, monkeypatch):
    trainer, *_ = trained("BPR")
    file = Path(trainer.saved_model_file)
    before = file.read_bytes()

    def full(state, part):
        Path(part).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recbole_checkpoints.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        trainer._save_checkpoint(0)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]


def test_objects_that_are_not_plain_are_named():
    with pytest.raises(TypeError, match=r"checkpoint.other\[1\] is a object"):
        recbole_checkpoints.encode({"other": [1, object()]})
    with pytest.raises(TypeError, match="reserved key"):
        recbole_checkpoints.encode({recbole_checkpoints.MARK: 1})


@pytest.mark.parametrize("form", ["csr", "csc", "lil", "coo", "dok", "bsr"])
@pytest.mark.parametrize("array", [False, True])
def test_sparse_matrices_survive(tmp_path, form, array):
    matrix = sparse.random(5, 7, 0.4, random_state=1, dtype=np.float32)
    matrix = (sparse.csr_array(matrix) if array else sparse.csr_matrix(matrix)).asformat(form)
    torch.save(recbole_checkpoints.encode({"m": matrix}), tmp_path / "m.pt")
    back = recbole_checkpoints.decode(torch.load(tmp_path / "m.pt", weights_only=True))["m"]
    assert back.format == form and sparse.isspmatrix(back) is not array and back.dtype == np.float32
    assert (back.toarray() == matrix.toarray()).all()


def test_containers_survive(tmp_path):
    value = {1: {"a", "b"}, "t": (1, [2.5, None, True]), "n": np.float64(2), "d": torch.float16}
    value |= {np.int64(3): np.arange(6).reshape(2, 3)[:, ::-1]}
    value |= {"s": np.array(["[PAD]", "x"]), "b": np.array([True, False])}
    torch.save(recbole_checkpoints.encode(value), tmp_path / "v.pt")
    back = recbole_checkpoints.decode(torch.load(tmp_path / "v.pt", weights_only=True))
    assert back[1] == {"a", "b"} and back["t"] == (1, [2.5, None, True]) and type(back["n"]) is float
    assert (back[3] == [[2, 1, 0], [5, 4, 3]]).all() and back["s"].tolist() == ["[PAD]", "x"]
    assert back["b"].dtype == bool and back["d"] is torch.float16

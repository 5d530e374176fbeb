"""Shows, in one fresh process, what each shim of recbole_llm.compat.shims repairs: `python -m tests.shim_probes FOLDER`.

Every probe runs in a forked child twice, with all shims and with all but its own, and must succeed and fail. The
package's `__init__` applies all shims, so a bare module of that name stands in for it here. Prints JSON:
{shim: {"with": null or error, "without": null or error}}.
"""

import json
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else None
PROBES = {}


def probe(function):
    PROBES[function.__name__] = function
    return function


def write(name, suffix, *rows):
    path = FOLDER / "data" / name / f"{name}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")


def config(model="BPR", dataset="probe", **settings):
    from recbole.config import Config

    base = {"data_path": str(FOLDER / "data"), "checkpoint_dir": str(FOLDER / "saved"), "epochs": 1, "state": "error"}
    base |= {"train_batch_size": 64, "eval_batch_size": 64, "embedding_size": 8}
    return Config(model, dataset, config_dict=base | settings)


def write_data():
    pairs = [(user, step) for user in range(8) for step in range(6)]
    rows = [(f"u{u}", f"i{(u * 3 + s * (1 + u % 2)) % 12}", 1.0 + s % 5, 10.0 * s) for u, s in pairs]
    write("probe", "inter", ("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *rows)
    rows = []
    for i in range(12):
        title = "" if i == 3 else f"w{i} w{i % 4} x"[: 3 + 3 * (i % 3)]
        rows.append((f"i{i}", title, i, "" if i == 5 else f"k{i % 3}", "0 1 2"[: 1 + 2 * (i % 3)]))
    header = ("item_id:token", "title:token_seq", "price:float", "kind:token", "vector:float_seq")
    write("probe", "item", header, *rows)
    header = ("user_id:token", "item_id:token", "item_id_list:token_seq")
    for part in ("train", "valid", "test"):
        rows = [(f"s{r}", f"i{r}", " ".join(f"i{k}" for k in range(r + 1))) for r in range(5)]
        write("bench", f"{part}.inter", header, *rows)


def item_columns(*columns):
    return {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", *columns]}


def dataset(**settings):
    from recbole.data import create_dataset

    return create_dataset(config(**settings))


@probe
def numpy_aliases():
    from recbole.evaluator.metrics import MRR

    ranks = MRR.metric_info(None, np.array([[False, True, False]]))
    assert ranks.tolist() == [[0, 0.5, 0.5]]
    config()


def ray_stand_in(kind):
    """With ray absent, broken and working; forked before RecBole is imported."""
    from recbole.quick_start import quick_start

    assert kind == "works" or "ray" not in sys.modules or sys.modules["ray"] is None, "the stand-in must not stay"
    assert kind == "works" or quick_start.tune.report(a=1) is None, "no search of ray is running: nothing to report to"
    assert kind != "works" or quick_start.tune.report(a=1) == {"a": 1}, "a working ray must be used"
    if kind != "works":
        try:
            quick_start.tune.run(None)
        except AttributeError as error:
            assert "pip install ray" in str(error)
        else:
            raise AssertionError("a search of ray needs ray")


@probe
def pandas_fillna():
    feat = dataset(load_col=item_columns("title", "price", "kind")).item_feat
    price, kind = np.asarray(feat["price"]), np.asarray(feat["kind"])
    assert np.isfinite(price).all() and price[0] == np.mean(range(12)), "the padding row keeps NaN"
    assert kind[0] == 0 and np.isfinite(kind).all() and (kind == 0).sum() == 2
    assert len(feat["title"][0]) == 0


@probe
def pandas_agg_len():
    data = dataset(load_col=item_columns("title", "vector"), normalize_field=["vector"])
    tokens = data.field2id_token["title"]
    words = {tuple(tokens[row]) for row in data.item_feat["title"]}
    assert ("w7", "w3") in words and ("w9",) in words, words
    assert sorted(len(row) for row in data.item_feat["vector"])[-4:] == [3, 3, 3, 3]
    assert max(row.max() for row in data.item_feat["vector"] if len(row)) == 1
    for how in ({}, {"discretization": {"vector": {"method": "ED", "bucket": 3}}}):
        data = dataset(load_col=item_columns("vector"), numerical_features=["vector"], **how)
        assert sorted(len(row[0]) for row in data.item_feat["vector"])[-4:] == [3, 3, 3, 3]


@probe
def pandas_agg_len_in_benchmark_files():
    """Histories as released with LLaRA: the length of each row's own list, not the number of rows."""
    data = dataset(
        model="GRU4Rec",
        dataset="bench",
        load_col={"inter": ["user_id", "item_id", "item_id_list"]},
        benchmark_filename=["train", "valid", "test"],
        alias_of_item_id=["item_id_list"],
        train_neg_sample_args=None,
    )
    assert list(data.inter_feat["item_length"]) == [1, 2, 3, 4, 5] * 3


@probe
def collector_cpu():
    from collections import Counter

    import torch
    from recbole.evaluator import Collector

    metrics = ["ItemCoverage", "GiniIndex", "AveragePopularity"]
    collector = Collector(config(metrics=metrics, valid_metric="ItemCoverage@10"))
    collector.data_struct.set("data.num_items", 5)
    collector.data_struct.set("data.count_items", Counter({1: 2}))
    collector.data_struct.set("rec.items", torch.ones(1, 10, dtype=torch.int64))
    struct = collector.get_data_struct()
    assert struct.get("data.num_items") == 5 and struct.get("data.count_items") == Counter({1: 2})


@probe
def dok_update():
    from recbole.model.general_recommender import LightGCN

    model = LightGCN(config("LightGCN"), dataset(model="LightGCN"))
    assert model.norm_adj_matrix._nnz() > 0


@probe
def pop_counts():
    import torch
    from recbole.data.interaction import Interaction
    from recbole.model.general_recommender import Pop

    model = Pop(config("Pop"), dataset(model="Pop"))
    model.calculate_loss(Interaction({"item_id": torch.tensor([1, 2, 2, 2])}))
    assert model.item_cnt[:4, 0].tolist() == [0, 1, 3, 0], model.item_cnt[:4, 0].tolist()
    assert model.predict(Interaction({"item_id": torch.tensor([1, 2])})).tolist() == [torch.tensor(1 / 3).item(), 1.0]


@probe
def download_barrier():
    from recbole.data.dataset import Dataset
    from recbole.data.dataset import dataset as module

    archive = FOLDER / "archive.zip"
    archive.write_text("")
    module.decide_download = module.makedirs = module.extract_zip = lambda *_: True
    module.rename_atomic_files, module.download_url = lambda *_: None, lambda *_: str(archive)
    self = types.SimpleNamespace(
        config={"local_rank": 0}, dataset_name="x", dataset_path="x", _get_download_url=lambda _: "url",
        logger=types.SimpleNamespace(info=lambda _: None),
    )  # fmt: skip
    Dataset._download(self)


@probe
def own_datasets():
    from recbole.data.dataset import dataset as module

    def no_network(url):
        raise ConnectionError(f"a download of {url} was tried")

    module.decide_download = no_network
    os.environ["RECBOLE_LLM_OFFLINE"] = "1"
    try:
        dataset(dataset="lastfm")
    except FileNotFoundError as error:
        text = str(error)
        assert str(FOLDER / "data/lastfm/lastfm.inter") in text and f"--target {FOLDER / 'data'}" in text
        assert "python -m recbole_llm.data.convert lastfm --source DIR" in text


@probe
def flops():
    import torch
    from recbole.quick_start import quick_start
    from recbole.utils import ModelType

    from recbole_llm import registry

    class Huge(torch.nn.Module):
        type = ModelType.SEQUENTIAL

        def __deepcopy__(self, memo):
            raise MemoryError("a second copy of the model")

    registry.register(Huge)
    logger = types.SimpleNamespace(info=lambda text: None)
    assert quick_start.get_flops(Huge(), None, "cpu", logger, None) == 0


@probe
def stable_duplicates():
    from recbole.data import create_dataset

    header = ["user_id:token", "item_id:token", "timestamp:float"]
    write("ties", "inter", header, *([f"u{i % 7}", f"i{i}", i % 3] for i in range(3000)))
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    dataset = create_dataset(config(dataset="ties", rm_dup_inter="first", TIME_FIELD="timestamp", load_col=columns))
    order = [int(token[1:]) for token in dataset.id2token("item_id", np.asarray(dataset.inter_feat["item_id"]))]
    assert order == sorted(range(3000), key=lambda i: i % 3), "equal times lost the file's order"


COLUMNS = ("user_id:token", "item_id:token", "timestamp:float")
IN_TIME = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}
IN_TIME |= {"TIME_FIELD": "timestamp", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@probe
def atomic_files():
    write("named", "inter", COLUMNS, *((f"u{u}", "NA" if s == 2 else f"i{s}", s) for u in range(4) for s in range(5)))
    data = dataset(dataset="named", **IN_TIME)
    assert len(data.inter_feat) == 20 and "NA" in data.field2token_id["item_id"], "an item called NA is lost"


@probe
def time_order():
    steps = [(u, s) for u in range(6) for s in reversed(range(5))]
    write("seconds", "inter", COLUMNS, *((f"u{u}", f"i{s}", 1_700_000_000 + 10 * s) for u, s in steps))
    test = dataset(dataset="seconds", **IN_TIME).build()[2]
    assert set(test.id2token("item_id", test.inter_feat["item_id"].numpy())) == {"i4"}, "not the latest items"


@probe
def exact_split():
    write("turns", "inter", COLUMNS, *((f"u{u}", f"i{s}", 1_700_000_000 + 4 * s + u) for u in range(4) for s in range(10)))
    split = {"eval_args": IN_TIME["eval_args"] | {"split": {"TS": [0.8, 0.1, 0.1]}}}
    test = dataset(dataset="turns", **IN_TIME | split).build()[2]
    assert len(test) == 4, f"{len(test)} of 40 rows are the latest tenth"


@probe
def imputed_means():
    write("part", "inter", COLUMNS, *((f"u{u}", f"i{s}", s) for u in range(4) for s in range(5)))
    write("part", "item", ("item_id:token", "price:float"), *((f"i{i}", i) for i in range(4)))
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}
    try:
        data = dataset(dataset="part", load_col=columns, filter_inter_by_user_or_item=False)
    except ValueError as error:
        assert "part.item has no row for 1 items" in str(error) and "'i4'" in str(error)
        return
    raise AssertionError(f"a price of {data.item_feat['price'][5]} was made up")


@probe
def filter_counts():
    try:
        dataset(val_interval={"rating": "[9,10]"}, load_col=item_columns("kind"))
    except ValueError as error:
        assert "val_interval" in str(error) and "left 0 of 48 rows" in str(error), error
        return
    raise AssertionError("nothing is left, and nobody says so")


@probe
def benchmark_files():
    for part, steps in (("train", range(4)), ("valid", [4]), ("test", [5])):
        write("plain", f"{part}.inter", COLUMNS, *((f"u{u}", f"i{u + s}", s) for u in range(4) for s in steps))
    settings = {"dataset": "plain", "model": "SASRec", "train_neg_sample_args": None} | IN_TIME
    train, valid, test = dataset(benchmark_filename=["train", "valid", "test"], **settings).build()
    assert (len(train), len(valid), len(test)) == (12, 4, 4) and set(test.inter_feat["item_length"].tolist()) == {5}


@probe
def case_studies():
    import torch
    from recbole.utils import case_study

    class Scores:
        eval = full_sort_predict = staticmethod(lambda rows=(): torch.zeros(len(rows), 6))

    settings = {"dataset": "seconds", "model": "SASRec", "train_neg_sample_args": None} | IN_TIME
    write("seconds", "inter", COLUMNS, ("late", "i0", 5), *((f"u{u}", f"i{s}", 10 * s) for u in range(6) for s in range(5)))
    split = dataset(**settings).build()[2]
    test = types.SimpleNamespace(dataset=split, is_sequential=True)
    users = split.token2id("user_id", ["u0", "late", "u1"])
    try:
        found = case_study.full_sort_scores(users, Scores(), test)
    except ValueError as error:
        assert "1 of 3 users have no row" in str(error) and "'late'" in str(error), error
        return
    raise AssertionError(f"{len(found)} lines of scores for 3 users")


@probe
def plain_checkpoints():
    from recbole.quick_start import load_data_and_model, run_recbole
    from recbole.quick_start.quick_start import load_data_and_model as inner

    settings = {"data_path": str(FOLDER / "data"), "checkpoint_dir": str(FOLDER / "saved"), "state": "error"}
    result = run_recbole("ItemKNN", "probe", config_dict=settings | {"show_progress": False})
    (file,) = (FOLDER / "saved").glob("ItemKNN-*.pth")
    _, model, *_ = load_data_and_model(str(file))
    assert inner is load_data_and_model and model.pred_mat.nnz and result["test_result"]


@probe
def pickled_datasets():
    from recbole.data import create_dataset

    mark = FOLDER / f"mark-{os.getpid()}"
    (FOLDER / "pickles").mkdir(exist_ok=True)
    (FOLDER / "pickles/probe-Dataset.pth").write_bytes(pickle.dumps(Mark(mark)))
    try:
        create_dataset(config(checkpoint_dir=str(FOLDER / "pickles")))
    except ValueError as error:
        assert "probe-Dataset.pth" in str(error) and "checkpoint_dir" in str(error)
    finally:
        assert not mark.exists(), "the pickle ran"


@probe
def hyper_tuning():
    from recbole.trainer import HyperTuning

    def objective(params, files):
        score = 5 - abs(params["x"] - 2)  # RecBole takes a score of 0 for none
        return {"model": "m", "best_valid_score": score, "valid_score_bigger": True, "best_valid_result": {}, "test_result": {}}

    search = HyperTuning(objective, params_dict={"choice": {"x": [1, 2, 3]}}, algo="exhaustive")
    search.run()
    assert search.best_params == {"x": 2} and len(search.params2result) == 3


class Mark:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def forked(function):
    """Run `function` in a child; None when it returned, else its error as text."""
    read, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            function()
            message = b"ok"
        except BaseException as error:
            message = f"{type(error).__name__}: {error}".encode()
        os.write(send, message[:2000])
        os._exit(0)
    os.close(send)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return None if text == "ok" else text or "the process died"


def ray_kinds():
    """What `import ray.tune` meets: nothing, a ray broken by numpy 2, a ray that works."""
    sources = {"broken": "import numpy\nnumpy.bool8", "works": "def report(**metrics):\n    return metrics"}
    for kind, source in sources.items():
        folder = FOLDER / kind / "ray"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("from ray import helper\n")
        (folder / "helper.py").write_text("")
        (folder / "tune.py").write_text(source + "\n")
    return ("absent", "broken", "works")


def with_ray(kind, shims, skip):
    def run():
        if kind == "absent":
            sys.modules["ray"] = None
        else:
            sys.path.insert(0, str(FOLDER / kind))
        shims.apply(skip)
        ray_stand_in(kind)

    return run


def main():
    package = types.ModuleType("recbole_llm")
    package.__path__ = [str(Path(__file__).resolve().parents[1] / "recbole_llm")]
    sys.modules["recbole_llm"] = package
    import pandas  # noqa: F401  (before the forks, which then share it)
    import sklearn.linear_model  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    from recbole_llm.compat import shims

    os.chdir(FOLDER)
    write_data()
    report = {}
    for kind in ray_kinds():
        report[f"ray_stand_in, ray {kind}"] = {
            "with": forked(with_ray(kind, shims, ())),
            "without": forked(with_ray(kind, shims, ("ray_stand_in",))),
        }
    shims.apply(skip=set(shims.SHIMS) - {"ray_stand_in"})  # imports RecBole once for all children
    for name, function in PROBES.items():
        own = next(shim for shim in shims.SHIMS if name.startswith(shim))
        report[name] = {
            "with": forked(lambda f=function: (shims.apply(), f())),
            "without": forked(lambda f=function, s=own: (shims.apply(skip=(s,)), f())),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

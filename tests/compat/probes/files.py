"""Shims for how RecBole reads, orders, filters and splits a dataset's files."""

import os
import types

import numpy as np

from tests.compat.probes.common import COLUMNS, FOLDER, IN_TIME, config, dataset, item_columns, probe, write


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
def stable_duplicates():
    from recbole.data import create_dataset

    header = ["user_id:token", "item_id:token", "timestamp:float"]
    write("ties", "inter", header, *([f"u{i % 7}", f"i{i}", i % 3] for i in range(3000)))
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    dataset = create_dataset(config(dataset="ties", rm_dup_inter="first", TIME_FIELD="timestamp", load_col=columns))
    order = [int(token[1:]) for token in dataset.id2token("item_id", np.asarray(dataset.inter_feat["item_id"]))]
    assert order == sorted(range(3000), key=lambda i: i % 3), "equal times lost the file's order"


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

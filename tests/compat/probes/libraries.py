"""Shims for what newer numpy, pandas, scipy and torch changed, and for RecBole's own faults around them."""


import numpy as np

from tests.compat.probes.common import config, dataset, item_columns, probe


@probe
def numpy_aliases():
    from recbole.evaluator.metrics import MRR

    ranks = MRR.metric_info(None, np.array([[False, True, False]]))
    assert ranks.tolist() == [[0, 0.5, 0.5]]
    config()


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

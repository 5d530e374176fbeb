"""What probes share: where they write, the datasets that they read, and how one is declared."""

import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
PROBES = {}
COLUMNS = ("user_id:token", "item_id:token", "timestamp:float")
IN_TIME = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}
IN_TIME |= {"TIME_FIELD": "timestamp", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


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

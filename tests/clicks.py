"""Labelled rows for tests: configurations of `protocol: ctr` on the made-up dataset `toy`, or on lines of their own."""

import pytest

from recbole_llm import LLMConfig
from recbole_llm.data.click import rows

MODELS = ["DIN", "DIEN", "DeepFM", "DCNV2", "AutoInt", "SASRec", "BPR"]
COLUMNS = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


@pytest.fixture(autouse=True)
def forget_labelled_rows():
    """Each test reads its labelled rows anew."""
    rows._memory.clear()


@pytest.fixture
def make(toy_path, tmp_path):
    """Builds configurations of labelled rows."""

    def build(model="DIN", dataset="toy", **settings):
        base = {"data_path": str(toy_path), "checkpoint_dir": str(tmp_path), "protocol": "ctr", "state": "ERROR"}
        return LLMConfig(model, dataset, config_dict={**base, "show_progress": False, **settings})

    return build


def write(folder, lines, columns=COLUMNS, name="own"):
    """Write a dataset of these lines; returns the settings that name it."""
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.inter").write_text("\n".join([columns, *lines]) + "\n")
    return {
        "data_path": str(folder),
        "dataset": name,
        "load_col": {"inter": [c.split(":")[0] for c in columns.split("\t")]},
    }


def pairs(split):
    """(user, item, label) of each row of a split."""
    columns = (split.id2token(field, split.inter_feat[field].numpy()) for field in (split.uid_field, split.iid_field))
    return list(zip(*(map(str, column) for column in columns), split.inter_feat["label"].tolist(), strict=True))

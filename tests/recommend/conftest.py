"""Fixtures: trained runs, and the recommenders loaded from them."""

import csv
import json
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm import run_recbole_llm
from tests import tiny

CRM = {"CoLLM": {"embedding_size": 8}, "RecLoRA": {"embedding_size": 8, "mlp_hidden_size": [8]}}


class Made:
    """A run of one model: its result file, its folder, its data, and the recommender loaded from it."""

    def __init__(self, name, protocol, llm, out, settings):
        self.out, data = out, tiny.write_dataset(out / "data")
        with open(data / "tiny/tiny.item", "a", encoding="utf-8") as file:
            file.write("new1\tBrand new thing\nnew2\tQuite\u0301 New Thing\n")  # an accent of its own, as macOS writes it
        inter = (data / "tiny/tiny.inter").read_text()
        before, latest = [line for line in inter.splitlines() if line.startswith("u5\t")][-2:]
        tied = "\t".join([*latest.split("\t")[:-1], before.split("\t")[-1]])  # two at one moment: neither is the other's history
        (data / "tiny/tiny.inter").write_text(inter.replace(latest, tied))
        more = {"train_sample_size": 16, "latency_rows": 0, "rerank_n": 12, "protocol": protocol, "crm_epochs": 1}
        given = tiny.settings(data, llm, out, **more | ({"crm_config": CRM[name]} if name in CRM else {}) | settings)
        self.file = Path(run_recbole_llm(name, "tiny", config_dict=given)["result_file"])
        self.record = json.loads(self.file.read_text())
        self.folder = (self.file.parent / self.record["checkpoint"]).resolve()
        self.recommender = recbole_llm.load(self.file)
        with open(self.file.with_name(self.record["rows"]), newline="") as rows:
            self.rows = list(csv.DictReader(rows))

    def recommend(self, **request):
        return self.recommender.recommend(**request, show_progress=False)


@pytest.fixture(scope="session")
def made(tiny_llm, tmp_path_factory):
    found = {}

    def get(name="iLoRA", protocol="candidates", **settings):
        key = (name, protocol, *sorted(settings.items()))
        if key not in found:
            found[key] = Made(name, protocol, tiny_llm, tmp_path_factory.mktemp(name), settings)
        return found[key]

    return get

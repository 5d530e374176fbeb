"""`import recbole_llm` makes RecBole find models, trainers, datasets, dataloaders and properties by model name."""

import recbole_llm  # noqa: F401, I001  isort: skip  (RecBole imports only after it)

import importlib.util
import sys

import pytest
import torch
from recbole.config import Config
from recbole.data.dataloader import TrainDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.quick_start import run_recbole
from recbole.trainer import Trainer
from recbole.utils import InputType, get_model, get_trainer

from recbole_llm import ConfigError, LLMConfig, registry
from recbole_llm.protocols.candidates import Candidates
from recbole_llm.protocols.full import Full
from recbole_llm.quick_start import run_recbole_llm


class Toy(SequentialRecommender):
    """Scores items by one trained number each."""

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.weight = torch.nn.Parameter(torch.zeros(self.n_items, config["toy_width"]))

    def calculate_loss(self, interaction):
        scores = self.weight.sum(1).expand(len(interaction), -1)
        return torch.nn.functional.cross_entropy(scores, interaction[self.POS_ITEM_ID])

    def predict(self, interaction):
        return self.weight.sum(1)[interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction):
        return self.weight.sum(1).repeat(len(interaction), 1)


class ToyTrainer(Trainer):
    used = 0

    def fit(self, *args, **kwargs):
        ToyTrainer.used += 1
        return super().fit(*args, **kwargs)


class ToyDataset(SequentialDataset):
    pass


class ToyDataLoader(TrainDataLoader):
    pass


def toy_dataloader(config, phase):
    from recbole.data.dataloader import FullSortEvalDataLoader

    assert phase in ("train", "valid", "test")
    return ToyDataLoader if phase == "train" else FullSortEvalDataLoader


class FirstPlace(Candidates):
    """The candidate sets; weights are chosen by Hit@1."""

    name = "first"
    topk = (1, 3)

    def complete(self, final, given, model_class, chosen=()):
        super().complete(final, given, model_class, chosen)
        final["valid_metric"] = "Hit@1"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Toy, registered with a properties file and all its parts, and forgotten afterwards."""
    properties = tmp_path / "toy.yaml"
    properties.write_text("toy_width: 3\nepochs: 2\nprotocol: ~\ntrain_neg_sample_args: ~\nrepeatable: True\n")
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr("sys.argv", ["test"])
    monkeypatch.chdir(tmp_path)
    yield registry.register(Toy, properties, ToyTrainer, ToyDataset, toy_dataloader)
    sys.modules.pop("recbole.model.sequential_recommender.toy")


def settings(data, out):
    return {
        "data_path": str(data),
        "checkpoint_dir": str(out / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "metrics": ["MRR"],
        "topk": [3],
        "valid_metric": "MRR@3",
        "show_progress": False,
    }


def test_plain_run_recbole_uses_every_part(toy, tiny_data, tmp_path):
    used = ToyTrainer.used
    result = run_recbole("Toy", "tiny", config_dict=settings(tiny_data, tmp_path))
    assert 0 <= result["test_result"]["mrr@3"] <= 1 and ToyTrainer.used == used + 1


def test_recbole_looks_up_every_part(toy, tiny_data, tmp_path):
    import recbole.data.dataset
    from recbole.data import utils

    assert get_model("Toy") is Toy and get_trainer(Toy.type, "Toy") is ToyTrainer
    assert recbole.data.dataset.ToyDataset is ToyDataset and not hasattr(recbole.data.dataset, "BPRDataset")
    config = Config("Toy", "tiny", config_dict=settings(tiny_data, tmp_path))
    assert config["toy_width"] == 3 and config["epochs"] == 2
    assert utils.get_dataloader(config, "train") is ToyDataLoader
    assert utils.get_dataloader(config, "evaluation").__name__ == "FullSortEvalDataLoader"
    assert isinstance(utils.create_dataset(config), ToyDataset)
    baseline = Config("BPR", "tiny", config_dict=settings(tiny_data, tmp_path))
    assert utils.get_dataloader(baseline, "train") is TrainDataLoader and baseline["toy_width"] is None


def test_class_is_found_whatever_was_looked_up_before(toy):
    spec = importlib.util.find_spec("recbole.model.sequential_recommender.toy")
    assert spec is not None and registry.is_plugin_model("Toy") and not registry.is_plugin_model("toy")
    with pytest.raises(AttributeError, match="no attribute 'TOY'"):
        get_model("TOY")


@pytest.mark.parametrize("name", ["iLoRA", "LLaRA"])
def test_own_models_are_registered(name):
    assert registry.is_plugin_model(name) and importlib.util.find_spec(f"{registry.PACKAGE}.{name.lower()}")
    assert get_model(name).__name__ == name
    trainer = get_trainer(get_model(name).type, name)
    assert trainer.__name__ == "LLMTrainer"


def test_register_by_path_imports_nothing_until_asked(toy):
    name = registry.register("no.such.module:Ghost")
    assert name == "Ghost" and registry.is_plugin_model("Ghost")
    with pytest.raises(ModuleNotFoundError, match="no.such|'no'"):
        get_model("Ghost")
    sys.modules.pop("recbole.model.sequential_recommender.ghost")


def test_register_refuses_what_cannot_work(toy, tmp_path):
    with pytest.raises(ValueError, match="RecBole has a model 'BPR' already"):
        registry.register(type("BPR", (Toy,), {}))
    with pytest.raises(ValueError, match="the plugin has a model 'RatedDIN' already"):
        registry.register(type("RatedDIN", (Toy,), {}))
    with pytest.raises(ValueError, match="'TOY' and the registered 'Toy' differ by case"):
        registry.register(type("TOY", (Toy,), {}))
    with pytest.raises(ValueError, match="neither a class nor 'module:Class'"):
        registry.register("no_colon")
    with pytest.raises(FileNotFoundError, match="missing.yaml of model 'Toy'"):
        registry.register(Toy, tmp_path / "missing.yaml")


def test_a_registered_protocol_is_chosen_by_its_name(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PROTOCOLS", dict(registry.PROTOCOLS))  # it is forgotten afterwards
    monkeypatch.chdir(tmp_path)
    given = {"data_path": str(tiny_data), "protocol": "first", "n_candidates": 8, "show_progress": False}
    with pytest.raises(ConfigError, match="protocol: must be .* a registered protocol's name, or null, got 'first'"):
        LLMConfig("Pop", "tiny", config_dict=given)
    registry.register_protocol(FirstPlace)
    registry.register_protocol("recbole_llm.protocols.full:Full", "catalogue")
    assert registry.protocols()[-2:] == ["first", "catalogue"] and type(registry.protocol("catalogue")) is Full
    result = run_recbole_llm("Pop", "tiny", config_dict=given)
    assert LLMConfig("Pop", "tiny", config_dict=given)["valid_metric"] == "Hit@1"
    assert {"hit@1", "mrr@3"} <= result["test_result"].keys()
    assert result["result_file"].endswith("tiny.first.Pop.seed2020.json")


def test_available_models_are_recbole_s_and_ours():
    plugin, recbole = registry.available_models()
    assert {"iLoRA", "LLaRA"} <= set(plugin)
    assert {"SASRec", "BPR", "Pop", "DIN", "DeepFM", "Random", "KGAT", "GRU4RecF"} <= set(recbole) and len(recbole) > 80


@pytest.mark.parametrize("name, hint", [("ilora", "iLoRA"), ("SASrec", "SASRec"), ("GRU4rek", "GRU4Rec")])
def test_unknown_models_get_a_hint(name, hint):
    with pytest.raises(ValueError, match=f"Unknown model '{name}'. Did you mean {hint}.*Available: .*LLaRA"):
        registry.check_model(name)
    assert registry.check_model(hint) == hint


def test_unknown_model_without_a_hint():
    with pytest.raises(ValueError, match="^Unknown model 'qqqq'. Available: "):
        registry.check_model("qqqq")

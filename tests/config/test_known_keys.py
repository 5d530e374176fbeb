"""Which keys a run may set."""

import textwrap

import pytest
import yaml

from recbole_llm import registry
from recbole_llm.config.known_keys import hint, keys_read, known_keys
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import ConfigError, SafeLoader
from recbole_llm.registry import available_models
from tests.config.make import make


def test_known_keys_come_from_files_and_source(properties):
    known = known_keys("SASRec", "ml-100k")
    for key in ("hidden_size", "n_layers", "epochs", "alias_of_item_id", "load_col", "numerical_features", "gpu_id"):
        assert key in known, key
    assert {"nproc", "local_rank", "ip", "layer", "wandb_project", "normalize_all"} <= known
    assert "reg_weight" in known, "read by RecBole's base trainer, whatever the model"
    assert "pretrain_epochs" not in known and "pretrain_epochs" in known_keys("S3Rec", "ml-100k"), "read by its own"
    assert not known & {"embedding_sizes", "device", "eval_type", "mlp_hidden_size", "time-aware"}
    assert "mlp_hidden_size" in known_keys("DIN", "ml-100k") and "time-aware" in known_keys("DiffRec", "ml-100k")
    assert "order_list" in known_keys("EulerNet", "ml-100k")


def test_also_known_keys_of_other_models(properties):
    with pytest.raises(ConfigError, match="n_facet"):
        make("BPR", config_dict={"n_facet": 1})
    assert make("BPR", config_dict={"n_facet": 1}, also_known={"n_facet"})["n_facet"] == 1


def test_third_party_keys_are_those_of_its_yaml(properties, tmp_path, monkeypatch):
    source = """
        from recbole.model.sequential_recommender import SASRec
        from recbole.utils import InputType
        class Mine(SASRec):
            input_type = InputType.POINTWISE
            def __init__(self, config, dataset):
                super().__init__(config, dataset)
                self.depth, self.undeclared = config["my_depth"], config["my_width"]
    """
    (tmp_path / "mine_module.py").write_text(textwrap.dedent(source))
    (tmp_path / "mine.yaml").write_text("my_depth: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.register("mine_module:Mine", properties=tmp_path / "mine.yaml")
    assert make("Mine", config_dict={"my_depth": 2, "train_neg_sample_args": None})["my_depth"] == 2
    with pytest.raises(ConfigError, match="my_dept: unknown key; did you mean 'my_depth'"):
        make("Mine", config_dict={"my_dept": 2, "train_neg_sample_args": None})
    with pytest.raises(ConfigError, match="my_width: unknown key"):
        make("Mine", config_dict={"my_width": 2, "train_neg_sample_args": None})


def test_words_of_docstrings_and_other_objects_are_no_settings():
    """Keys are what code reads from a configuration: not text, not RecBole's tuning files, not another model's trainer."""
    wrong = {"typo": 1, "key": 2, "full": 3, "default": 4, "choice": 5, "save_step": 6}
    with pytest.raises(ConfigError) as raised:
        make("iLoRA", config_dict=wrong)
    assert [line.partition(":")[0] for line in raised.value.problems] == list(wrong)
    assert "did you mean 'save_steps'?" in str(raised.value)
    assert "save_step" in known_keys("S3Rec", "ml-100k") and "save_step" not in known_keys("SASRec", "ml-100k")


@pytest.mark.parametrize("word, meant", [("lora_rank", "lora_r"), ("epoch", "epochs"), ("candidate", "candidates"), ("lr_decay", None)])
def test_the_nearest_word_that_begins_alike_is_suggested(word, meant):
    known = {"lora_r", "local_rank", "epochs", "candidates", "candidate_seed", "Lora_Alpha"}
    assert hint(word, known) == (f"; did you mean {meant!r}?" if meant else "")


def test_keys_are_read_from_code(tmp_path):
    file = tmp_path / "model.py"
    file.write_text(textwrap.dedent('''
        """Reads config["text"]."""
        a, b = config["one"], self.config.get("two", 3)
        if "three" in config and "mode" in config["four"]["five"]:
            peft_config["six"], final_config_dict["seven"], config[name], config.get(name)
    '''))
    assert keys_read(file) == {"one", "two", "three", "four", "seven"}


def test_what_llms_set_is_known():
    known = {model: known_keys(model, "ml-100k") for model in available_models()[0]}
    files = sorted(properties_dir().glob("llm/*.yaml"))
    for file in files:
        values = yaml.load(file.read_text(), Loader=SafeLoader)
        assert values.pop("llm_source") and {*known, "PointwiseLLM"} >= (models := values.pop("models", {})).keys()
        assert all(values.keys() | models.get(model, {}).keys() <= known[model] for model in known), file
        assert all(LLMConfig(model, "ml-100k", config_dict={"llm_path": file.stem}) for model in known)
    assert len(files) == 8

"""Layers, protocol and checks of the configuration."""

import recbole_llm  # noqa: F401, I001  isort: skip  (RecBole imports only after it)

import pytest
import torch
import yaml
from recbole.config import Config

from recbole_llm import registry
from recbole_llm.config.loader import LLMConfig, config_from_values
from recbole_llm.config.values import ConfigError, plain_values
from tests.config.make import make


def test_every_layer_wins_over_the_one_below(properties, tmp_path):
    (tmp_path / "user.yaml").write_text("layer: file\n")
    steps = [
        ({"overall.yaml": "protocol: candidates\nn_candidates: 20\nlayer: overall\n"}, {}, "overall"),
        ({"model/SASRec.yaml": "layer: model\n"}, {}, "model"),
        ({"dataset/ml-100k.yaml": "layer: dataset\n"}, {}, "dataset"),
        ({}, {"config_file_list": [tmp_path / "user.yaml"]}, "file"),
        ({}, {"config_dict": {"layer": "dict"}}, "dict"),
        ({}, {"command_line": {"layer": "line"}}, "line"),
    ]
    given = {}
    for files, arguments, expected in steps:
        properties(files)
        given |= arguments
        assert make(**given)["layer"] == expected
    assert make(model="BPR")["layer"] == "dataset", "another model's file must not be read"


def test_llm_settings_are_for_plugin_models_only(properties):
    properties({"llm.yaml": "epochs: 1\nlayer: llm\ntrain_neg_sample_args: ~\n"})
    properties({"model/iLoRA.yaml": "num_experts: 4\n"})
    assert make("iLoRA")["epochs"] == 1 and make("iLoRA")["layer"] == "llm" and make("iLoRA")["num_experts"] == 4
    assert make("SASRec")["epochs"] == 300 and make("SASRec")["layer"] == "overall"


def test_a_run_that_is_resumed_from_elsewhere_keeps_its_checkpoint_dir(tmp_path, monkeypatch):
    saved, bare = tmp_path / "there/saved", tmp_path / "bare/saved"
    for folder in (saved / "crm", saved / "run/step-00000004", bare / "run", tmp_path / "here"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    def found(resume, **given):
        return LLMConfig("LLaRA", "ml-100k", config_dict={"resume": str(resume), **given})["checkpoint_dir"]

    assert found(saved / "run") == found("../there/saved/run/step-00000004") == str(saved)
    assert found(saved / "run", checkpoint_dir="mine") == "mine"
    assert found("auto") == found(bare / "run") == "saved"
    monkeypatch.chdir(saved.parent)
    assert found(saved / "run") == "saved"


def test_the_llm_s_own_layer_lies_between_llm_yaml_and_the_model_s(properties):
    """Which file it is depends on `llm_path`, wherever that is set."""
    properties({"llm.yaml": "llm_path: a\nlayer: llms\nepochs: 9\nlora_r: 9\ntrain_neg_sample_args: ~\n"})
    properties({"llm/a.yaml": "llm_source: {hub: x/a}\nlayer: a\nepochs: 1\nlora_r: 1\nmodels: {iLoRA: {lora_alpha: 5}}\n"})
    properties({"llm/b.yaml": "llm_source: {hub: x/b}\nlayer: b\nepochs: 2\nlora_r: 2\n"})
    properties({"model/iLoRA.yaml": "num_experts: 1\nlora_r: 3\nlora_alpha: 3\n"})
    config = make("iLoRA")
    assert [config[key] for key in ("layer", "epochs", "lora_r", "lora_alpha")] == ["a", 1, 3, 5]
    assert config.llm_config_dict == {"layer": "a", "epochs": 1, "lora_alpha": 5}, "lora_r is the model's"
    for shown in (str(config), str(Config("iLoRA", "ml-100k"))):
        assert shown.count(": a sets layer='a', epochs=1, lora_alpha=5\n") == shown.count(" sets ") == 1
    assert " sets " not in str(make("SASRec"))
    assert make("LLaRA")["lora_r"] == 1 and make("LLaRA")["lora_alpha"] is None
    assert config["llm_source"] is None and config["models"] is None
    for given in ({"config_dict": {"llm_path": "b"}}, {"command_line": {"llm_path": "b"}}):
        assert make("iLoRA", **given)["epochs"] == 2 and make("iLoRA", **given)["lora_alpha"] == 3
    assert make("iLoRA", config_dict={"llm_path": "./b"})["epochs"] == 9, "a folder"
    assert Config("iLoRA", "ml-100k", config_dict={"llm_path": "b"})["layer"] == "b"
    set_by_user = make("iLoRA", config_dict={"epochs": 4, "lora_alpha": 4})
    assert set_by_user["epochs"] == set_by_user["lora_alpha"] == 4 and set_by_user.llm_config_dict == {"layer": "a"}
    properties({"dataset/ml-100k.yaml": "llm_path: b\nlora_alpha: 6\n"})
    assert make("iLoRA")["layer"] == "b" and make("iLoRA", command_line={"llm_path": "a"})["lora_alpha"] == 6
    assert make("SASRec")["layer"] == "overall" and make("SASRec").llm_config_dict == {}


def test_plain_recbole_gets_the_layers_of_plugin_models_only(properties):
    properties({"llm.yaml": "layer: llm\ntrain_neg_sample_args: ~\n"})
    plugin = Config("iLoRA", "ml-100k")
    assert plugin["layer"] == "llm" and plugin["eval_args"]["mode"] == {"valid": "uni19", "test": "uni19"}
    baseline = Config("BPR", "ml-100k")
    assert baseline["layer"] is None and baseline["eval_args"]["mode"]["test"] == "full"


NONE, UNIFORM = "none", "uniform"


@pytest.mark.parametrize(
    "model, negatives, repeatable",
    [
        ("SASRec", NONE, True),
        ("GRU4Rec", NONE, True),
        ("BERT4Rec", NONE, True),
        ("Caser", NONE, True),
        ("NARM", NONE, True),
        ("RepeatNet", NONE, True),
        ("FPMC", UNIFORM, True),
        ("DIN", UNIFORM, True),
        ("DIEN", UNIFORM, True),
        ("DeepFM", UNIFORM, False),
        ("BPR", UNIFORM, False),
        ("LightGCN", UNIFORM, False),
        ("NeuMF", UNIFORM, False),
        ("Pop", UNIFORM, False),
        ("ItemKNN", UNIFORM, False),
        ("Random", UNIFORM, False),
    ],
)
def test_protocol_makes_models_comparable(properties, model, negatives, repeatable):
    config = make(model)
    assert config["train_neg_sample_args"]["distribution"] == negatives
    mode = {"valid": "uni19", "test": "uni19"}
    split = {"LS": "valid_and_test"}
    assert config["eval_args"] == {"split": split, "order": "TO", "group_by": "user", "mode": mode}
    assert config["metrics"] == ["Hit", "NDCG", "MRR"] and config["topk"] == [1, 3, 5, 10]
    assert config["valid_metric"] == "NDCG@10" and config["threshold"] is None
    assert config["repeatable"] is repeatable
    assert str(config["eval_type"]) == "EvaluatorType.RANKING"


def test_protocol_keeps_what_the_user_sets(properties):
    given = {"metrics": "Recall", "topk": 5, "valid_metric": "recall@5", "n_candidates": 6}
    config = make("BPR", config_dict=given | {"eval_args": {"order": "RO"}})
    assert config["eval_args"]["order"] == "RO" and config["eval_args"]["mode"]["test"] == "uni5"
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["metrics"] == ["Recall"] and config["topk"] == [5] and config["valid_metric"] == "recall@5"
    loss = make("SASRec", config_dict={"loss_type": "BPR"})
    assert loss["train_neg_sample_args"]["distribution"] == "uniform"
    negatives = {"distribution": "popularity"}
    assert make("BPR", config_dict={"train_neg_sample_args": negatives})["train_neg_sample_args"]["sample_num"] == 1
    assert negatives == {"distribution": "popularity"}, "RecBole would have completed the caller's dict"


def test_no_protocol_is_recbole(properties):
    config = make("BPR", config_dict={"protocol": None})
    assert config["eval_args"]["mode"]["test"] == "full" and config["valid_metric"] == "MRR@10"
    final = {"protocol": None}
    registry.protocol(None).complete(final, {}, None)
    assert final == {"protocol": None}


@pytest.mark.parametrize(
    "given, text",
    [
        ({"eval_args": {"mode": "full"}}, "eval_args: mode 'full' contradicts protocol 'candidates'"),
        ({"eval_args": {"mode": {"valid": "uni19", "test": "uni99"}}}, "contradicts protocol"),
        ({"metrics": ["AUC"]}, "metrics: AUC needs labelled rows"),
        ({"metrics": ["Hitt"]}, "metrics: 'Hitt' is not a metric of RecBole; did you mean 'hit'?"),
        ({"topk": [5]}, "valid_metric: 'NDCG@10' is not among metrics"),
        ({"valid_metric": "Recall@10"}, "valid_metric: 'Recall@10' is not among"),
    ],
)
def test_contradictions_with_the_protocol(properties, given, text):
    with pytest.raises(ConfigError) as caught:
        make("DIN", config_dict=given)
    assert text in str(caught.value)


def test_all_problems_are_listed_at_once(properties, tmp_path):
    (tmp_path / "user.yaml").write_text("hiden_size: 3\nn_heads: 2\n")
    with pytest.raises(ConfigError) as caught:
        make(
            config_file_list=[tmp_path / "user.yaml"],
            config_dict={"epoch": 3, "n_candidates": 1, "device": "cpu", "save_dataset": True, "metrics": ["Hit", "NDCGG"]},
            command_line={"crm_epochs": "many", "zzzz": 1},
        )
    assert len(caught.value.problems) == 9
    for part in (
        "hiden_size: unknown key; did you mean 'hidden_size'?",
        "epoch: unknown key; did you mean 'epochs'?",
        "zzzz: unknown key; remove it",
        "n_candidates: must be an integer >= 2, got 1",
        "crm_epochs: must be an integer >= 0, got 'many'",
        "device: cannot be set, set gpu_id",
        "save_dataset: pickled datasets",
        "metrics: 'NDCGG' is not a metric of RecBole",
        "valid_metric: 'NDCG@10' is not among metrics",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_plain_recbole_checks_plugin_models(properties, monkeypatch):
    monkeypatch.setattr("sys.argv", ["host", "--host_option=1", "positional"])
    Config("iLoRA", "ml-100k", config_dict={"train_neg_sample_args": None})
    with pytest.raises(ConfigError, match="epoch: unknown key"):
        Config("iLoRA", "ml-100k", config_dict={"epoch": 1})
    with pytest.raises(ConfigError, match="save_dataloaders"):
        Config("BPR", "ml-100k", config_dict={"save_dataloaders": True})


def test_rank_must_be_divisible_by_the_experts(properties):
    properties({"llm.yaml": "lora_r: 8\n", "model/iLoRA.yaml": "num_experts: 4\ngate_form: linear\ngate_input: sequence\ngate_top_k: 2\n"})
    base = {"train_neg_sample_args": None, "lora_r": 8}
    with pytest.raises(ConfigError, match="num_experts: must divide lora_r, got num_experts=3 and lora_r=8"):
        make("iLoRA", config_dict=base | {"num_experts": 3})
    with pytest.raises(ConfigError, match="gate_top_k: must be at most num_experts=2"):
        make("iLoRA", config_dict=base | {"num_experts": 2, "gate_form": "topk", "gate_top_k": 3})
    with pytest.raises(ConfigError, match="gate_input: iLoRA takes sequence, .* uniform, got 'auto'"):
        make("iLoRA", config_dict=base | {"gate_input": "auto"})
    assert make("iLoRA", config_dict=base | {"num_experts": 2})["num_experts"] == 2


def test_a_setting_of_another_model_is_no_setting_of_this_one(properties):
    properties({"llm.yaml": "lora_r: 8\n", "model/iLoRA.yaml": "num_experts: 4\n", "model/PointwiseLLM.yaml": "text_history_len: 4\n"})
    with pytest.raises(ConfigError, match="num_experts: a setting of iLoRA, not of this model"):
        make("LLaRA", config_dict={"train_neg_sample_args": None, "num_experts": 3})
    with pytest.raises(ConfigError, match="num_experts: a setting of iLoRA, not of this model"):
        make("SASRec", config_dict={"train_neg_sample_args": None, "num_experts": 3})
    with pytest.raises(ConfigError, match="text_history_len: a setting of CoLLM, RecLoRA, TALLRec, not of this model"):
        make("LLaRA", config_dict={"train_neg_sample_args": None, "text_history_len": 3})


def test_unknown_model_and_command_line_of_the_host(properties, monkeypatch):
    monkeypatch.setattr("sys.argv", ["host", "--epochs=7", "--bad"])
    assert make()["epochs"] == 300, "sys.argv is not read"
    with pytest.raises(ValueError, match="Unknown model 'SASRek'. Did you mean SASRec"):
        make("SASRek")


def test_strings_of_a_dict_are_read_as_on_the_command_line(properties):
    config = make(config_dict={"learning_rate": "1e-2", "seed": "3", "checkpoint_dir": "7", "topk": "[10]"})
    assert (config["learning_rate"], config["seed"], config["checkpoint_dir"], config["topk"]) == (0.01, 3, "7", [10])


@pytest.mark.parametrize(
    "text, problem",
    [
        ("!!python/object/apply:os.mkdir ['mark']", "not readable as plain YAML"),
        ("a: [1", "not readable as plain YAML"),
        ("- 1\n- 2", "must hold 'key: value' lines, holds a list"),
    ],
)
def test_bad_files_are_named(properties, tmp_path, monkeypatch, text, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"bad.yaml: {problem}"):
        make(config_file_list=["bad.yaml"])
    assert not (tmp_path / "mark").exists()


def test_missing_and_empty_files(properties, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml does not exist"):
        make(config_file_list=["none.yaml"])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert make(config_file_list=[tmp_path / "empty.yaml"])["model"] == "SASRec"


@pytest.mark.parametrize("model", ["SASRec", "FPMC", "BPR", "DIN"])
def test_plain_values_rebuild_the_configuration(properties, model):
    config = make(model, config_dict={"topk": [5, 10], "seed": 5})
    text = yaml.safe_dump(plain_values(config))
    again = config_from_values(yaml.safe_load(text))
    assert again.final_config_dict.keys() == config.final_config_dict.keys()
    for key, value in config.final_config_dict.items():
        if key != "data_path":
            assert again[key] == value, key
    assert again.model_class is config.model_class and again["device"] == torch.device("cpu") and "seed" in str(again)


def test_stored_distributed_run_loads_in_one_process(properties):
    values = plain_values(make()) | {"nproc": 4, "world_size": 8}
    assert not {"device", "local_rank", "single_spec", "MODEL_TYPE"} & values.keys()
    assert config_from_values(values)["single_spec"] is True


def test_a_run_without_model_and_dataset_names_both():
    with pytest.raises(ConfigError) as caught:
        LLMConfig()
    assert [line.split(":")[0] for line in caught.value.problems] == ["model", "dataset"]
    with pytest.raises(ConfigError, match="dataset: not given; write --dataset=ml-100k"):
        LLMConfig("Pop")


def test_rows_hold_as_many_items_as_a_prompt_shows():
    assert make("LLaRA", config_dict={"history_max_len": 5})["MAX_ITEM_LIST_LENGTH"] == 10
    assert make("LLaRA", config_dict={"history_max_len": 14})["MAX_ITEM_LIST_LENGTH"] == 14
    assert make("SASRec")["MAX_ITEM_LIST_LENGTH"] == 10
    for key in ("MAX_ITEM_LIST_LENGTH", "crm_history_len"):
        with pytest.raises(ConfigError, match=f"history_max_len: 14 items cannot be shown, rows hold {key}=12; raise {key}"):
            make("LLaRA", config_dict={"history_max_len": 14, key: 12})


@pytest.mark.parametrize(
    "given, text",
    [
        ({"crm_model": "SASREC"}, "crm_model: Unknown model 'SASREC'. Did you mean SASRec"),
        ({"crm_model": "BPR"}, "crm_model: BPR is no sequential model of RecBole"),
        ({"crm_model": "LLaRA"}, "crm_model: LLaRA is no sequential model of RecBole"),
        ({"crm_config": {"hiden_size": 32}}, "crm_config (SASRec): hiden_size: unknown key; did you mean 'hidden_size'?"),
        ({"crm_config": {"hiden_size": 32, "n_layer": 1}}, "n_layer: unknown key"),
        ({"clip_grad_norm": 1.0}, "clip_grad_norm: must be a mapping, or null, got 1.0"),
    ],
)
def test_a_recommender_that_cannot_serve_is_named_before_anything_runs(given, text):
    with pytest.raises(ConfigError) as raised:
        make("iLoRA", config_dict=given)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    "eval_args, text",
    [
        ({"split": {"RS": [0.8, -0.1, 0.3]}}, "split RS is [0.8, -0.1, 0.3] and must be the shares of training, validation and test rows"),
        ({"split": {"RS": [0.8, 0.2]}}, "split RS is [0.8, 0.2] and must be"),
        ({"split": {"RS": [0.8, "x", 0.3]}}, "split RS is [0.8, 'x', 0.3] and must be"),
        ({"split": {"RS": [0, 0, 0]}}, "split RS is [0, 0, 0] and must be"),
        ({"split": {"RS": [8, 1, 1]}, "group_by": "item"}, "group_by is 'item' and must be 'user', or null"),
        ({"split": {"LS": "last"}}, "split LS is 'last' and must be one of 'valid_and_test', 'valid_only', 'test_only'"),
        ({"split": {"XX": [8, 1, 1]}}, "split is {'XX': [8, 1, 1]} and must say one way to split"),
        ({"split": None}, "split is None and must say one way to split"),
        ({"order": "time"}, "order is 'time' and must be 'TO', by time, or 'RO'"),
    ],
)
def test_a_split_that_recbole_does_not_know_is_named(eval_args, text):
    with pytest.raises(ConfigError) as raised:
        make("BPR", config_dict={"eval_args": eval_args})
    assert raised.value.problems[0].startswith(f"eval_args: {text}") and len(raised.value.problems) == 1


@pytest.mark.parametrize("split", [{"RS": [8, 1, 1]}, {"RS": [0.8, 0, 0.2]}, {"LS": "test_only"}])
@pytest.mark.parametrize("group", ["user", "none", None])
def test_splits_that_recbole_knows(split, group):
    assert make("BPR", config_dict={"eval_args": {"split": split, "group_by": group}})["eval_args"]["split"] == split


@pytest.mark.parametrize("model", ["SASRec", "LLaRA", "BPR"])
def test_a_wrong_split_by_time_is_among_the_problems(model):
    """Before any data are read, and beside the others."""
    wrong = {"eval_args": {"split": {"TS": [0.8, 0.2]}, "order": "RO"}, "seed": -1}
    with pytest.raises(ConfigError, match=r"(?s)seed: must be.*eval_args: split TS with order 'RO'.*eval_args: split TS is \[0.8, 0.2\]") as found:
        make(model, config_dict=wrong)
    assert len(found.value.problems) == 3
    right = {"eval_args": {"split": {"TS": [0.8, 0.1, 0.1]}}}
    assert make(model, config_dict=right)["eval_args"]["order"] == "TO"  # what the protocol completes is no problem
    released = {"benchmark_filename": ["train", "valid", "test"], "eval_args": wrong["eval_args"]}  # files as they are split
    assert make(model, config_dict=released)["eval_args"]["order"] == "RO"

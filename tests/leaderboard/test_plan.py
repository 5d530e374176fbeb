"""Names, variants and settings are checked to the last one before anything trains."""

import pytest

from recbole_llm.cli import leaderboard
from recbole_llm.cli.arguments import parse_command_line
from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard import plan, run
from recbole_llm.leaderboard.entries import parse_entries
from recbole_llm.leaderboard.plan import make_plan, read_spec, seed_list
from tests import tiny


@pytest.fixture
def shared(tiny_data, tiny_llm, tmp_path):
    return tiny.settings(tiny_data, tiny_llm, tmp_path)


def test_a_plan_holds_every_run_and_settings_reach_the_models_that_know_them(shared):
    runs = make_plan("Pop,SASRec,iLoRA@K=2", "tiny", None, 2, {**shared, "n_layers": 1}, llm={"lora_dropout": 0.0})
    assert [(run.entry.name, run.seed) for run in runs] == [
        ("Pop", 2020),
        ("Pop", 2021),
        ("SASRec", 2020),
        ("SASRec", 2021),
        ("iLoRA@K=2", 2020),
        ("iLoRA@K=2", 2021),
    ]
    assert "n_layers" not in runs[0].settings and "crm_epochs" not in runs[0].settings
    assert runs[2].config["n_layers"] == 1
    assert (
        runs[4].config["num_experts"] == 2 and runs[4].config["lora_dropout"] == 0.0 and runs[5].config["seed"] == 2021
    )
    assert (
        runs[4].path.name == "tiny.candidates.iLoRA@K=2.seed2020.json"
        and runs[0].path.name == "tiny.candidates.Pop.seed2020.json"
    )
    assert runs[0].config["candidate_seed"] == runs[1].config["candidate_seed"]


def test_problems_of_all_rows_are_listed_at_once(shared):
    with pytest.raises(ConfigError) as caught:
        make_plan("Pop,iLoRA@K=3,LLaRA@lora_r=0", "tiny", None, 1, {**shared, "epoch": 3})
    text = str(caught.value)
    assert "epoch: unknown key; did you mean 'epochs'" in text
    assert (
        "iLoRA@K=3: num_experts: must divide lora_r" in text
        and "LLaRA@lora_r=0: lora_r: must be an integer >= 1" in text
    )
    with pytest.raises(ConfigError, match=r"LLaRA: crm_config \(SASRec\): hiden_size: unknown key"):
        make_plan("Pop,LLaRA", "tiny", None, 1, {**shared, "crm_config": {"hiden_size": 16}})
    with pytest.raises(ConfigError, match="protocol: must be one of"):
        make_plan("Pop", "tiny", "candidate", 1, shared)
    with pytest.raises(ConfigError, match="datasets: none given"):
        make_plan("Pop", None, None, 1, shared)


def test_settings_for_rows_that_are_not_picked_do_no_harm(shared):
    """`--leaderboard=FILE --model=iLoRA` keeps the file's settings for baselines, which nobody reads."""
    runs = make_plan("iLoRA", "tiny", None, 1, shared, llm=None, baselines={"train_batch_size": 7})
    assert runs[0].config["train_batch_size"] != 7
    with pytest.raises(ConfigError, match="train_batch_siz: unknown key"):
        make_plan("Pop", "tiny", None, 1, shared, baselines={"train_batch_siz": 7})


def test_all_models_of_a_table_read_histories_of_one_length(shared):
    runs = make_plan("GRU4Rec,iLoRA", "tiny", None, 1, {**shared, "history_max_len": 20})
    assert [run.config["MAX_ITEM_LIST_LENGTH"] for run in runs] == [20, 20]


def test_the_protocol_may_come_with_the_settings(shared):
    assert {run.protocol for run in make_plan("Pop,BPR", "tiny", None, 1, {**shared, "protocol": "ctr"})} == {"ctr"}
    both = make_plan("Pop", "tiny", "candidates", 1, {**shared, "protocol": "ctr"})
    assert [run.protocol for run in both] == ["candidates"]


def test_a_first_seed_of_zero_is_zero(monkeypatch):
    asked = []
    monkeypatch.setattr(run, "make_plan", lambda *given, **named: asked.append((given[3], given[4]["seed"])) or 1 / 0)
    for seeds in ("3", "0"):
        with pytest.raises(ZeroDivisionError):
            leaderboard.run_command_line(parse_command_line(["--model=Pop", "--dataset=tiny", "--seed=0", f"--seeds={seeds}"]))
    assert asked == [(3, 0), (0, 0)] and seed_list(3, 0) == [0, 1, 2]


@pytest.mark.parametrize("given, seeds", [(3, [2020, 2021, 2022]), ("3", [2020, 2021, 2022]), ([5, 1], [5, 1]), ("7,8", [7, 8]), ("[7]", [7])])
def test_seeds(given, seeds):
    assert seed_list(given) == seeds


@pytest.mark.parametrize("bad", [0, "0", [1, 1], [-1], ["a"], "a", [], None, True, 1.5])
def test_bad_seeds(bad):
    with pytest.raises(ConfigError, match="seeds: must be"):
        seed_list(bad)


@pytest.mark.parametrize("bad", ["abc", 7.0, -1, None, [1, 2]])
def test_a_bad_first_seed_is_refused(shared, bad):
    with pytest.raises(ConfigError, match="seed: must be an integer >= 0, got .*--seeds=1,2,3"):
        make_plan("Pop", "tiny", None, 2, {**shared, "seed": bad})


def test_a_bad_seed_is_told_with_what_else_is_wrong(shared):
    with pytest.raises(ConfigError) as caught:
        make_plan("Pop@n_candidates=0", "tiny", None, 0, {**shared, "seed": -1}, llm={"seed": 3})
    assert [line.partition(": ")[0] for line in caught.value.problems] == ["seed", "seeds", "llm", "Pop@n_candidates=0"]


def test_what_a_table_has_for_all_rows_is_refused_for_llm_rows_or_baselines_alone(shared):
    with pytest.raises(ConfigError) as caught:
        make_plan("Pop,LLaRA", "tiny", None, 1, shared, llm={"seed": 3}, baselines={"protocol": "full"})
    assert [line.partition(": is ")[0] for line in caught.value.problems] == ["llm: seed", "baselines: protocol"]


def test_a_name_for_all_rows_is_refused_and_none_is_not(shared):
    with pytest.raises(ConfigError, match="variant: is the row's name"):
        make_plan("Pop", "tiny", None, 2, {**shared, "variant": "Pop@mine"})
    assert len(make_plan("Pop", "tiny", None, 2, {**shared, "variant": None})) == 2


def test_rows_whose_results_could_not_be_filed_are_refused(shared):
    rows = [{"name": "SASRec", "model": "LLaRA"}, {"name": "x" * 250, "model": "Pop"}]
    with pytest.raises(ConfigError) as caught:
        make_plan(rows, "tiny", None, 1, shared)
    first, second = caught.value.problems
    assert first.startswith("SASRec: variant: 'SASRec' names the model") and "file systems take 255" in second


def test_a_spec_with_an_unknown_key_is_refused(tmp_path):
    file = tmp_path / "board.yaml"
    file.write_text("models: [Pop]\ndataset: ml-100k\n")
    with pytest.raises(ConfigError, match="unknown key 'dataset'; a leaderboard has"):
        read_spec(file)


def test_the_shipped_specs_are_plans(tmp_path):
    from recbole_llm.config.properties import properties_dir

    for file in sorted((properties_dir() / "leaderboard").glob("*.yaml")):
        spec = read_spec(file)
        entries = parse_entries(spec["models"])
        assert entries and spec["datasets"]


def test_what_a_recipe_says_of_rows_holds_for_baselines_and_its_protocol_for_the_table(monkeypatch):
    own = {"protocol": "ctr", "threshold": {"rating": 4}, "test_sample_size": 20, "load_col": {"inter": ["user_id"]}, "epochs": 9}
    monkeypatch.setattr(plan, "recipe_settings", lambda recipe, model, dataset: own if recipe == "paper" and model == "RecLoRA" else {})
    asked = []
    monkeypatch.setattr(plan, "_runs", lambda entry, dataset, protocol, seeds, shared, own: asked.append((entry.name, protocol, shared)) or [])
    make_plan("DIN,RecLoRA", "tiny", settings={"recipe": "paper", "test_sample_size": 30})
    rows = {key: own[key] for key in ("threshold", "load_col")} | {"recipe": "paper", "test_sample_size": 30}  # the user's goes over the recipe's
    assert asked == [("DIN", "ctr", rows), ("RecLoRA", "ctr", rows)]
    monkeypatch.setattr(plan, "recipe_settings", lambda recipe, model, dataset: {"n_candidates": 20 if model == "LLaRA" else 10})
    with pytest.raises(ConfigError, match=r"n_candidates: recipes of tiny have 20 and 10 \(iLoRA\); set it for all rows"):
        make_plan("LLaRA,iLoRA", "tiny", settings={"recipe": "paper"})


def test_the_recipe_of_ml_1m_gives_every_row_its_fields_and_labels():
    settings = {"recipe": "paper", "crm_epochs": 1}
    din, reclora = make_plan("DIN,RecLoRA", "ml-1m", settings=settings)
    assert din.protocol == reclora.protocol == "ctr" and din.config["load_col"] == reclora.config["load_col"]
    assert "user" in din.config["load_col"] and din.config["threshold"] == reclora.config["threshold"] == {"rating": 4}

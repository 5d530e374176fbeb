"""The command line reads what RecBole's does, keeps "=" in values, and never evaluates anything."""

import pytest

from recbole_llm.analysis.__main__ import main as analyse
from recbole_llm.cli.arguments import parse_command_line, refuse_unread
from recbole_llm.cli.check_data import main as check
from recbole_llm.cli.main import main as run
from recbole_llm.config.values import ConfigError, parse_value
from recbole_llm.reproduce import main as reproduce


@pytest.mark.parametrize(
    "text, value",
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("-0.5", -0.5),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("None", None),
        ("null", None),
        ("none", "none"),
        ("no", "no"),
        ("", ""),
        ("abc", "abc"),
        ("a=b=c", "a=b=c"),
        ("'3'", "3"),
        ("007", "007"),
        ("[1, 2]", [1, 2]),
        ("(1, 2)", (1, 2)),
        ("['Hit', 'NDCG']", ["Hit", "NDCG"]),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("{'LS': 'valid_and_test'}", {"LS": "valid_and_test"}),
        ("{split: {LS: valid_only}, order: TO}", {"split": {"LS": "valid_only"}, "order": "TO"}),
        ("[1,inf)", "[1,inf)"),
        ("{a: 1, b: 2}", {"a": 1, "b": 2}),
        ("b'x'", "b'x'"),
        ("2026-11-20", "2026-11-20"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("[__import__('os').getcwd()]", ["__import__('os').getcwd()"]),
        ("!!python/object/apply:os.getcwd []", "!!python/object/apply:os.getcwd []"),
        ("[!!python/object/apply:os.getcwd []]", "[!!python/object/apply:os.getcwd []]"),
        ("(" * 5000, "(" * 5000),
    ],
)
def test_values(text, value):
    found = parse_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("key", ["result_dir", "crm_path", "user_inter_num_interval", "dataset"])
def test_some_settings_stay_text(key):
    assert parse_value("2024", key) == "2024" and parse_value("[5,10]", key) == "[5,10]"
    assert parse_value("null", key) is None and parse_value("None", key) is None
    assert parse_value("{rating: '[3,inf)'}", "val_interval") == {"rating": "[3,inf)"}


def test_recbole_s_options():
    line = parse_command_line(
        ["-m", "iLoRA", "-d", "ml-100k", "--config_files", "a.yaml b.yaml", "--nproc=2", "--epochs=3", "--llm_path=x=y"]
    )
    assert (line.model, line.dataset, line.config_files, line.nproc) == ("iLoRA", "ml-100k", ["a.yaml", "b.yaml"], 2)
    assert line.options == {"epochs": 3, "llm_path": "x=y"}
    assert (line.ip, line.port, line.world_size, line.group_offset) == ("localhost", "5678", -1, 0)
    line = parse_command_line(["--model=SASRec", "--dataset=lastfm"])
    assert (line.model, line.dataset, line.config_files, line.options) == ("SASRec", "lastfm", [], {})


def test_keys_are_not_taken_for_abbreviations():
    assert parse_command_line(["--mode=3", "--data=x"]).options == {"mode": 3, "data": "x"}


def test_everything_wrong_is_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_command_line(["--epochs", "3", "-x", "--seed=1", "--seed=2", "--=4", "--ok=1", "--a.b=1", "--seed=1"])
    text = str(caught.value)
    assert "6 problems" in text and "--ok" not in text
    rule = "settings are written --key=value"
    parts = [f"{argument}: {rule}" for argument in ("--epochs", "\n  3", "-x", "--a.b=1", "--=4")]
    for part in [*parts, "seed: given twice, as 1 and '2'"]:
        assert part in text


def test_repeating_a_setting_with_the_same_value_is_fine():
    assert parse_command_line(["--seed=1", "--seed=1"]).options == {"seed": 1}


def test_flags_that_a_command_does_not_read_are_refused():
    line = parse_command_line(["--dataset=tiny", "--nproc=2", "--rerun", "--metric=hit@1", "--seeds=2", "--epochs=1"])
    with pytest.raises(ConfigError) as error:
        refuse_unread(line, "reproduce", ["seeds"])
    assert error.value.problems == [f"--{name}: reproduce does not read it; remove it" for name in ("rerun", "metric", "nproc")]
    refuse_unread(parse_command_line(["--dataset=tiny", "--config_files=a.yaml", "--seeds=2"]), "reproduce", ["seeds"])


@pytest.mark.parametrize("main, arguments", [
    (run, ["--model=Pop", "--dataset=tiny", "--rerun"]), (check, ["tiny", "--rerun"]), (analyse, ["gate", "--dataset=tiny", "--rerun"]),
    (reproduce, ["ilora", "--dataset=lastfm", "--rerun"]),
])  # fmt: skip
def test_every_command_says_so_before_it_starts(main, arguments, capsys):
    assert main(arguments) == 2 and "--rerun: " in capsys.readouterr().err

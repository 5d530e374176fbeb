"""One command with sub-commands: each has help that fits a screen, a typo is named, and bash completes what there is."""

import io
import math
import subprocess
from contextlib import redirect_stdout, suppress

import pytest

from recbole_llm import __main__
from recbole_llm.cli import completion
from recbole_llm.cli import main as cli_main
from recbole_llm.data import __main__ as data
from recbole_llm.runtime import distributed

SCREEN = (24, 80)  # lines, columns
WAYS = [[name] for name in __main__.COMMANDS] + [["data", name] for name in data.COMMANDS]


@pytest.mark.parametrize("way", [[], *WAYS], ids=" ".join)
def test_help_fits_a_screen(way, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(SCREEN[1]))
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        assert __main__.main([*way, "--help"]) == 0
    lines = text.getvalue().splitlines()
    assert len(lines) > 2 and sum(max(1, math.ceil(len(line) / SCREEN[1])) for line in lines) <= SCREEN[0]
    if way[-1:] not in ([], ["data"]):
        assert way[-1] in text.getvalue()


def test_commands_reach_their_modules(monkeypatch, capsys):
    got = []
    for name, (module, named, what) in __main__.COMMANDS.items():
        monkeypatch.setattr(f"{module}.main", lambda arguments: got.append(arguments) or 7)
        assert __main__.main([name, "x", "--y=1"]) == 7
        assert got[-1] == [name, "x", "--y=1"] if named else got[-1] == ["x", "--y=1"]
        assert what
    assert __main__.main(["--model=iLoRA"]) == 7 and got[-1] == ["--model=iLoRA"]
    assert __main__.main([]) == 2 and all(name in capsys.readouterr().out for name in ["report"])


@pytest.mark.parametrize("call, said", [(["repot"], "'repot' is no command; choose run, compare"), (["data", "chek"], "choose check or convert")])
def test_typos_are_named(call, said, capsys):
    assert __main__.main(call) == 2
    assert said in capsys.readouterr().err


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--model=iLoRA", "--dataset=tiny"], "stopped; the same command begins as it did; with --resume=auto it goes on from an LLM recommender's last checkpoint"),
        (["--model=iLoRA", "--dataset=tiny", "--resume=auto"], "stopped; the same command goes on from an LLM recommender's last checkpoint"),
        (["--model=Pop,iLoRA", "--dataset=tiny"], "stopped; the same command goes on with the rows that have no result yet; with --resume=auto"),
        (["--model=Pop,iLoRA", "--dataset=tiny", "--rerun"], "stopped; without --rerun the same command goes on with the rows"),
        (["--model=iLoRA", "--dataset=tiny", "--nproc=2"], "stopped; the same command begins as it did"),
        (["report", "results"], "stopped\n"),
    ],
)
def test_ctrl_c_is_a_line_that_says_how_to_go_on(arguments, said, monkeypatch, capsys):
    for name in ("cli.main.run_recbole_llm", "cli.main.run_command_line", "runtime.distributed.launch", "leaderboard.__main__._report"):
        monkeypatch.setattr(f"recbole_llm.{name}", interrupted)
    assert __main__.main(arguments) == 130
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1


def test_a_process_of_several_that_is_interrupted_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(cli_main, "run_recbole_llm", interrupted)
    monkeypatch.setattr(distributed.os, "environ", {})
    with pytest.raises(KeyboardInterrupt):
        distributed._process(0, cli_main._process, (["--model=iLoRA", "--dataset=tiny"],), {}, 0)
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "recbole-llm"
    file.write_text(completion.script())
    return file


@pytest.mark.parametrize(
    "words, found",
    [
        (["re"], ["recommend", "report", "reproduce"]),
        (["recommend", "run.json", "--us"], ["--user=", "--users="]),
        (["run", "--model", "=", "iL"], ["iLoRA"]),
        (["run", "--model", "="], {"SASRec", "LLaRA", "BPR"}),
        (["run", "--dataset", "=", "ml-1m"], ["ml-1m"]),
        (["run", "--train_sample_si"], ["--train_sample_size="]),
        (["run", "--reru"], ["--rerun"]),
        (["data", "c"], ["check", "convert"]),
        (["data", "check", "ml-100"], ["ml-100k"]),
        (["data", "check", "--n_cand"], ["--n_candidates="]),
        (["data", "convert", "--sou"], ["--source="]),
        (["compare", "--resa"], ["--resamples="]),
        (["report", "results", "--met"], ["--metric="]),
        (["completion", "--"], []),
    ],
)
def test_bash_completes(script, words, found):
    line = " ".join(map(repr, ["recbole-llm", *words]))
    program = f'source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _recbole_llm; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True, cwd=script.parent)
    assert not done.stderr.replace("compopt", ""), done.stderr
    shown = done.stdout.split()
    assert set(found) <= set(shown) and (isinstance(found, set) or sorted(shown) == sorted(found))


def test_the_command_prints_the_script(capsys):
    assert __main__.main(["completion"]) == 0
    text = capsys.readouterr().out
    assert text == completion.script() and text.endswith("complete -F _recbole_llm recbole-llm\n")

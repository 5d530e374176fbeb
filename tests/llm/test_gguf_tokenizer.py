"""GGUF files' tokenizers: what comes out is what went in."""

import json
import logging
import shutil
import sys

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from recbole_llm.data.tokens import PromptTokenizer
from recbole_llm.llm import source
from recbole_llm.llm.gguf_convert import load_gguf
from recbole_llm.llm.tokenizer import load_tokenizer
from tests import gguf_files
from tests.llm.test_loading import Settings


@pytest.fixture
def reloaded(tmp_path, monkeypatch):
    """A file's tokenizer as training gets it, by way of the cache."""
    monkeypatch.setenv("RECBOLE_LLM_CACHE", str(tmp_path / "cache"))
    return lambda path: load_tokenizer(Settings(llm_path=str(path)))


KINDS = {str: "add_string", bool: "add_bool", type(None): ""}


def write(folder, model_type="llama", tokenizer=None, edit=None, **keys):
    """A GGUF file; ``keys`` are values of its ``tokenizer.ggml.*``, None to leave one out."""
    edit = {**(edit or {}), **{f"tokenizer.ggml.{key}": (KINDS[type(value)], value) for key, value in keys.items()}}
    _, tokens = edit.get("tokenizer.ggml.tokens", ("", (tokenizer or gguf_files.byte_level()).get_vocab()))
    model = gguf_files.llm(model_type, vocab_size=len(tokens), num_hidden_layers=6 if model_type == "gemma3_text" else 2)
    return gguf_files.write(folder / "a.gguf", model, tokenizer, edit=edit)


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder / "saved")
    return folder / "saved"


TEXTS = ["The Matrix", "12 Monkeys (1995)", "Toy  Story  2 ", "é ½ 漢字\n\t1", "don't </s> <s>", "<|x|>   42"]


@pytest.mark.parametrize("add_bos", [False, True])
def test_the_byte_level_tokenizer_encodes_as_the_original(add_bos, tmp_path):
    original = gguf_files.byte_level()
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit={"tokenizer.ggml.add_bos_token": ("add_bool", add_bos)})
    tokenizer = AutoTokenizer.from_pretrained(saved(load_gguf(file)[1], tmp_path))
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2, 2)
    assert len(tokenizer) == 300
    reference = PreTrainedTokenizerFast(tokenizer_object=original, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    for options in ({}, {"split_special_tokens": True}):
        for text in TEXTS:
            expected = reference(text, add_special_tokens=False, **options)["input_ids"]
            assert tokenizer(text, add_special_tokens=False, **options)["input_ids"] == expected, text
            assert tokenizer(text, **options)["input_ids"] == [1] * add_bos + expected
        assert tokenizer.decode(tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"]) == TEXTS[2]


PIECES = [*"▁thecaat", "th", "he", "the", "▁the", "ca", "cat", "▁cat"]
NO_PREFIX = {"add_space_prefix": ("add_bool", False), "add_bos_token": ("add_bool", True)}  # as Gemma's files say


@pytest.mark.parametrize(
    "model_type, changes, first", [("llama", {}, "▁the"), ("llama", NO_PREFIX, "the"), ("gemma3_text", NO_PREFIX, "the")]
)
def test_a_sentencepiece_tokenizer_starts_with_its_start_token(model_type, changes, first, tmp_path):
    edit = gguf_files.sentence_pieces(PIECES, **changes)
    model = gguf_files.llm(model_type, vocab_size=len(edit["tokenizer.ggml.tokens"][1]), num_hidden_layers=6 if model_type == "gemma3_text" else 2)
    _, tokenizer = load_gguf(gguf_files.write(tmp_path / "a.gguf", model, edit=edit))
    tokenizer = AutoTokenizer.from_pretrained(saved(tokenizer, tmp_path))
    assert tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"]) == ["<s>", first, "▁cat"]
    assert tokenizer.decode(tokenizer("the é cat", add_special_tokens=False)["input_ids"]) == "the é cat"


def cut_and_warnings(folder, caplog, **keys):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        tokenizer = load_gguf(write(folder, **keys))[1]
    return str(tokenizer.backend_tokenizer.pre_tokenizer), caplog.text


def test_words_that_are_cut_in_an_unknown_way_are_warned_of(tmp_path, caplog):
    assert "tokenizer.ggml.pre: mpt) is not known here" in cut_and_warnings(tmp_path, caplog, pre="mpt")[1]
    assert "is not known here" not in cut_and_warnings(tmp_path, caplog)[1]


TABLE = "transformers.integrations.gguf.gguf_tokenizer_mapping"


@pytest.mark.parametrize("cut, known", [("deepseek-r1-qwen", "qwen2"), ("falcon3", "llama-bpe")])
def test_ways_that_transformers_knows_are_taken_without_a_warning(cut, known, tmp_path, caplog, monkeypatch):
    pytest.importorskip(TABLE)
    taken, warnings = cut_and_warnings(tmp_path, caplog, pre=cut)
    assert taken == cut_and_warnings(tmp_path, caplog, pre=known)[0] != cut_and_warnings(tmp_path, caplog, pre="mpt")[0]
    assert "is not known here" not in warnings
    monkeypatch.setitem(sys.modules, TABLE, None)  # a version without it
    assert f"{cut}) is not known here" in cut_and_warnings(tmp_path, caplog, pre=cut)[1]


VARIED = [*TEXTS, "Amber  birch 1999", "Käfer, Größe", "Cafe\u0301 A\u030angstro\u0308m", "🙂 birch🙂", "it's\n\n  so  1,234!"]
CUT = [*((model_type, "smollm") for model_type in gguf_files.TYPES), ("llama", "llama-bpe"), ("qwen2", "qwen2"), ("qwen3", "qwen2")]


def same(first, second):
    options = {"add_special_tokens": False, "split_special_tokens": True}
    for text in VARIED:
        ids = first(text, **options)["input_ids"]
        assert second(text, **options)["input_ids"] == ids and second(text)["input_ids"] == first(text)["input_ids"], text
        assert second.decode(ids) == first.decode(ids), text
    assert second.special_tokens_map == first.special_tokens_map


@pytest.mark.parametrize("model_type, cut", CUT)
def test_what_is_read_back_from_the_cache_is_what_was_made_and_checked(model_type, cut, tmp_path, reloaded):
    file = write(tmp_path, model_type, pre=cut)
    same(load_gguf(file)[1], reloaded(file))


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_so_is_sentencepiece(model_type, tmp_path, reloaded):
    file = write(tmp_path, model_type, edit=gguf_files.sentence_pieces(PIECES, **NO_PREFIX))
    same(load_gguf(file)[1], reloaded(file))


def test_a_copy_of_a_cached_folder_is_read_so_too_and_another_source_json_means_nothing(tmp_path, reloaded):
    file = write(tmp_path, "qwen2")
    folder = shutil.copytree(source.locate(str(file)), tmp_path / "copy")
    same(load_gguf(file)[1], reloaded(folder))
    for other in ([1], {"sha256": "0"}):
        (folder / "source.json").write_text(json.dumps(other))
        assert type(reloaded(folder)) is type(AutoTokenizer.from_pretrained(folder)) is not PreTrainedTokenizerFast


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_a_qwen_s_file_and_its_folder_give_the_same_prompts(model_type, tmp_path, reloaded):
    parts = json.loads(gguf_files.byte_level().to_str())["model"]
    own = Qwen2Tokenizer(parts["vocab"], [tuple(pair) for pair in parts["merges"]], unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    gguf_files.llm(model_type).save_pretrained(tmp_path / "folder")
    own.save_pretrained(tmp_path / "folder")
    file = write(tmp_path, model_type, pre="qwen2")
    prompts = [PromptTokenizer(reloaded(path), VARIED).assemble(VARIED)[0] for path in (tmp_path / "folder", file)]
    assert prompts[0] == prompts[1] and len(prompts[0]) > 100


@pytest.mark.parametrize("model_type, composed", [("qwen2", True), ("qwen3", True), ("llama", False)])
def test_qwen_composes_characters(model_type, composed, tmp_path, reloaded):
    tokenizer = reloaded(write(tmp_path, model_type))
    assert (tokenizer("Cafe\u0301")["input_ids"] == tokenizer("Caf\u00e9")["input_ids"]) is composed


@pytest.mark.parametrize(
    "model_type, add_bos, prefix",
    [*((qwen, *case) for qwen in ("qwen2", "qwen3") for case in ((False, []), (None, []), (True, [1]))), ("llama", False, [1]), ("gemma3_text", None, [1])],
)
def test_prompts_begin_with_the_start_token_unless_a_qwen_says_no(model_type, add_bos, prefix, tmp_path, reloaded):
    """SmolLM2 does not add its start token by itself, and its own tokenizer names it."""
    tokenizer = reloaded(write(tmp_path, model_type, add_bos_token=add_bos))
    assert tokenizer.bos_token_id == (1 if prefix else None) and PromptTokenizer(tokenizer, ["", "Amber"]).prefix == prefix
    assert tokenizer("Amber")["input_ids"][0] == 1 or not add_bos
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)


@pytest.mark.parametrize("cut, whole", [("llama-bpe", True), ("llama3", True), ("llama-v3", True), ("tekken", True), ("gpt-2", False)])
def test_a_word_that_no_merges_lead_to_is_one_token_where_llama_3_says_so(cut, whole, tmp_path, reloaded):
    parts = json.loads(gguf_files.byte_level().to_str())
    parts["model"]["vocab"]["Ġzqz"] = len(parts["model"]["vocab"])
    tokenizer = reloaded(write(tmp_path, tokenizer=Tokenizer.from_str(json.dumps(parts)), pre=cut))
    assert tokenizer.tokenize(" zqz zq") == [*(["Ġzqz"] if whole else ["Ġ", "z", "q", "z"]), "Ġ", "z", "q"]

"""What a GGUF file may get wrong, each with its own message; and that no length in a header is believed."""

import struct

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from recbole_llm.llm.gguf_header import GGUFError, check_header, read_header
from tests import gguf_files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "good.gguf", gguf_files.llm())


def test_a_header_is_what_was_written(good):
    header = read_header(good)
    check_header(header)
    assert header.architecture == "llama" and header.own("attention.head_count") == 4 and header.own("nothing", 7) == 7
    assert header.metadata["tokenizer.ggml.tokens"] == 300 and header.metadata["tokenizer.ggml.pre"] == "smollm"
    tensor = header.tensors["token_embd.weight"]
    assert tensor.shape == (300, 64) and tensor.kind == GGMLQuantizationType.F32
    weights = gguf_files.llm().get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(np.fromfile(good, np.float32, count=weights.size, offset=tensor.start).reshape(300, 64), weights)


def test_a_file_cut_anywhere_is_damaged(good, tmp_path):
    whole, cut = good.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(0, 24), *range(24, len(whole), len(whole) // 60), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(GGUFError, match=f"{cut.name}.*(damaged or cut short|no GGUF file).*; download it again"):
            read_header(cut)


def test_numbers_of_a_header_that_lie_are_caught(good, tmp_path):
    """Every count, length and type of the first kilobyte replaced by a huge one: an error or the same file, at once."""
    whole, file = good.read_bytes(), tmp_path / "lies.gguf"
    refused = 0
    for at in range(4, 1000, 4):
        for lie in (struct.pack("<Q", 2**62), struct.pack("<I", 99)):
            file.write_bytes(whole[:at] + lie + whole[at + len(lie) :])
            try:
                read_header(file)
            except GGUFError:
                refused += 1
    assert refused > 300


@pytest.mark.parametrize("version, words", [(1, "version 1;"), (9, "version 9;"), (0x03000000, "or big-endian")])
def test_other_versions(good, tmp_path, version, words):
    file = tmp_path / "other.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<I", version) + good.read_bytes()[8:])
    with pytest.raises(GGUFError, match=words):
        read_header(file)


def test_something_else_under_the_name(tmp_path):
    file = tmp_path / "page.gguf"
    file.write_text("<html>not found</html>")
    with pytest.raises(GGUFError, match="is no GGUF file: it does not begin with the letters GGUF; download it again"):
        read_header(file)


def blocks(path, kind, rows: int = 2):
    """A file with one tensor of empty blocks."""
    block, size = GGML_QUANT_SIZES[kind]
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("a.weight", np.zeros((rows, size * (256 // block)), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_known_quantisations(kind, tmp_path):
    header = read_header(blocks(tmp_path / "a.gguf", GGMLQuantizationType[kind]))
    assert header.tensors["a.weight"].shape == (2, 256) and header.tensors["a.weight"].kind.name == kind


def test_unknown_quantisations(tmp_path):
    file = blocks(tmp_path / "a.gguf", GGMLQuantizationType.Q8_1)
    with pytest.raises(GGUFError, match=r"holds 'a.weight' in the quantisation Q8_1 \(9\), which the package gguf cannot read; .*Q8_0"):
        read_header(file)
    data = file.read_bytes()
    at = data.index(b"a.weight") + 8 + 4 + 2 * 8
    file.write_bytes(data[:at] + struct.pack("<I", 77) + data[at + 4 :])
    with pytest.raises(GGUFError, match="quantisation type 77"):
        read_header(file)


NAMED = {
    "a part": ({"split.count": ("add_uint16", 3)}, "is one of 3 parts; join them"),
    "no tokenizer": ({"tokenizer.ggml.model": ("", None)}, "holds no tokenizer"),
    "no words": ({"tokenizer.ggml.tokens": ("", None)}, "holds no tokenizer"),
    "BERT's tokenizer": ({"tokenizer.ggml.model": ("add_string", "bert")}, "a tokenizer of the kind 'bert'"),
    "no merges": ({"tokenizer.ggml.merges": ("", None)}, "holds no tokenizer.ggml.merges: its tokenizer is not whole"),
    "an end token beyond the last": ({"tokenizer.ggml.eos_token_id": ("add_uint32", 5000)}, "eos_token_id 5000 and 300 tokens"),
    "a start token that is no number": ({"tokenizer.ggml.bos_token_id": ("add_string", "1")}, "bos_token_id '1' and 300 tokens"),
    "more layers than it holds": ({"llama.block_count": ("add_uint32", 37378)}, "holds 2 layers and says that it has 37378"),
    "another's tokenizer": ({"tokenizer.ggml.tokens": ("add_array", list("abc"))}, "a tokenizer of 3 tokens and embeddings of 300"),
}


@pytest.mark.parametrize("edit, words", NAMED.values(), ids=NAMED.keys())
def test_what_is_no_causal_lm_with_its_tokenizer_is_named(edit, words, tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), edit=edit)
    with pytest.raises(GGUFError, match=words):
        check_header(read_header(file))


@pytest.mark.parametrize("architecture", ["clip", "bert", "t5", "qwen2moe"])
def test_other_architectures(architecture, tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), architecture=architecture)
    with pytest.raises(GGUFError, match=f"architecture '{architecture}', which is not read here .only llama, qwen2.*safetensors"):
        check_header(read_header(file))


def test_an_adapter_is_no_model(tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.llm(), drop=("token_embd.weight",))
    with pytest.raises(GGUFError, match="no whole model, perhaps an adapter"):
        check_header(read_header(file))

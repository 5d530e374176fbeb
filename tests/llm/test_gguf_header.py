"""What a GGUF file may get wrong, each with its own message; and that no length in a header is believed."""

import struct

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from recbole_llm.llm.gguf_header import GGUFError, read_header
from tests import gguf_files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "good.gguf", gguf_files.llm())


def test_a_header_is_what_was_written(good):
    header = read_header(good)
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


def test_a_file_whose_end_was_never_written_is_damaged(good, tmp_path):
    """A download that took the whole file's place at once, and was interrupted."""
    whole, file = good.read_bytes(), tmp_path / "part.gguf"
    start = min(tensor.start for tensor in read_header(good).tensors.values())
    for written in (start, (start + len(whole)) // 2, len(whole) - 4096):
        file.write_bytes(whole[:written] + bytes(len(whole) - written))
        with pytest.raises(GGUFError, match="part.gguf.* is damaged or cut short: it ends in zeros"):
            read_header(file)
    file.write_bytes(whole[:-4000] + bytes(4000))
    assert read_header(file).tensors.keys() == read_header(good).tensors.keys()


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


def test_tensors_that_overlap_or_begin_between_two_places(good, tmp_path):
    """The last tensor of the header moved onto the first, and behind the end of the data, 32 and 36 bytes on."""
    whole, file, header = good.read_bytes(), tmp_path / "moved.gguf", read_header(good)
    name, last = list(header.tensors.items())[-1]
    at = whole.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    at += 4 + 8 * struct.unpack_from("<I", whole, at)[0] + 4
    start = last.start - struct.unpack_from("<Q", whole, at)[0]
    end = -(-len(whole) // 32) * 32
    for place, words in ((start, "inside '"), (end + 32, None), (end + 36, f"begins at byte {end + 36};")):
        data = bytearray(whole + b"\1" * (end - len(whole) + 64 + last.n_bytes))
        struct.pack_into("<Q", data, at, place - start)
        file.write_bytes(data)
        if words is None:
            assert read_header(file).tensors[name].start == place
            continue
        with pytest.raises(GGUFError, match=words):
            read_header(file)


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
    writer.add_tensor("a.weight", np.ones((rows, size * (256 // block)), np.uint8), raw_dtype=kind)
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

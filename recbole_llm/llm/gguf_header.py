"""The header of a GGUF file (the format of llama.cpp), read without trusting any length in it, and what is wrong with it.

    magic, version, counts | metadata: key, type, value ... | tensors: name, shape, type, offset ... | padding | data

The package gguf believes a header: of a file cut short it reads what is left, and loops as often as a damaged count says. So
every string, array and tensor is checked against the file's size here before anything else opens the file.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")  # whose logits are checked against transformers' own
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece"}
WORDS = {"gpt2": "tokenizer.ggml.merges", "llama": "tokenizer.ggml.scores"}
SPECIAL = [f"tokenizer.ggml.{kind}_token_id" for kind in ("bos", "eos", "unknown", "padding")]  # which transformers reads
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_FOLDER = "or give a folder with the model's safetensors"


class GGUFError(ValueError):
    """A GGUF file that cannot be used; the message names the file, the rule and the remedy."""

    def __init__(self, path: Path, rule: str, remedy: str):
        super().__init__(f"llm_path {str(path)!r} {rule}; {remedy}")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: its shape as torch has it, gguf's quantisation type, its first byte in the file."""

    shape: tuple[int, ...]
    kind: object
    start: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself. ``metadata`` holds scalars and strings; arrays by their length."""

    path: Path
    metadata: dict
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str | None:
        return self.metadata.get("general.architecture")

    def own(self, key: str, default=None):
        """The architecture's own setting, e.g. ``attention.key_length``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_header(path: Path) -> Header:
    """Read a file's header; every tensor lies inside the file and can be dequantised.

    Raises:
        GGUFError: no GGUF file, a damaged or truncated one, or a quantisation that the package gguf does not know.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise GGUFError(path, "is no GGUF file: it does not begin with the letters GGUF", "download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(path, data)
            try:
                return reader.header()
            except (struct.error, UnicodeDecodeError) as error:
                raise reader.damaged(f"its header ends too early or is garbled ({error})") from error


def check_header(header: Header) -> None:
    """Whether what a file describes is a causal LM with its tokenizer, of an architecture that is read exactly.

    Raises:
        GGUFError: what it is instead.
    """
    path, meta = header.path, header.metadata
    if header.architecture not in ARCHITECTURES:
        raise GGUFError(
            path, f"is of the architecture {header.architecture!r}, which is not read here (only {', '.join(ARCHITECTURES)})",
            f"choose another model, {_FOLDER}",
        )  # fmt: skip
    if meta.get("split.count", 1) not in (0, 1):
        raise GGUFError(path, f"is one of {meta['split.count']} parts", "join them with llama-gguf-split --merge")
    table = header.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise GGUFError(path, "holds no token_embd.weight: it is no whole model, perhaps an adapter", "give the model's own file")
    _check_tokenizer(header, table.shape[0])
    blocks = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    if len(blocks) != header.own("block_count"):
        raise GGUFError(
            path, f"holds {len(blocks)} layers and says that it has {header.own('block_count')} ({header.architecture}.block_count)",
            "download it again",
        )  # fmt: skip
    if (scaling := header.own("rope.scaling.type", "none")) != "none":
        raise GGUFError(path, f"stretches its positions ({scaling} RoPE scaling), which is not read here", f"choose another, {_FOLDER}")


def _check_tokenizer(header: Header, embeddings: int) -> None:
    path, meta = header.path, header.metadata
    kind, tokens = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.tokens", 0)
    if kind not in TOKENIZERS or not tokens:
        found = "no tokenizer" if kind in (None, "none", "no_vocab") or not tokens else f"a tokenizer of the kind {kind!r}"
        known = ", ".join(f"{name} ({words})" for name, words in TOKENIZERS.items())
        raise GGUFError(path, f"holds {found}; {known} are read", f"choose a file with one, {_FOLDER}")
    if tokens != embeddings:
        raise GGUFError(
            path, f"holds a tokenizer of {tokens} tokens and embeddings of {embeddings}: they are of two models",
            "choose a file made from one",
        )  # fmt: skip
    if not meta.get(WORDS[kind]):
        raise GGUFError(path, f"holds no {WORDS[kind]}: its tokenizer is not whole", f"download it again, {_FOLDER}")
    for key in SPECIAL:
        if key in meta and not (type(meta[key]) is int and 0 <= meta[key] < tokens):
            raise GGUFError(path, f"is damaged: it holds {key} {meta[key]!r} and {tokens} tokens", "download it again")


class _Reader:
    """Walks through a header; ``at`` is the next byte."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at = path, data, 4

    def damaged(self, what: str) -> GGUFError:
        return GGUFError(self.path, f"is damaged or cut short: {what}", "download it again")

    def header(self) -> Header:
        (version,) = self.take("I")
        if version not in VERSIONS:
            endian = " (or big-endian)" if version & 0xFFFF == 0 else ""
            raise GGUFError(self.path, f"is GGUF version {version}{endian}; versions 2 and 3 are read", "choose a newer file")
        n_tensors, n_keys = self.take("QQ")
        metadata = {}
        for _ in range(self.bounded(n_keys, 12)):
            key, (kind,) = self.string(), self.take("I")
            metadata[key] = self.value(kind)
        entries = [self.tensor() for _ in range(self.bounded(n_tensors, 24))]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self.damaged(f"general.alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        tensors = {name: self.placed(name, shape, kind, start + offset) for name, shape, kind, offset in entries}
        if len(tensors) < n_tensors:
            raise self.damaged("two tensors have one name")
        return Header(self.path, metadata, tensors)

    def take(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def bounded(self, count: int, least: int) -> int:
        """A count of things that take at least ``least`` bytes each."""
        if count * least > len(self.data) - self.at:
            raise self.damaged(f"its header says {count} entries where {len(self.data) - self.at} bytes are left")
        return count

    def string(self) -> str:
        length = self.bounded(*self.take("Q"), 1)
        text = self.data[self.at : self.at + length].decode("utf-8")
        self.at += length
        return text

    def value(self, kind: int):
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])[0]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise self.damaged(f"a value of the unknown type {kind}")
        inner, count = self.take("IQ")
        if inner in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[inner])
            self.at += self.bounded(count, width) * width
        elif inner == _STRING:
            for _ in range(self.bounded(count, 8)):
                length = self.bounded(*self.take("Q"), 1)  # which moves `at`
                self.at += length
        else:
            raise self.damaged(f"an array of the unknown type {inner}")
        return count

    def tensor(self) -> tuple:
        name, (n_dims,) = self.string(), self.take("I")
        if not 1 <= n_dims <= _MAX_DIMS:
            raise self.damaged(f"the tensor {name!r} has {n_dims} dimensions")
        dims = self.take(f"{n_dims}Q")
        return name, tuple(reversed(dims)), *self.take("IQ")

    def placed(self, name: str, shape: tuple, number: int, start: int) -> Tensor:
        """The tensor, if it is of a known type and lies inside the file."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        try:
            kind = GGMLQuantizationType(number)
            block, size = GGML_QUANT_SIZES[kind]
            dequantize(np.zeros((1, size), np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise GGUFError(
                self.path, f"holds {name!r} in the quantisation {_kind_name(number)}, which the package gguf cannot read",
                f"choose another quantisation, e.g. Q8_0 or Q4_K_M, {_FOLDER}",
            ) from error  # fmt: skip
        end = start + prod(shape) // block * size
        if shape[-1] % block or end > len(self.data):
            raise self.damaged(f"the tensor {name!r} should end at byte {end} of {len(self.data)}")
        return Tensor(shape, kind, start)


def _kind_name(number: int) -> str:
    from gguf import GGMLQuantizationType

    known = {kind.value: kind.name for kind in GGMLQuantizationType}
    return f"{known[number]} ({number})" if number in known else f"type {number}"

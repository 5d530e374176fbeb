"""The header of a GGUF file (the format of llama.cpp), read without trusting any length in it, and what is damaged in it.

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

VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_TAIL = 4096  # bytes at the end of the last tensor, which are not all zeros in a whole file
FOLDER = "or give a folder with the model's safetensors"


class GGUFError(ValueError):
    """A GGUF file that cannot be used; the message names the file, the rule and the remedy."""

    def __init__(self, path: Path, rule: str, remedy: str):
        super().__init__(f"llm_path {str(path)!r} {rule}; {remedy}")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: its shape as torch has it, gguf's quantisation type, its first byte in the file and how many there are."""

    shape: tuple[int, ...]
    kind: object
    start: int
    n_bytes: int


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
        self.apart(tensors, alignment)
        return Header(self.path, metadata, tensors)

    def apart(self, tensors: dict[str, Tensor], alignment: int) -> None:
        """Whether tensors begin where the format lets them begin, each behind the end of another, and the last was written to its end."""
        end, before = 0, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            if tensor.start % alignment or tensor.start < end:
                raise self.damaged(f"the tensor {name!r} begins at byte {tensor.start}" + (f", inside {before!r}" if tensor.start < end else ""))
            end, before = tensor.start + tensor.n_bytes, name
        if end and not any(self.data[max(self.at, end - _TAIL) : end]):
            raise self.damaged("it ends in zeros, as a download does that was interrupted")

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
                f"choose another quantisation, e.g. Q8_0 or Q4_K_M, {FOLDER}",
            ) from error  # fmt: skip
        n_bytes = prod(shape) // block * size
        if shape[-1] % block or start + n_bytes > len(self.data):
            raise self.damaged(f"the tensor {name!r} should end at byte {start + n_bytes} of {len(self.data)}")
        return Tensor(shape, kind, start, n_bytes)


def _kind_name(number: int) -> str:
    from gguf import GGMLQuantizationType

    known = {kind.value: kind.name for kind in GGMLQuantizationType}
    return f"{known[number]} ({number})" if number in known else f"type {number}"

"""Reads the convolutions of an ONNX file without the package ``onnx``: it is a protocol buffer of a few fields."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tinygan.errors import CheckpointError

# Numbers of the fields in onnx.proto.
GRAPH = 7  # of a model
NODES, INITIALISERS, INPUTS = 1, 5, 11  # of a graph
NODE_INPUTS, NODE_OUTPUTS, NODE_KIND = 1, 2, 4
DIMENSIONS, DATA_TYPE, FLOATS, NAME, RAW = 1, 2, 4, 8, 9  # of a tensor
INPUT_NAME, FLOAT = 1, 1

Field = tuple[int, int | bytes]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Convolution:
    """A convolution of the graph.

    Attributes:
        name: name of its weight in the file; exporters lose it where they fold a batch normalisation into it.
        before: the convolution whose output it takes as it is, without an activation between; None if there is none.
        weight: float32 [outputs, inputs per group, H, W].
        bias: float32 [outputs].
    """

    name: str
    before: Convolution | None
    weight: Tensor
    bias: Tensor


def read_convolutions(path: Path) -> list[Convolution]:
    """All convolutions of an ONNX file, in the order of the graph.

    Raises:
        CheckpointError: if the file is absent, no ONNX file, or a convolution has no weight and bias in float32.
    """
    return _read(path, _convolutions)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of an ONNX file by name; one that is not float32 is empty.

    Raises:
        CheckpointError: if the file is absent or no ONNX file.
    """
    return _read(path, lambda content: _tensors(_graph(content)))


def _read(path: Path, parse: Callable[[bytes], Read]) -> Read:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights in an ONNX file (.onnx)")
    try:
        return parse(path.read_bytes())
    except (ValueError, IndexError, KeyError, StopIteration, UnicodeDecodeError, struct.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: expected an ONNX file of convolutions with bias, float32: {reason}") from error


def _graph(content: bytes) -> list[Field]:
    return list(_fields(_bytes(next(value for number, value in _fields(content) if number == GRAPH))))


def _tensors(graph: list[Field]) -> dict[str, Tensor]:
    return dict(_tensor(_bytes(value)) for number, value in graph if number == INITIALISERS)


def _convolutions(content: bytes) -> list[Convolution]:
    graph = _graph(content)
    tensors = _tensors(graph)
    found: list[Convolution] = []
    made_by: dict[str, Convolution] = {}
    for number, value in graph:
        if number != NODES:
            continue
        fields = list(_fields(_bytes(value)))
        kind, taken, made = (_texts(fields, number) for number in (NODE_KIND, NODE_INPUTS, NODE_OUTPUTS))
        if kind == ["Identity"] and taken[0] in tensors:  # exporters keep one of several equal tensors
            tensors[made[0]] = tensors[taken[0]]
        if kind == ["Conv"]:
            before, weight, bias = taken
            found.append(Convolution(weight, made_by.get(before), tensors[weight], tensors[bias]))
            made_by[made[0]] = found[-1]
    return found


def _tensor(content: bytes) -> tuple[str, Tensor]:
    """Name and values of a tensor; one that is not float32 is empty."""
    fields = list(_fields(content))
    (name,) = _texts(fields, NAME)
    sizes = [size for number, value in fields if number == DIMENSIONS for size in _numbers(value)]
    if (DATA_TYPE, FLOAT) not in fields:
        return name, torch.zeros(0)
    raw = b"".join(_bytes(value) for number, value in fields if number in (RAW, FLOATS))
    return name, torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32).reshape(sizes))


def _fields(content: bytes) -> Iterator[Field]:
    """Number and value of every field: a whole number, or bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"no protocol buffer: field {number} of kind {kind} at byte {at}")
        if at + size > len(content):
            raise ValueError(f"cut short: {size} bytes announced at byte {at}, {len(content) - at} left")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number, seven bits per byte, and where the next field starts."""
    value = shift = 0
    while True:
        byte = content[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _numbers(value: int | bytes) -> list[int]:
    """Whole numbers of a field, alone or packed."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _texts(fields: list[Field], wanted: int) -> list[str]:
    return [_bytes(value).decode() for number, value in fields if number == wanted]


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"expected bytes, got the number {value}")
    return value

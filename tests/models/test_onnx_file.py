"""Weights from ONNX files, written here byte by byte."""

import struct

import pytest
import torch

from tinygan.errors import CheckpointError
from tinygan.models.onnx_file import read_convolutions


def varint(value):
    rest, digit = value >> 7, value & 127
    return bytes([digit | 128]) + varint(rest) if rest else bytes([digit])


def field(number, value):
    """A field of a protocol buffer: a whole number, text, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name, sizes, values, packed=True):
    raw = struct.pack(f"<{len(values)}f", *values)
    if packed:  # both ways in which exporters write them
        return field(5, b"".join([field(1, b"".join(map(varint, sizes))), field(2, 1), field(8, name), field(9, raw)]))
    numbers = b"".join(varint(4 << 3 | 5) + struct.pack("<f", value) for value in values)
    return field(5, b"".join([*(field(1, size) for size in sizes), field(2, 1), numbers, field(8, name)]))


def node(kind, inputs, output):
    return field(1, b"".join([*(field(1, name) for name in inputs), field(2, output), field(4, kind)]))


def model(*parts):
    return field(1, 7) + field(2, "maker") + field(7, b"".join(parts))


GOOD = model(
    node("Conv", ["in", "w1", "b1"], "a"),
    node("Identity", ["b1"], "b2"),
    node("Conv", ["a", "w2", "b2"], "b"),
    node("Relu", ["b"], "c"),
    node("Conv", ["c", "w2", "b2"], "d"),
    tensor("w1", [2, 1, 1, 1], [1.5, -2.0]),
    tensor("b1", [2], [0.25, 300.0], packed=False),
    tensor("w2", [2, 1, 1, 1], [3.0, 4.0], packed=False),
)


def test_weights_names_and_what_comes_before(tmp_path):
    (tmp_path / "net.onnx").write_bytes(GOOD)
    first, second, third = read_convolutions(tmp_path / "net.onnx")
    assert first.name == "w1" and first.weight.shape == (2, 1, 1, 1) and first.weight.flatten().tolist() == [1.5, -2.0]
    assert first.bias.tolist() == second.bias.tolist() == [0.25, 300.0] and first.bias.dtype == torch.float32
    assert first.before is None and second.before is first and third.before is None  # ReLU lies between
    assert third.weight.flatten().tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GOOD[:-3], "cut short"),
        (b"PK\x03\x04 a zip file", "expected an ONNX file of convolutions with bias, float32"),
        (b"", "StopIteration"),
        (model(node("Conv", ["in", "w"], "a")), "not enough values to unpack"),
        (model(node("Conv", ["in", "w", "b"], "a")), "KeyError: 'w'"),
    ],
    ids=["cut short", "zip", "empty", "no bias", "weights elsewhere"],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, reason):
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_convolutions(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.onnx: no such file"):
        read_convolutions(tmp_path / "nowhere.onnx")

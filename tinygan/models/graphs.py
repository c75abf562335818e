"""Networks as files that other programs run: ONNX, OpenVINO and TorchScript.

A :class:`Graph` is a network with a name for each of its inputs and outputs. Its files hold it in single precision,
with facts about it in their metadata.
"""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tinygan.errors import MissingDependency
from tinygan.models.pixels import WHITE

OPSET = 17  # of ONNX; onnxruntime 1.13 (2022) and newer run it
EXAMPLE_SIZES = {"batch": 2, "height": 96, "width": 128}  # of the input that a network is traced with
SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "torchscript": (".pt",)}
FACTS = "tinygan"  # where the facts are in OpenVINO and TorchScript files


@dataclass(frozen=True)
class Port:
    """An input or output of a graph, float32.

    Attributes:
        name: its name in the files.
        shape: its sizes; one that may differ from call to call is a word: ``batch``, ``height``, ``width``, or of an
            output any other.
        meaning: what it holds, with ranges and units.
        white: of an input of pictures: what a byte of 255 stands for, where they are given as bytes.
    """

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    white: float = WHITE

    def __str__(self) -> str:
        return f"float32 [{', '.join(map(str, self.shape))}]: {self.meaning}"

    def example(self) -> Tensor:
        """Values in [0, 1], always the same; the random numbers of the program that calls are left alone."""
        shape = [EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in self.shape]
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Graph:
    """A network that can be exported.

    Attributes:
        name: a word for it, the stem of its files.
        network: takes the inputs in turn and returns a tuple of the outputs; in evaluation mode.
        inputs: its inputs.
        outputs: its outputs.
    """

    name: str
    network: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to trace the network with."""
        return tuple(port.example() for port in self.inputs)

    def facts(self) -> dict[str, str]:
        """What a user of a file must know of its inputs and outputs."""
        kinds = (("input", self.inputs), ("output", self.outputs))
        return {f"{kind} {port.name}": str(port) for kind, ports in kinds for port in ports}


@runtime_checkable
class Exportable(Protocol):
    """A proposer whose networks can be exported."""

    def graphs(self) -> list[Graph]:
        """Its networks, as float32 RGB pictures to scores and boxes; several have names of their own."""
        ...


def to_onnx(graph: Graph, facts: Mapping[str, str] | None = None) -> bytes:
    """The content of an ONNX file.

    Args:
        graph: the network.
        facts: what goes into the metadata besides the graph's own.

    Raises:
        MissingDependency: if ``onnx`` is not installed.
    """
    onnx = import_extra("onnx", "onnx", "writing ONNX")
    ports = (*graph.inputs, *graph.outputs)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _tracing():
        file = Path(folder) / f"{graph.name}.onnx"
        # The exporter that traces: the newer one needs another package, onnxscript.
        torch.onnx.export(
            graph.network,
            graph.examples(),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            dynamic_axes={
                port.name: {axis: size for axis, size in enumerate(port.shape) if isinstance(size, str)}
                for port in ports
            },
        )
        model = onnx.load(file)
    onnx.helper.set_model_props(model, {**graph.facts(), **(facts or {})})
    content: bytes = model.SerializeToString()
    return content


def to_openvino(graph: Graph, facts: Mapping[str, str] | None = None) -> Any:
    """The network as an ``openvino.Model``; see :func:`to_onnx`.

    Raises:
        MissingDependency: if ``openvino`` or ``onnx`` is not installed.
    """
    openvino = import_extra("openvino", "openvino", "OpenVINO")
    model = openvino.Core().read_model(to_onnx(graph))
    for name, fact in {**graph.facts(), **(facts or {})}.items():
        model.set_rt_info(fact, [FACTS, name])
    return model


def to_torchscript(graph: Graph, facts: Mapping[str, str] | None = None) -> bytes:
    """The content of a TorchScript file, whose facts are JSON in its extra file ``tinygan``; see :func:`to_onnx`."""
    buffer = io.BytesIO()
    with torch.no_grad(), _tracing():
        traced = torch.jit.trace(graph.network, graph.examples(), check_trace=False)  # type: ignore[no-untyped-call]
        extra = {FACTS: json.dumps({**graph.facts(), **(facts or {})})}
        torch.jit.save(traced, buffer, _extra_files=extra)
    return buffer.getvalue()


def encode_graph(graph: Graph, format: str, facts: Mapping[str, str]) -> dict[str, bytes]:
    """A graph's files.

    Args:
        graph: the network.
        format: one of :data:`SUFFIXES`.
        facts: what goes into the metadata besides the graph's own.

    Returns:
        ``{suffix: content}``, for each suffix of the format.
    """
    if format == "onnx":
        return {".onnx": to_onnx(graph, facts)}
    if format == "torchscript":
        return {".pt": to_torchscript(graph, facts)}
    return encode_openvino(to_openvino(graph, facts))


def encode_openvino(model: Any) -> dict[str, bytes]:
    """The files of an ``openvino.Model``: ``{suffix: content}``."""
    openvino = import_extra("openvino", "openvino", "OpenVINO")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        openvino.save_model(model, file, compress_to_fp16=False)
        return {suffix: file.with_suffix(suffix).read_bytes() for suffix in SUFFIXES["openvino"]}


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import an optional package.

    Args:
        module: its name.
        extra: the extra of tinygan that installs it.
        what: what it is needed for.

    Raises:
        MissingDependency: if it is not installed.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise MissingDependency(f"{what} needs the package {module}: pip install 'tinygan[{extra}]'") from error


@contextmanager
def _tracing() -> Iterator[None]:
    """Without warnings that tracing may go from torch one day; one that a size became a constant remains."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "torch.tensor results are registered as constants")  # as they should be
        yield

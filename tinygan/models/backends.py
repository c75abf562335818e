"""Runs a network by PyTorch, onnxruntime or OpenVINO: the one place that knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from threading import Lock
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tinygan.heap import reuse_memory
from tinygan.models.exported import exported_file
from tinygan.models.folding import fold_padding
from tinygan.models.fused import fuse_layers
from tinygan.models.graphs import Graph, Port, import_extra, to_onnx, to_openvino
from tinygan.models.pixels import WHITE, scale_bytes
from tinygan.runtime import Runtime

Run: TypeAlias = Callable[..., Sequence[Tensor]]


def deploy(graph: Graph, runtime: Runtime) -> Run:
    """Make a network ready to be called.

    Args:
        graph: the network; PyTorch moves it to the device.
        runtime: the backend, device, precision, threads, and the folder of exported networks, if any.

    Returns:
        A function of the graph's inputs, tensors on the device, that returns its outputs. Pictures may be given as
        bytes, too, all or none: uint8 [N, 3, H, W], best as they lie in files, channels-last. OpenVINO compiles the
        network when it is first called with either.

    Raises:
        CheckpointError: if the network is not among the exported ones.
        MissingDependency: if the backend is not installed.
    """
    if runtime.backend == "onnxruntime":
        return _onnxruntime(graph, runtime)
    if runtime.backend == "openvino":
        return _openvino(graph, runtime)
    place(fold_padding(graph.network), runtime)
    return partial(_torch, graph)


def _torch(graph: Graph, *inputs: Tensor) -> Sequence[Tensor]:
    outputs: Sequence[Tensor] = graph.network(*_floats(graph, inputs))
    return outputs


def _floats(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs as float32; bytes in the units that the graph wants."""
    return [
        scale_bytes(values, port.white) if values.dtype == torch.uint8 else values.float()
        for values, port in zip(inputs, graph.inputs, strict=True)
    ]


def place(network: nn.Module, runtime: Runtime) -> None:
    """Move a network without batch normalisation to the device, to be used by PyTorch and trained no more.

    On a CPU this process keeps more memory from then on, see :func:`tinygan.heap.reuse_memory`.

    Args:
        network: the network, which is changed in place; its modules must run in the order in which they are defined.
        runtime: the device and precision.
    """
    runtime.place(network)
    if runtime.device.type == "cpu":
        reuse_memory()
        fuse_layers(network, torch.bfloat16 if runtime.precision == "bf16" else torch.float32)


def onnx_session(content: bytes, runtime: Runtime, what: str) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        content: an ONNX file.
        runtime: how many threads.
        what: what needs it, for the error message.

    Raises:
        MissingDependency: if onnxruntime is not installed.
    """
    onnxruntime = import_extra("onnxruntime", "onnx", what)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _onnxruntime(graph: Graph, runtime: Runtime) -> Run:
    session = onnx_session(to_onnx(graph), runtime, "backend onnxruntime")
    names = [port.name for port in graph.inputs]

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = [tensor.contiguous().numpy() for tensor in _floats(graph, inputs)]
        return [torch.from_numpy(output) for output in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def _openvino(graph: Graph, runtime: Runtime) -> Run:
    openvino = import_extra("openvino", "openvino", "backend openvino")
    settings = {
        "INFERENCE_NUM_THREADS": runtime.threads,
        "NUM_STREAMS": 1,  # or it would split the threads between requests, of which there is one at a time
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "32": "f32"}[runtime.precision],  # or it would choose itself
        "ENABLE_CPU_PINNING": False,  # or two processes might share a core while another is idle
    }
    core = openvino.Core()
    if runtime.exported is None:
        model = to_openvino(graph)
    else:
        model = core.read_model(exported_file(runtime.exported, graph.name))
    turn = Lock()

    @cache
    def request_for(bytes_come: bool) -> Any:
        ready = _for_bytes(model.clone(), graph.inputs) if bytes_come else model
        return core.compile_model(ready, "CPU", settings).create_infer_request()

    def run(*inputs: Tensor) -> list[Tensor]:
        bytes_come = all(tensor.dtype == torch.uint8 for tensor in inputs)
        ready = [tensor.permute(0, 2, 3, 1) for tensor in inputs] if bytes_come else _floats(graph, inputs)
        with turn:  # a request answers one thread at a time
            request = request_for(bytes_come)
            request.infer([tensor.contiguous().numpy() for tensor in ready], share_inputs=True)
            return [torch.from_numpy(output.data.copy()) for output in request.output_tensors]

    return run


def _for_bytes(model: Any, ports: Sequence[Port]) -> Any:
    """An ``openvino.Model`` that takes pictures as they lie in memory.

    OpenVINO moves and scales bytes itself, which saves the judges a tenth of their time.
    """
    openvino = import_extra("openvino", "openvino", "backend openvino")
    steps = openvino.preprocess.PrePostProcessor(model)
    for at, port in enumerate(ports):
        steps.input(at).tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        steps.input(at).model().set_layout(openvino.Layout("NCHW"))
        steps.input(at).preprocess().convert_element_type(openvino.Type.f32).scale(WHITE / port.white)
    return steps.build()

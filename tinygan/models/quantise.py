"""Post-training quantisation: convolutions of 8-bit integers, by NNCF, for OpenVINO."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from tinygan.models.graphs import Graph, import_extra, to_openvino

CONVOLUTIONS = ("Convolution", "GroupConvolution")
CONSTANTS = ("Parameter", "Constant", "Result")


def to_int8(graph: Graph, samples: Sequence[Tensor], facts: Mapping[str, str] | None = None) -> Any:
    """A network as an ``openvino.Model`` whose convolutions compute in int8, each filter with its own scale.

    The first convolutions, which see pictures, and all that follows the last ones remain in single precision: there
    rounding costs more than it saves.

    Args:
        graph: the network.
        samples: inputs like those it will see, a tensor [N, …] per input, from which the ranges of activations are
            found.
        facts: what goes into the metadata besides the graph's own.

    Raises:
        MissingDependency: if ``nncf``, ``openvino`` or ``onnx`` is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # or it would report every use to its makers without asking
    import_extra("openvino", "int8", "int8")
    nncf = import_extra("nncf", "int8", "int8")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function would change handlers that others put there
    # Ranges reach to the largest value seen. Those that NNCF takes by itself left 1.4 times the error of face logits.
    ranges = import_module("nncf.quantization.range_estimator").RangeEstimatorParametersSet.MINMAX
    model = to_openvino(graph, facts)
    rows = [[np.ascontiguousarray(tensor[row : row + 1]) for tensor in samples] for row in range(len(samples[0]))]
    with redirect_stdout(sys.stderr):  # its progress
        return nncf.quantize(
            model,
            nncf.Dataset(rows),
            subset_size=len(rows),
            ignored_scope=nncf.IgnoredScope(names=sensitive(model), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges),
        )


def sensitive(model: Any) -> list[str]:
    """Names of the operations of an ``openvino.Model`` before or after all convolutions, and of the first of these."""
    operations = [one for one in model.get_ordered_ops() if one.get_type_name() not in CONSTANTS]
    names = [one.get_friendly_name() for one in operations]
    is_convolution = {name: one.get_type_name() in CONVOLUTIONS for name, one in zip(names, operations, strict=True)}
    inputs = {name: _inputs(one) & set(names) for name, one in zip(names, operations, strict=True)}
    after: set[str] = set()  # operations with a convolution before them
    for name in names:
        if any(is_convolution[one] or one in after for one in inputs[name]):
            after.add(name)
    until: set[str] = set()  # convolutions, and operations with one after them
    for name in reversed(names):
        if is_convolution[name] or name in until:
            until |= {name, *inputs[name]}
    return [name for name in names if name not in after or name not in until]


def _inputs(operation: Any) -> set[str]:
    return {one.get_source_output().get_node().get_friendly_name() for one in operation.inputs()}

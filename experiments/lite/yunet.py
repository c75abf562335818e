"""OpenCV's YuNet as a function, for ``tinygan-propose --proposer callable``.

    pip install opencv-python-headless
    YUNET=yunet_n_dynamic.onnx tinygan-propose --proposer callable --set function=experiments.lite.yunet:find_faces \\
        --images DIR --out yunet.tar.gz

The weights are OpenCV Zoo's (``face_detection_yunet``, Apache-2.0), with a free input size.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygan.detections import FloatArray

SCORE, OVERLAP, KEEP = 0.02, 0.45, 5000


def find_faces(image: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
    """Boxes [N, 4] and scores [N] of an image, uint8 RGB [H, W, 3], searched at its own size."""
    detector = _detector()
    detector.setInputSize((image.shape[1], image.shape[0]))
    faces = detector.detect(np.ascontiguousarray(image[:, :, ::-1]))[1]
    if faces is None:
        return np.zeros((0, 4)), np.zeros(0)
    rows = np.asarray(faces, np.float64)
    corner, size = rows[:, :2], rows[:, 2:4]
    large = (size > 1).all(axis=1)
    return np.concatenate([corner, corner + size], axis=1)[large], np.clip(rows[large, -1], 0.0, 1.0)


@cache
def _detector() -> Any:
    import cv2

    return cv2.FaceDetectorYN.create(os.environ["YUNET"], "", (320, 320), SCORE, OVERLAP, KEEP)

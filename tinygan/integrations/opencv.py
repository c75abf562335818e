"""OpenCV: rescores the faces of ``cv2.FaceDetectorYN``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinygan.boxes import xywh_to_xyxy, xyxy_to_xywh
from tinygan.detections import ByteArray
from tinygan.integrations.rows import from_bgr, rescore_rows
from tinygan.second_stage.stage import SecondStage

Faces = npt.NDArray[np.float32]


def rescore_opencv(image: ByteArray, faces: Faces | None, stage: SecondStage) -> Faces:
    """Rescore the faces of one picture.

    Args:
        image: uint8 BGR [H, W, 3], as ``cv2.imread`` reads it.
        faces: float32 [N, 15], ``x, y, w, h``, ten numbers of landmarks, and the score; None for none.
        stage: the second stage.

    Returns:
        float32 [M, 15], those that are left; landmarks are those of before.

    Raises:
        DataError: if boxes are unfit; see :meth:`SecondStage.rescore`.
    """
    rows = np.zeros((0, 15), np.float32) if faces is None else faces
    corners = xywh_to_xyxy(rows[:, :4].astype(np.float64))
    found, order = rescore_rows(stage, from_bgr(image), corners, rows[:, 14], "the faces")
    better: Faces = rows[order].copy()
    better[:, :4], better[:, 14] = xyxy_to_xywh(found.boxes), found.scores
    return better

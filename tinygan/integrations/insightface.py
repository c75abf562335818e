"""InsightFace: rescores the faces of ``FaceAnalysis``. Its models are for non-commercial research."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygan.detections import ByteArray
from tinygan.integrations.rows import from_bgr, rescore_rows
from tinygan.second_stage.stage import SecondStage


def rescore_insightface(image: ByteArray, faces: Sequence[Any], stage: SecondStage) -> list[Any]:
    """Rescore the faces of one picture.

    Args:
        image: uint8 BGR [H, W, 3], as ``FaceAnalysis.get`` takes it.
        faces: ``insightface.app.common.Face``, with ``bbox`` and ``det_score``.
        stage: the second stage.

    Returns:
        Copies of those that are left; ``bbox`` and ``det_score`` are new, landmarks and embeddings those of before.

    Raises:
        DataError: if boxes are unfit; see :meth:`SecondStage.rescore`.
    """
    boxes, scores = [face.bbox for face in faces], [face.det_score for face in faces]
    found, rows = rescore_rows(stage, from_bgr(image), boxes, scores, "the faces")
    better = []
    for row, box, score in zip(rows, found.boxes, found.scores, strict=True):
        face = type(faces[row])(dict(faces[row]))  # it cannot be copied
        face.bbox, face.det_score = box.astype(np.float32), np.float32(score)
        better.append(face)
    return better

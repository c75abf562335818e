"""supervision: rescores ``sv.Detections``, also those of ``sv.InferenceSlicer``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygan.formats.images import Picture
from tinygan.integrations.rows import from_bgr, rescore_rows
from tinygan.second_stage.stage import SecondStage


def rescore_supervision(image: Picture, detections: Any, stage: SecondStage) -> Any:
    """Rescore the boxes of one picture.

    Args:
        image: as for :meth:`SecondStage.rescore`, but arrays are BGR, as supervision and OpenCV have them.
        detections: ``sv.Detections`` with ``confidence``.
        stage: the second stage.

    Returns:
        New ``sv.Detections``; ``data`` also holds ``proposal_box``, ``proposal_score`` and ``face_logit``.

    Raises:
        DataError: if there is no confidence, or boxes are unfit; see :meth:`SecondStage.rescore`.
    """
    if not len(detections):
        return detections
    picture = from_bgr(image) if isinstance(image, np.ndarray) else image
    found, rows = rescore_rows(stage, picture, detections.xyxy, detections.confidence, "sv.Detections")
    better = detections[rows]
    better.xyxy, better.confidence = found.boxes, found.scores
    better.data = {**better.data, **found.fields}
    return better

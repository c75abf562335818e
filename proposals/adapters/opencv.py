"""YuNet as OpenCV runs it (``cv2.FaceDetectorYN``), as a proposer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

from proposals.adapters.viewed import AdapterConfig, Viewed
from tinygan.boxes import xywh_to_xyxy
from tinygan.detections import Detections
from tinygan.errors import CheckpointError
from tinygan.models.graphs import import_extra
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime

MOST = 5000  # boxes that enter NMS
LEAST_SIDE_PX = 2  # OpenCV fails on narrower pictures


@dataclass(frozen=True, kw_only=True)
class OpenCvConfig(AdapterConfig):
    """Which of OpenCV's boxes are kept.

    Attributes:
        score_threshold: boxes of a lower score are dropped.
    """

    score_threshold: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold lies in [0, 1], got {self.score_threshold}")


class OpenCvProposer:
    """``cv2.FaceDetectorYN``; ``fields["landmarks"]`` [N, 10] holds ``x, y`` of five points.

    Args:
        detector: the detector.
        keep: number of boxes per image, the best ones, that are kept.
    """

    def __init__(self, detector: Any, keep: int) -> None:
        self._detector, self._keep, self._turn = detector, keep, Lock()

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        height, width = image.shape[1:]
        if min(height, width) < LEAST_SIDE_PX:
            return Detections.empty().with_fields(landmarks=np.zeros((0, 10)))
        pixels = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
        with self._turn:  # the size belongs to the detector
            self._detector.setInputSize((width, height))
            _, faces = self._detector.detect(pixels)
        rows = np.zeros((0, 15)) if faces is None else faces.astype(np.float64)
        scores = rows[:, 14].clip(0, 1)
        return best_inside(
            Detections(xywh_to_xyxy(rows[:, :4]), scores, {"landmarks": rows[:, 4:14]}), width, height, self._keep
        )


def build_opencv(config: OpenCvConfig, weights: Path | None, runtime: Runtime) -> Viewed:
    """Open OpenCV's detector.

    Raises:
        CheckpointError: if ``weights`` is absent, or no YuNet in ONNX.
        MissingDependency: if OpenCV is not installed.
    """
    cv2 = import_extra("cv2", "opencv", "proposer 'yunet-opencv'")
    if weights is None or not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; expected a YuNet in an ONNX file, such as OpenCV Zoo's")
    log = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2  # OpenCV 4 has it at the top
    level = log.setLogLevel(0)  # silent: it tells users what they cannot change
    try:
        detector = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), config.score_threshold, config.nms_iou, MOST)
    except cv2.error as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{weights}: expected a YuNet in an ONNX file: {reason}") from error
    finally:
        log.setLogLevel(level)
    return Viewed(OpenCvProposer(detector, config.keep), config)


ENTRY = Entry(OpenCvConfig, build_opencv, wanted="OpenCV Zoo's face_detection_yunet in ONNX (--weights W.onnx)")

"""What all integrations share: boxes and scores in, the same rescored out, with the rows they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygan.boxes import clip
from tinygan.detections import Detections, IntArray, to_numpy
from tinygan.errors import DataError
from tinygan.formats.images import Picture, to_picture
from tinygan.second_stage.stage import SecondStage

_ROW = "row"


def rescore_rows(
    stage: SecondStage, image: Picture, boxes: Any, scores: Any, result: str
) -> tuple[Detections, IntArray]:
    """Rescore boxes of one picture.

    Args:
        stage: the second stage.
        image: the picture, as for :meth:`SecondStage.rescore`.
        boxes: [N, 4], ``x1, y1, x2, y2`` in pixels.
        scores: [N], in [0, 1]; None is an error.
        result: what they come from, for the error message.

    Returns:
        The boxes that are left, by falling new score, inside the picture; and for each the row it was in, int64.

    Raises:
        DataError: if there are no scores, or boxes and scores are unfit.
    """
    if scores is None or boxes is None:
        raise DataError(f"{result}: expected boxes with scores, got none; the second stage weighs scores")
    corners = np.asarray(to_numpy(boxes), np.float64).reshape(-1, 4)
    if not len(corners):
        return Detections.empty(), np.zeros(0, np.int64)
    picture = to_picture(image)
    found = stage.rescore(picture, Detections(corners, to_numpy(scores), {_ROW: np.arange(len(corners))}))
    fields = {name: column for name, column in found.fields.items() if name != _ROW}
    inside = clip(found.boxes, picture.width, picture.height)
    return replace(found, boxes=inside, fields=fields), found.fields[_ROW].astype(np.int64)


def from_bgr(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A picture [H, W, 3] as OpenCV has it, blue first, in RGB; grey ones [H, W] or [H, W, 1] stay."""
    return image[..., ::-1] if image.ndim == 3 and image.shape[-1] == 3 else image

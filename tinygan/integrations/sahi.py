"""SAHI: rescores what sliced prediction found, after its tiles were merged."""

from __future__ import annotations

import copy
from typing import Any

from tinygan.integrations.rows import rescore_rows
from tinygan.second_stage.stage import SecondStage


def rescore_sahi(result: Any, stage: SecondStage) -> Any:
    """Rescore the boxes of one picture, once SAHI returned: it has no hook between merging tiles and that.

    Args:
        result: ``sahi.prediction.PredictionResult``, of ``get_sliced_prediction`` or ``get_prediction``.
        stage: the second stage.

    Returns:
        A new ``PredictionResult``; boxes and scores are floats, categories and masks those of before.

    Raises:
        DataError: if the boxes are unfit; see :meth:`SecondStage.rescore`.
    """
    from sahi.annotation import BoundingBox
    from sahi.prediction import PredictionScore

    before = result.object_prediction_list
    corners = [one.bbox.get_shifted_box().to_xyxy() for one in before]
    found, rows = rescore_rows(stage, result.image, corners, [one.score.value for one in before], "PredictionResult")
    better = copy.copy(result)
    better.object_prediction_list = []
    for row, box, score in zip(rows, found.boxes.tolist(), found.scores.tolist(), strict=True):
        prediction = copy.copy(before[row])
        prediction.bbox, prediction.score = BoundingBox(box), PredictionScore(score)
        better.object_prediction_list.append(prediction)
    return better

"""Ultralytics (under AGPL-3.0): rescores the ``Results`` of a YOLO, without importing anything of it."""

from __future__ import annotations

from typing import Any

import torch

from tinygan.errors import DataError
from tinygan.integrations.rows import from_bgr, rescore_rows
from tinygan.second_stage.stage import SecondStage


def rescore_ultralytics(result: Any, stage: SecondStage) -> Any:
    """Rescore the boxes of one picture.

    Args:
        result: ``ultralytics.engine.results.Results`` with ``boxes``; it brings its picture along.
        stage: the second stage.

    Returns:
        New ``Results``; classes, key points and track numbers go with their boxes.

    Raises:
        DataError: if there are no boxes, or they are unfit; see :meth:`SecondStage.rescore`.
    """
    if result.boxes is None:
        raise DataError("Results: expected boxes, got none; is this a model that detects?")
    picture, data = from_bgr(result.orig_img), torch.as_tensor(result.boxes.data)
    found, rows = rescore_rows(stage, picture, data[:, :4], data[:, -2], "Results")
    order = torch.from_numpy(rows).to(data.device)
    better, moved = result[order], data[order].clone()
    moved[:, :4] = torch.from_numpy(found.boxes).to(moved)
    moved[:, -2] = torch.from_numpy(found.scores).to(moved)
    better.update(boxes=moved)
    return better

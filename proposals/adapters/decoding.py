"""What the outputs of public face detectors mean: one function per kind, and the table of them.

Each turns the outputs for one picture into boxes, scores and landmarks of all places, in pixels of the network's input,
before any threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from proposals.adapters.viewed import AdapterConfig
from proposals.anchors import decode_boxes, decode_landmarks, pyramid_anchors
from proposals.views import positive
from proposals.yunet import cells, place_boxes, place_landmarks

LANDMARKS = 5
BINS = 16  # of a side's distance, in YOLOv8


class Found(NamedTuple):
    """Places of a picture: boxes ``x1, y1, x2, y2`` [K, 4], scores [K], landmarks [K, 10], or [K, 0] where none are."""

    boxes: Tensor
    scores: Tensor
    landmarks: Tensor


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(AdapterConfig):
    """How a detector's outputs become boxes.

    Attributes:
        decode: the kind of outputs. ``rows``: one output, a row of numbers per box (YOLOv5-face, YOLOv7-face,
            YOLOv8-face, detectors with NMS inside). ``bins``: raw maps of YOLOv8-face, one per level. ``distances``:
            scores, then distances from a cell to the sides, then landmarks, each for all levels (SCRFD). ``anchors``:
            offsets from anchors, scores, landmarks (RetinaFace). ``centres``: a heat map, sizes, offsets, landmarks
            (CenterFace). ``cells``: class, object, boxes, landmarks, each for all levels (YuNet). ``none``: not said.
        outputs: names of the outputs in that order; empty: the file's own order.
        strides: pixels of the input from cell to cell of each level.
        columns: numbers per row of ``rows``.
        corners: of ``rows``: whether a row begins with ``x1, y1, x2, y2``, not with the centre, width and height.
        scores: of ``rows``: columns, from 0, whose product is the score.
        landmarks: of ``rows``: columns of ``x, y`` of five points in turn; empty: there are none.
        anchors: of ``anchors``: sides of the square anchors of a cell in pixels, level by level.
        variances: of ``anchors``: scales of the offsets of centre and size.
        per_cell: boxes per cell of ``distances``.
        class_share: of ``cells``: the score is this power of the class probability, times the rest of the power of
            the object probability.
    """

    decode: str = "none"
    outputs: tuple[str, ...] = ()
    strides: tuple[int, ...] = (8, 16, 32)
    columns: int = 16
    corners: bool = False
    scores: tuple[int, ...] = (4,)
    landmarks: tuple[int, ...] = ()
    anchors: tuple[tuple[float, ...], ...] = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
    variances: tuple[float, ...] = (0.1, 0.2)
    per_cell: int = 2
    class_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decode not in ("none", *DECODERS):
            raise ValueError(f"decode is one of none, {', '.join(DECODERS)}; got '{self.decode}'")
        if not self.strides or not positive(self.strides):
            raise ValueError(f"strides are numbers above 0, got {self.strides}")
        if len(self.landmarks) not in (0, 2 * LANDMARKS):
            raise ValueError(f"landmarks are {2 * LANDMARKS} columns or none, got {len(self.landmarks)}")
        if not self.scores or not all(0 <= column < self.columns for column in (*self.scores, *self.landmarks)):
            raise ValueError(
                f"scores and landmarks are columns from 0 to {self.columns - 1} of a row of {self.columns}"
            )
        if self.decode == "anchors" and len(self.anchors) != len(self.strides):
            raise ValueError(f"anchors are one list per stride, got {len(self.anchors)} for {len(self.strides)}")
        if len(self.variances) != 2 or self.per_cell < 1 or not 0 <= self.class_share <= 1:
            raise ValueError("variances are two numbers, per_cell is at least 1 and class_share lies in [0, 1]")


def _of_rows(outputs: Sequence[Tensor], config: DecodingConfig, size: tuple[int, int]) -> Found:
    rows = outputs[0].squeeze(0)
    rows = rows if rows.shape[-1] == config.columns else rows.transpose(-1, -2)
    if rows.ndim != 2 or rows.shape[-1] != config.columns:
        raise ValueError(f"one output of rows of {config.columns} numbers, got {list(outputs[0].shape)}")
    boxes = rows[:, :4]
    if not config.corners:
        boxes = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
    return Found(boxes, rows[:, list(config.scores)].prod(dim=1), rows[:, list(config.landmarks)])


def _of_bins(outputs: Sequence[Tensor], config: DecodingConfig, size: tuple[int, int]) -> Found:
    sides = 4 * BINS
    rows = _levels(outputs, [outputs[0].shape[1]], config, size)[0]
    where = _cells(size, config)
    bins = rows[:, :sides].reshape(-1, 4, BINS).softmax(dim=-1) @ torch.arange(BINS).float()
    points = rows[:, sides + 1 :].reshape(len(rows), -1, 3)[..., :2].flatten(1)  # the third says whether it is visible
    boxes = _beside(where[:, :2] + where[:, 2:] / 2, bins * where[:, 2:])
    return Found(boxes, rows[:, sides].sigmoid(), place_landmarks(2 * points, where))


def _of_distances(outputs: Sequence[Tensor], config: DecodingConfig, size: tuple[int, int]) -> Found:
    said = _levels(outputs, [1, 4, 2 * LANDMARKS], config, size, config.per_cell)
    where = _cells(size, config).repeat_interleave(config.per_cell, dim=0)
    landmarks = place_landmarks(said[2], where) if len(said) > 2 else said[1].new_zeros(len(where), 0)
    return Found(_beside(where[:, :2], said[1] * where[:, 2:]), said[0][:, 0], landmarks)


def _of_cells(outputs: Sequence[Tensor], config: DecodingConfig, size: tuple[int, int]) -> Found:
    faces, objects, boxes, landmarks = _levels(outputs, [1, 1, 4, 2 * LANDMARKS], config, size)
    where = _cells(size, config)
    scores = faces.clamp(0, 1).pow(config.class_share) * objects.clamp(0, 1).pow(1 - config.class_share)
    return Found(place_boxes(boxes, where), scores[:, 0], place_landmarks(landmarks, where))


def _of_anchors(outputs: Sequence[Tensor], config: DecodingConfig, size: tuple[int, int]) -> Found:
    offsets, classes, points = (output.squeeze(0) for output in outputs)
    anchors = pyramid_anchors(_sizes(size, config), config.strides, config.anchors)
    if not len(offsets) == len(classes) == len(points) == len(anchors):
        raise ValueError(f"{len(anchors)} anchors in a picture of {size[1]} x {size[0]} px, got {len(offsets)}")
    variances = (config.variances[0], config.variances[1])
    boxes = decode_boxes(offsets, anchors, variances)
    return Found(boxes, classes[:, -1], decode_landmarks(points, anchors, variances))


def _of_centres(outputs: Sequence[Tensor], config: DecodingConfig, size: tuple[int, int]) -> Found:
    heat, log_sides, offsets, points = (output.squeeze(0).flatten(1).T for output in outputs)
    where, stride = _cells(size, config), config.strides[0]
    sides = log_sides.flip(1).clamp(max=math.log(max(size))).exp() * stride  # height, width -> width, height
    boxes = _beside(where[:, :2] + (0.5 + offsets.flip(1)) * stride, (sides / 2).repeat(1, 2))
    inside = points.reshape(-1, LANDMARKS, 2).flip(2) * sides[:, None]  # y, x -> x, y, from the upper left corner
    return Found(boxes, heat[:, 0].clamp(0, 1), (boxes[:, None, :2] + inside).flatten(1))


Decoder = Callable[[Sequence[Tensor], DecodingConfig, tuple[int, int]], Found]

DECODERS: Mapping[str, Decoder] = {
    "rows": _of_rows,
    "bins": _of_bins,
    "distances": _of_distances,
    "anchors": _of_anchors,
    "centres": _of_centres,
    "cells": _of_cells,
}


def _beside(middle: Tensor, distances: Tensor) -> Tensor:
    """Boxes [K, 4] from points [K, 2] and the distances [K, 4] from these to the left, upper, right and lower side."""
    return torch.cat([middle - distances[:, :2], middle + distances[:, 2:]], dim=1)


def _sizes(size: tuple[int, int], config: DecodingConfig) -> list[tuple[int, int]]:
    """Height and width of each level, in cells, of an input of this height and width in pixels."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in config.strides]


def _cells(size: tuple[int, int], config: DecodingConfig) -> Tensor:
    return cells(_sizes(size, config), config.strides)


def _levels(
    outputs: Sequence[Tensor], columns: Sequence[int], config: DecodingConfig, size: tuple[int, int], per_cell: int = 1
) -> list[Tensor]:
    """What is said of all places, [K, columns] for each of ``columns``, of outputs level by level.

    An output is a map [1, C, H, W], or rows [1, K, C] or [K, C].
    """
    levels = len(config.strides)
    if len(outputs) % levels:
        raise ValueError(f"a multiple of {levels} outputs, one per stride, got {len(outputs)}")
    kinds = [outputs[at : at + levels] for at in range(0, len(outputs), levels)]
    said = [[_flat(one, width) for one in kind] for kind, width in zip(kinds, columns, strict=False)]
    expected = [height * width * per_cell for height, width in _sizes(size, config)]
    for kind in said:  # outputs in another order would give boxes of the wrong size, without any error
        if (rows := [len(one) for one in kind]) != expected:
            raise ValueError(f"outputs of {expected} places, finest level first, got {rows}; name them by outputs")
    return [torch.cat(kind) for kind in said]


def _flat(output: Tensor, columns: int) -> Tensor:
    return (output.permute(0, 2, 3, 1) if output.ndim == 4 else output).reshape(-1, columns)

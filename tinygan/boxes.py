"""Pure maths on boxes ``x1, y1, x2, y2`` (float64 [N, 4], x2/y2 exclusive)."""

from __future__ import annotations

import numpy as np

from tinygan.detections import BoolArray, FloatArray, IntArray

PAIRS = 1 << 16  # of boxes that are compared at once, so that memory does not grow with the square of their number


def xywh_to_xyxy(xywh: FloatArray) -> FloatArray:
    """Corners from an upper left corner and a size, as most formats hold boxes.

    Args:
        xywh: float64 [N, 4], ``x, y, width, height`` in pixels.

    Returns:
        float64 [N, 4], ``x1, y1, x2, y2``.
    """
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: FloatArray) -> FloatArray:
    """The inverse of :func:`xywh_to_xyxy`, up to rounding: float64 [N, 4], ``x, y, width, height``."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def area(boxes: FloatArray) -> FloatArray:
    """Area in square pixels; a box with a negative side has none.

    Args:
        boxes: float64 [N, 4].

    Returns:
        float64 [N].
    """
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
    product: FloatArray = sides[:, 0] * sides[:, 1]
    return product


def intersection(first: FloatArray, second: FloatArray) -> FloatArray:
    """Shared area of every pair.

    Args:
        first: float64 [N, 4].
        second: float64 [M, 4].

    Returns:
        float64 [N, M].
    """
    width, height = (
        np.minimum(first[:, None, high], second[None, :, high]) - np.maximum(first[:, None, low], second[None, :, low])
        for low, high in ((0, 2), (1, 3))
    )
    shared: FloatArray = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return shared


def iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """Intersection over union of every pair; 0 where both boxes have no area.

    Args:
        first: float64 [N, 4].
        second: float64 [M, 4].

    Returns:
        float64 [N, M] in [0, 1].
    """
    shared = intersection(first, second)
    union = area(first)[:, None] + area(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def clip(boxes: FloatArray, width_px: float, height_px: float) -> FloatArray:
    """Boxes cut to an image of ``width_px`` x ``height_px``; shape [N, 4] is kept."""
    limit = np.array([width_px, height_px, width_px, height_px], dtype=np.float64)
    clipped: FloatArray = np.clip(boxes, 0.0, limit)
    return clipped


def longer_side(boxes: FloatArray) -> FloatArray:
    """The longer side of each box in pixels: float64 [N]."""
    longest: FloatArray = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    return longest


def square_crops(boxes: FloatArray, context: float) -> FloatArray:
    """The square around each box's centre whose side is ``context`` times the box's longer side.

    Args:
        boxes: float64 [N, 4].
        context: factor on the longer side; 1 is a tight square, 2 adds half a face on every side.

    Returns:
        float64 [N, 4]; squares may reach beyond the image, and are at least 1 px wide.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum(longer_side(boxes) * context, 1.0)[:, None] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def encode_boxes(boxes: FloatArray, anchors: FloatArray) -> FloatArray:
    """Boxes relative to anchors: corners measured from the anchor's centre, in units of its longer side.

    Args:
        boxes: float64 [N, 4], pixels.
        anchors: float64 [N, 4], pixels; a longer side below 1 px counts as 1 px.

    Returns:
        float64 [N, 4], ``x1, y1, x2, y2`` in those units.
    """
    centre, unit = _centre_and_unit(anchors)
    encoded: FloatArray = (boxes - centre) / unit
    return encoded


def mirror_boxes(framed: FloatArray) -> FloatArray:
    """Boxes in the frames of mirrored proposals, as of :func:`encode_boxes`: x1 becomes -x2, x2 becomes -x1."""
    x1, y1, x2, y2 = framed.T
    return np.column_stack([-x2, y1, -x1, y2])


def decode_boxes(encoded: FloatArray, anchors: FloatArray) -> FloatArray:
    """The inverse of :func:`encode_boxes`: float64 [N, 4], pixels."""
    centre, unit = _centre_and_unit(anchors)
    boxes: FloatArray = encoded * unit + centre
    return boxes


def interpolate(boxes: FloatArray, goals: FloatArray, move: FloatArray, resize: FloatArray) -> FloatArray:
    """Boxes between given ones and their goals: centres interpolated linearly, widths and heights geometrically.

    Args:
        boxes: float64 [N, 4].
        goals: float64 [N, 4]; where a goal is NaN, or it or the box has no area, the box is kept as it is.
        move: float64 [N], 0 keeps the box's centre, 1 takes the goal's.
        resize: float64 [N], 0 keeps the box's width and height, 1 takes the goal's.

    Returns:
        float64 [N, 4]; a box whose ``move`` and ``resize`` are both 0 is returned exactly.
    """
    changes = np.isfinite(goals).all(axis=1) & (area(boxes) > 0) & (area(goals) > 0) & ((move != 0) | (resize != 0))
    (centre, size), (goal, wanted) = _centre_and_size(boxes[changes]), _centre_and_size(goals[changes])
    centre = centre + move[changes, None] * (goal - centre)
    size = size * (wanted / size) ** resize[changes, None]
    moved: FloatArray = boxes.copy()
    moved[changes] = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return moved


def greedy_groups(boxes: FloatArray, scores: FloatArray, threshold: float, leads: BoolArray | None = None) -> IntArray:
    """Greedy grouping, as in non-maximum suppression: boxes that overlap a better-scored one join it.

    Memory grows with the number of boxes, not with its square.

    Args:
        boxes: float64 [N, 4].
        scores: float64 [N].
        threshold: a box joins the best-scored free one that it overlaps by this IoU or more.
        leads: bool [N], the boxes that others may join; default: all.

    Returns:
        int64 [N], the position of the box that each box joined; its own position if it joined none.
    """
    by_score = np.argsort(-scores, kind="stable")
    ordered, count = boxes[by_score], len(boxes)
    may_lead = np.ones(count, np.bool_) if leads is None else leads[by_score]
    joined, free = np.arange(count), np.ones(count, np.bool_)
    leading = np.flatnonzero(may_lead)
    while len(leading):
        first = leading[0]
        now, leading = np.split(leading, [max(1, PAIRS // (count - first))])
        overlaps = iou(ordered[now], ordered[first:]) >= threshold
        for lead, near in zip(now, overlaps, strict=True):
            if free[lead]:
                members = first + np.flatnonzero(near & free[first:])
                members = members[members > lead]
                free[members], joined[by_score[members]] = False, by_score[lead]
        leading = leading[free[leading]]
    return joined


def _centre_and_unit(anchors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centres twice over, ``x, y, x, y`` [N, 4], and longer sides of at least 1 px [N, 1]."""
    centre = np.tile((anchors[:, :2] + anchors[:, 2:]) / 2, 2)
    return centre, np.maximum(longer_side(anchors), 1.0)[:, None]


def _centre_and_size(boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]

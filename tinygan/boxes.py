"""Pure maths on boxes ``x1, y1, x2, y2`` (float64 [N, 4], x2/y2 exclusive)."""

from __future__ import annotations

import numpy as np

from tinygan.detections import FloatArray


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
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(high - low, 0.0, None)
    shared: FloatArray = sides[..., 0] * sides[..., 1]
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
    """The square around each box's centre whose side is ``context`` x the longer side.

    Args:
        boxes: float64 [N, 4].
        context: factor on the longer side; 1 is a tight square, 2 adds half a face on every side.

    Returns:
        float64 [N, 4]; squares may reach beyond the image, and are at least 1 px wide.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum(longer_side(boxes) * context, 1.0)[:, None] / 2
    return np.concatenate([centre - half, centre + half], axis=1)

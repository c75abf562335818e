"""Anchors that fit the faces of a data set: k-means of their sizes, with 1 - IoU as the distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygan.detections import FloatArray

STARTS, ROUNDS = 5, 100


def size_iou(sizes: FloatArray, anchors: FloatArray) -> FloatArray:
    """IoU float64 [N, K] of boxes with one centre, from widths and heights: ``sizes`` [N, 2], ``anchors`` [K, 2]."""
    shared = np.minimum(sizes[:, None], anchors).prod(axis=2)
    overlaps: FloatArray = shared / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - shared)
    return overlaps


def cluster_sizes(sizes: FloatArray, count: int, rng: np.random.Generator, square: bool = False) -> FloatArray:
    """The sizes of anchors that overlap faces most.

    Args:
        sizes: float64 [N, 2], width and height of faces, above 0.
        count: number of anchors, K.
        rng: draws the first anchors (k-means++); the best of five starts is taken.
        square: whether anchors are squares.

    Returns:
        float64 [K, 2], by rising area: the medians of width and of height of the faces that an anchor fits best, or the
        median square root of their areas.
    """
    runs = [_cluster(sizes, count, rng, square) for _ in range(STARTS)]
    best = max(runs, key=lambda anchors: size_iou(sizes, anchors).max(axis=1).mean())
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _cluster(sizes: FloatArray, count: int, rng: np.random.Generator, square: bool) -> FloatArray:
    values = np.sqrt(sizes.prod(axis=1))[:, None].repeat(2, axis=1) if square else sizes
    anchors = values[[rng.integers(len(values))]]
    while len(anchors) < count:
        weights = (1 - size_iou(sizes, anchors).max(axis=1)) ** 2 + 1e-12  # all alike where nothing is left to fit
        anchors = np.concatenate([anchors, values[[rng.choice(len(values), p=weights / weights.sum())]]])
    for _ in range(ROUNDS):
        nearest = size_iou(sizes, anchors).argmax(axis=1)
        moved = np.array([
            np.median(values[nearest == at], axis=0) if (nearest == at).any() else anchors[at] for at in range(count)
        ])  # fmt: skip
        if np.array_equal(moved, anchors):
            break
        anchors = moved
    return anchors


def split_levels(anchors: FloatArray, levels: int) -> list[FloatArray]:
    """Anchors [K, 2] by rising area, equally many per level.

    Raises:
        ValueError: if they cannot be split evenly.
    """
    if levels < 1 or len(anchors) % levels:
        raise ValueError(f"{len(anchors)} anchors cannot be split evenly among {levels} levels")
    return np.split(anchors, levels)


def best_on_grid(boxes: FloatArray, levels: Sequence[FloatArray], strides: Sequence[int]) -> FloatArray:
    """The largest IoU of each face with an anchor, which lies at the centre of a cell; float64 [N].

    Args:
        boxes: float64 [N, 4], ``x1, y1, x2, y2`` in pixels, of some area.
        levels: for each level the sizes of its anchors, [K, 2].
        strides: pixels from cell to cell of each level.
    """
    centres, best = (boxes[:, :2] + boxes[:, 2:]) / 2, np.zeros(len(boxes))
    for sizes, stride in zip(levels, strides, strict=True):
        cell = (np.maximum(np.floor(centres / stride), 0) + 0.5) * stride  # the nearest one
        for half in sizes / 2:
            placed = np.concatenate([cell - half, cell + half], axis=1)
            best = np.maximum(best, _paired_iou(boxes, placed))
    return best


def _paired_iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """IoU of boxes row by row, float64 [N]."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1)
    overlaps: FloatArray = shared / (areas - shared)
    return overlaps

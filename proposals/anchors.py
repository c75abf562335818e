"""Anchor boxes on a feature pyramid, and the boxes and landmarks that offsets from them describe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_GROWTH = 4.135  # log(62.5), as in torchvision: a wild offset stays finite


def pyramid_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], sides_px: Sequence[Sequence[float]]
) -> Tensor:
    """Square anchors at the centre of every cell of every level.

    torchvision's ``AnchorGenerator`` puts them at cell corners, rounds them, and finds the stride by division of
    whole numbers, which is off by one where the image is no multiple of it.

    Args:
        sizes: height and width of each level, in cells.
        strides: pixels from cell to cell of each level.
        sides_px: for each level, the sides of the anchors of one cell in pixels.

    Returns:
        float32 [A, 4], ``centre x, centre y, width, height`` in pixels: level by level, row by row, cell by cell,
        then in the order of ``sides_px``.
    """
    levels = []
    for (height, width), stride, sides in zip(sizes, strides, sides_px, strict=True):
        y, x = ((torch.arange(count) + 0.5) * stride for count in (height, width))
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [height, width, 2]
        side = torch.tensor(sides, dtype=torch.float32)
        both = [centres[:, :, None].expand(-1, -1, len(sides), -1), side[:, None].expand(height, width, -1, 2)]
        levels.append(torch.cat(both, dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def decode_boxes(offsets: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Boxes from offsets (Ren et al. 2015, Eq. 2, with SSD's variances).

    Args:
        offsets: float [..., N, 4]: shift of the centre in anchor sides over ``variances[0]``, log growth of width and
            height over ``variances[1]``.
        anchors: float [N, 4], ``centre x, centre y, width, height``.
        variances: scales of the offsets of centre and size.

    Returns:
        float [..., N, 4], ``x1, y1, x2, y2``.
    """
    centre = anchors[:, :2] + variances[0] * offsets[..., :2] * anchors[:, 2:]
    half = anchors[:, 2:] * (variances[1] * offsets[..., 2:]).clamp(max=MAX_LOG_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def decode_landmarks(offsets: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Points from offsets.

    Args:
        offsets: float [..., N, 2 K]: ``x, y`` of K points in anchor sides over ``variances[0]``.
        anchors: float [N, 4], ``centre x, centre y, width, height``.
        variances: scales of the offsets of centre and size.

    Returns:
        float [..., N, 2 K], ``x, y`` in turn.
    """
    points = offsets.reshape(*offsets.shape[:-1], offsets.shape[-1] // 2, 2) * variances[0]
    return (anchors[:, None, :2] + points * anchors[:, None, 2:]).flatten(-2)


def encode_boxes(boxes: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """The inverse of :func:`decode_boxes`.

    Args:
        boxes: float [N, 4], ``x1, y1, x2, y2``, of some area.
        anchors: float [N, 4], ``centre x, centre y, width, height``.
        variances: scales of the offsets of centre and size.

    Returns:
        float [N, 4], offsets.
    """
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    shift = (centre - anchors[:, :2]) / (variances[0] * anchors[:, 2:])
    return torch.cat([shift, (size / anchors[:, 2:]).log() / variances[1]], dim=1)


def encode_landmarks(points: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """The inverse of :func:`decode_landmarks`.

    Args:
        points: float [N, 2 K], ``x, y`` of K points in turn, pixels.
        anchors: float [N, 4], ``centre x, centre y, width, height``.
        variances: scales of the offsets of centre and size.

    Returns:
        float [N, 2 K], offsets.
    """
    placed = points.reshape(len(points), points.shape[1] // 2, 2)
    offsets = (placed - anchors[:, None, :2]) / (variances[0] * anchors[:, None, 2:])
    return offsets.reshape(points.shape)

"""What a network with anchors answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class First(NamedTuple):
    """What a first step said of the same anchors, where there are two: a cascade.

    Attributes:
        face_logits: float [B, A]; 0 on levels of which it said nothing.
        boxes: float [B, A, 4], offsets; 0 on levels of which it said nothing.
        landmarks: float [B, A, 10], offsets; None where none are learnt.
    """

    face_logits: Tensor
    boxes: Tensor
    landmarks: Tensor | None


class Output(NamedTuple):
    """The answer for A anchors of B pictures, in the order of :func:`proposals.anchors.pyramid_anchors`.

    Attributes:
        face_logits: float [B, A], face against background.
        boxes: float [B, A, 4], offsets.
        landmarks: float [B, A, 10], offsets of eyes, nose and corners of the mouth; None where none are learnt.
        sizes: height and width of each level, in cells.
        first: what a first step said; the offsets above are then those from the anchors as it moved them.
        levels: the pyramid's maps [B, C, H, W], where training needs them; else None.
    """

    face_logits: Tensor
    boxes: Tensor
    landmarks: Tensor | None
    sizes: list[tuple[int, int]]
    first: First | None = None
    levels: list[Tensor] | None = None


def cat_levels(levels: Sequence[Tensor], columns: int) -> Tensor:
    """What was said of the anchors of each cell, in the order of the anchors.

    Args:
        levels: for each level [B, anchors x columns, H, W]; the columns of an anchor are neighbours.
        columns: number of columns per anchor.

    Returns:
        [B, A, columns].
    """
    return torch.cat([level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, columns) for level in levels], dim=1)

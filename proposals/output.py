"""What a network with anchors answers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """The answer for A anchors of B pictures, in the order of :func:`proposals.anchors.pyramid_anchors`.

    Attributes:
        face_logits: float [B, A], face against background.
        boxes: float [B, A, 4], offsets.
        landmarks: float [B, A, 10], offsets of eyes, nose and corners of the mouth; None where none are learnt.
        sizes: height and width of each level, in cells.
    """

    face_logits: Tensor
    boxes: Tensor
    landmarks: Tensor | None
    sizes: list[tuple[int, int]]

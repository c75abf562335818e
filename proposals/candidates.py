"""What a first stage found in one view of a picture, and how it is joined with what was found in the mirror image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LANDMARKS, MIRRORED_LANDMARKS = 5, (1, 0, 2, 4, 3)  # eyes, nose, corners of the mouth
SAME_IOU = 0.5  # from which boxes of a picture and of its mirror image are of one face


class Candidates(NamedTuple):
    """Boxes in pixels of the image: [K, 4], scores [K], landmarks [K, 10] or [K, 0] where there are none."""

    boxes: Tensor
    scores: Tensor
    landmarks: Tensor


def mirror(found: Candidates, width_px: int) -> Candidates:
    """What was found in the mirror image of a picture of this width, in the picture."""
    x1, y1, x2, y2 = found.boxes.unbind(dim=1)
    landmarks = found.landmarks
    if landmarks.shape[1]:
        points = landmarks.view(-1, LANDMARKS, 2)[:, list(MIRRORED_LANDMARKS)]
        landmarks = torch.stack([width_px - points[..., 0], points[..., 1]], dim=2).flatten(1)
    return Candidates(torch.stack([width_px - x2, y1, width_px - x1, y2], dim=1), found.scores, landmarks)


def mean_of_both(own: Candidates, other: Candidates, iou: Tensor) -> Candidates:
    """Boxes with the mean of their score and the best one of the others at their place, which draws its box as well.

    Args:
        own: N boxes.
        other: M boxes; where none is, the score is 0.
        iou: [N, M], of each with each.
    """
    if not iou.numel():
        return own._replace(scores=own.scores / 2)
    there, best = torch.where(iou >= SAME_IOU, other.scores, 0).max(dim=1)  # [N] each
    share = (own.scores / (own.scores + there).clamp(min=1e-9))[:, None]
    boxes, landmarks = (
        share * mine + (1 - share) * theirs[best]
        for mine, theirs in ((own.boxes, other.boxes), (own.landmarks, other.landmarks))
    )
    return Candidates(boxes, (own.scores + there) / 2, landmarks)


def or_none_known(landmarks: Tensor | None, boxes: Tensor) -> Tensor:
    """Landmarks [B, K, 10], or [B, K, 0] for boxes [B, K, 4] without any."""
    return boxes.new_zeros(*boxes.shape[:2], 0) if landmarks is None else landmarks

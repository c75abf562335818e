"""Which anchor answers for which face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from proposals.anchors import encode_boxes, encode_landmarks

FACE, BACKGROUND, IGNORED = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """How anchors and faces are matched; defaults as in the common PyTorch RetinaFace.

    Attributes:
        positive_iou: an anchor with at least this IoU to a face answers for it.
        negative_iou: below this IoU to every face an anchor is background; between the two it is ignored.
        rescue_iou: every face gets its best anchor, from this IoU on, though another face overlap that one more; of two
            faces with the same best anchor the later one gets it.
        ignored_iou: an anchor with this IoU to an ignored face (invalid, too small) is ignored.
    """

    positive_iou: float = 0.35
    negative_iou: float = 0.35
    rescue_iou: float = 0.2
    ignored_iou: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"expected 0 < negative_iou <= positive_iou <= 1, got {self.negative_iou} and {self.positive_iou}"
            )
        for name in ("rescue_iou", "ignored_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in (0, 1], got {getattr(self, name)}")


class Faces(NamedTuple):
    """The faces of one training picture.

    Attributes:
        boxes: float32 [M, 4], ``x1, y1, x2, y2`` in pixels, of some area.
        ignored: bool [M], neither to be found nor background.
        landmarks: float32 [M, 10], ``x, y`` of five points; NaN where unknown.
    """

    boxes: Tensor
    ignored: Tensor
    landmarks: Tensor


class Targets(NamedTuple):
    """What the network should say of A anchors (of B pictures, once stacked).

    Attributes:
        labels: int64 [A], ``FACE``, ``BACKGROUND`` or ``IGNORED``.
        boxes: float32 [A, 4], offsets to the anchor's face; 0 where there is none.
        landmarks: float32 [A, 10], offsets to its points; NaN where there are none.
    """

    labels: Tensor
    boxes: Tensor
    landmarks: Tensor


def match_anchors(faces: Faces, anchors: Tensor, variances: tuple[float, float], config: MatchingConfig) -> Targets:
    """Label every anchor.

    Args:
        faces: of one picture.
        anchors: float32 [A, 4], ``centre x, centre y, width, height``.
        variances: of centre and size, see :func:`proposals.anchors.encode_boxes`.
        config: thresholds.
    """
    count = len(anchors)
    labels = torch.full((count,), BACKGROUND)
    box_targets = torch.zeros(count, 4)
    landmark_targets = torch.full((count, faces.landmarks.shape[1]), torch.nan)
    if not len(faces.boxes):
        return Targets(labels, box_targets, landmark_targets)
    overlaps = box_iou(faces.boxes, box_convert(anchors, "cxcywh", "xyxy"))
    labels[_touched(overlaps[faces.ignored], config.ignored_iou)] = IGNORED
    wanted = overlaps[~faces.ignored]
    if len(wanted):
        best, owner = wanted.max(dim=0)
        labels[(best >= config.negative_iou) & (best < config.positive_iou)] = IGNORED
        labels[best >= config.positive_iou] = FACE
        reach, anchor = wanted.max(dim=1)
        rescued = reach >= config.rescue_iou
        labels[anchor[~rescued & (labels[anchor] == BACKGROUND)]] = IGNORED  # half seen: not background either
        labels[anchor[rescued]] = FACE
        owner[anchor[rescued]] = rescued.nonzero()[:, 0]
        rows = (labels == FACE).nonzero()[:, 0]
        chosen = owner[rows]
        box_targets[rows] = encode_boxes(faces.boxes[~faces.ignored][chosen], anchors[rows], variances)
        points = faces.landmarks[~faces.ignored][chosen]
        landmark_targets[rows] = encode_landmarks(points, anchors[rows], variances)
    return Targets(labels, box_targets, landmark_targets)


def _touched(overlaps: Tensor, threshold: float) -> Tensor:
    """Anchors that overlap an ignored face by the threshold, or more than any other anchor does."""
    touched = (overlaps >= threshold).any(dim=0)
    if len(overlaps):
        touched[overlaps.argmax(dim=1)] = True
    return touched

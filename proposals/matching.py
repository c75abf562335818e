"""Which anchor has to find which face: the training targets of every anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from proposals.anchors import encode_boxes, encode_landmarks, move_anchors

FACE, BACKGROUND, IGNORED = 1, 0, -1
MINED = 2  # background too: a hard negative, which an earlier round of training took for a face
BLOCK = 16  # faces compared with all anchors at once: bounds memory on crowds


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """How anchors and faces are matched; defaults as in the common PyTorch RetinaFace.

    Attributes:
        positive_iou: least IoU at which an anchor is matched to the face that it overlaps most.
        negative_iou: an anchor whose IoU with every face is below this is background; one between this and
            ``positive_iou`` is ignored.
        rescue_iou: a face is matched to the anchor that overlaps it most if their IoU is at least this, even where that
            anchor overlaps another face more. If two faces share that anchor, it is matched to the later one.
        ignored_iou: an anchor whose IoU with an ignored face (invalid, too small) is at least this is ignored.
        mined_iou: background anchors whose IoU with a hard negative is at least this count as hard negatives; not
            stated in the paper.
    """

    positive_iou: float = 0.35
    negative_iou: float = 0.35
    rescue_iou: float = 0.2
    ignored_iou: float = 0.3
    mined_iou: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"expected 0 < negative_iou <= positive_iou <= 1, got {self.negative_iou} and {self.positive_iou}"
            )
        for name in ("rescue_iou", "ignored_iou", "mined_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in (0, 1], got {getattr(self, name)}")


NO_BOXES = torch.zeros(0, 4)


class Faces(NamedTuple):
    """The faces of one training picture.

    Attributes:
        boxes: float32 [M, 4], ``x1, y1, x2, y2`` in pixels, of some area.
        ignored: bool [M], neither to be found nor background.
        landmarks: float32 [M, 10], ``x, y`` of five points; NaN where unknown.
        mined: float32 [K, 4], hard negatives: boxes in which an earlier round of training saw a face.
    """

    boxes: Tensor
    ignored: Tensor
    landmarks: Tensor
    mined: Tensor = NO_BOXES


class Targets(NamedTuple):
    """What the network should say of A anchors (of B pictures, once stacked).

    Attributes:
        labels: int64 [A], ``FACE``, ``BACKGROUND``, ``IGNORED`` or ``MINED``.
        boxes: float32 [A, 4], offsets to the anchor's face; 0 where there is none.
        landmarks: float32 [A, 10], offsets to its points; NaN where there are none.
    """

    labels: Tensor
    boxes: Tensor
    landmarks: Tensor


def match_anchors(faces: Faces, anchors: Tensor, variances: tuple[float, float], config: MatchingConfig) -> Targets:
    """Label every anchor.

    Args:
        faces: the faces of one picture.
        anchors: float32 [A, 4], ``centre x, centre y, width, height``.
        variances: scales of the offsets of centre and size, see :func:`proposals.anchors.encode_boxes`.
        config: the thresholds.

    Returns:
        The labels of the A anchors, and the offsets from them to their faces.
    """
    count = len(anchors)
    labels = torch.full((count,), BACKGROUND, device=anchors.device)
    box_targets = anchors.new_zeros(count, 4)
    landmark_targets = anchors.new_full((count, faces.landmarks.shape[1]), torch.nan)
    if not len(faces.boxes) and not len(faces.mined):
        return Targets(labels, box_targets, landmark_targets)
    corners = box_convert(anchors, "cxcywh", "xyxy")
    ignored = _best_pairs(faces.boxes[faces.ignored], corners)
    labels[ignored.of_anchors >= config.ignored_iou] = IGNORED
    labels[ignored.anchors] = IGNORED  # an ignored face's best anchor, however small their IoU
    wanted = faces.boxes[~faces.ignored]
    if len(wanted):
        best = _best_pairs(wanted, corners)
        labels[(best.of_anchors >= config.negative_iou) & (best.of_anchors < config.positive_iou)] = IGNORED
        labels[best.of_anchors >= config.positive_iou] = FACE
        rescued = best.of_faces >= config.rescue_iou
        left = best.anchors[~rescued]
        labels[left[labels[left] == BACKGROUND]] = IGNORED  # it sees part of a face: no background either
        labels[best.anchors[rescued]] = FACE
        best.faces[best.anchors[rescued]] = rescued.nonzero()[:, 0]
        rows = (labels == FACE).nonzero()[:, 0]
        chosen = best.faces[rows]
        box_targets[rows] = encode_boxes(wanted[chosen], anchors[rows], variances)
        points = faces.landmarks[~faces.ignored][chosen]
        landmark_targets[rows] = encode_landmarks(points, anchors[rows], variances)
    mined = _best_pairs(faces.mined, corners).of_anchors >= config.mined_iou
    labels[mined & (labels == BACKGROUND)] = MINED
    return Targets(labels, box_targets, landmark_targets)


def match_moved(
    offsets: Tensor, faces: Sequence[Faces], anchors: Tensor, variances: tuple[float, float], config: MatchingConfig
) -> Targets:
    """Label every anchor where the first step of a cascade puts it.

    Args:
        offsets: float [B, A, 4], what the first step said of the boxes of B pictures; it gets no gradient.
        faces: the faces of each picture.
        anchors: float32 [A, 4], ``centre x, centre y, width, height``.
        variances: scales of the offsets of centre and size.
        config: the thresholds.

    Returns:
        Labels and offsets [B, A, ...], the latter from the moved anchors.
    """
    moved = [move_anchors(one.detach().float(), anchors, variances) for one in offsets]
    matched = [match_anchors(one, at, variances, config) for one, at in zip(faces, moved, strict=True)]
    return Targets(*(torch.stack(column) for column in zip(*matched, strict=True)))


def label_boxes(boxes: Tensor, faces: Faces, config: MatchingConfig) -> Tensor:
    """Labels int64 [N] of boxes [N, 4] by their IoU with faces alone: no face is rescued, no hard negative marked."""
    labels = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    best = _best_pairs(faces.boxes[~faces.ignored], boxes).of_anchors
    labels[_best_pairs(faces.boxes[faces.ignored], boxes).of_anchors >= config.ignored_iou] = IGNORED
    labels[best >= config.negative_iou] = IGNORED
    labels[best >= config.positive_iou] = FACE
    return labels


class _BestPairs(NamedTuple):
    """The largest IoU of each of A anchors with one of M faces, and the other way round; of equals the first.

    Attributes:
        of_anchors: float32 [A], IoU; -1 without faces.
        faces: int64 [A], the face of that IoU.
        of_faces: float32 [M], IoU.
        anchors: int64 [M], the anchor of that IoU.
    """

    of_anchors: Tensor
    faces: Tensor
    of_faces: Tensor
    anchors: Tensor


def _best_pairs(boxes: Tensor, anchors: Tensor) -> _BestPairs:
    """Compare boxes [M, 4] with anchors [A, 4], both ``x1, y1, x2, y2``; never more than ``BLOCK`` boxes at once."""
    of_anchors, faces = anchors.new_full((len(anchors),), -1.0), anchors.new_zeros(len(anchors), dtype=torch.int64)
    of_faces, best_anchors = anchors.new_zeros(len(boxes)), anchors.new_zeros(len(boxes), dtype=torch.int64)
    for start in range(0, len(boxes), BLOCK):
        overlaps = box_iou(boxes[start : start + BLOCK], anchors)
        of_faces[start : start + BLOCK], best_anchors[start : start + BLOCK] = overlaps.max(dim=1)
        best, row = overlaps.max(dim=0)
        larger = best > of_anchors
        of_anchors[larger], faces[larger] = best[larger], row[larger] + start
    return _BestPairs(of_anchors, faces, of_faces, best_anchors)

"""YuNet's losses as pure functions (Wu, Peng, Yu 2023), on the cells that SimOTA assigns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proposals.assignment import IGNORED, Assignment, AssignmentConfig, assign_cells
from proposals.losses import offset_loss
from proposals.matching import Faces
from proposals.yunet import YuNetOutput, cells, place_boxes


@dataclass(frozen=True, kw_only=True)
class YuNetLossConfig:
    """Weights of the terms; defaults as in the public training.

    Attributes:
        class_weight: weight of the cross-entropy of cells that find a face; their target is the IoU of their box.
        object_weight: weight of the cross-entropy of all cells: whether a cell finds a face.
        box_weight: weight of the boxes' EIoU loss.
        landmark_weight: weight of the smooth-L1 loss of landmarks, in strides.
    """

    class_weight: float = 1.0
    object_weight: float = 1.0
    box_weight: float = 5.0
    landmark_weight: float = 0.1

    def __post_init__(self) -> None:
        weights = (self.class_weight, self.object_weight, self.box_weight, self.landmark_weight)
        if not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"weights of losses must not be negative, got {weights}")


def eiou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Efficient IoU loss (Zhang et al. 2021, Eq. 8): 1 - IoU + d² / (W² + H²) + Δw² / W² + Δh² / H².

    d is the distance of the centres; W and H are the sides of the smallest box that holds both.

    Args:
        boxes: float [N, 4], ``x1, y1, x2, y2``.
        targets: float [N, 4], of some area.

    Returns:
        float [N].
    """
    low, high = torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:])
    hull = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    sides, wanted = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shared = (high - low).clamp(min=0).prod(dim=1)
    overlaps = shared / (sides.prod(dim=1) + wanted.prod(dim=1) - shared)
    apart = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]).square().sum(dim=1) / 4
    uneven = ((sides - wanted) / hull).square().sum(dim=1)
    return 1 - overlaps + apart / hull.square().sum(dim=1) + uneven


def yunet_losses(
    output: YuNetOutput, faces: Sequence[Faces], strides: tuple[int, ...], config: AssignmentConfig
) -> dict[str, Tensor]:
    """All terms, unweighted; landmarks count where they are known.

    Args:
        output: the network's output for B pictures.
        faces: the faces of each picture.
        strides: the strides of the output's levels.
        config: how cells and faces are matched.

    Returns:
        ``classification``, ``objectness``, ``box`` and ``landmarks``, each a scalar: the sum over pictures and cells
        per cell that finds a face.
    """
    where = cells(output.sizes, strides).to(output.boxes.device)
    boxes = place_boxes(output.boxes.float(), where)
    class_logits, object_logits = output.class_logits.float(), output.object_logits.float()
    scores = (torch.sigmoid(class_logits) * torch.sigmoid(object_logits)).sqrt().detach()
    pictures = zip(faces, boxes.detach(), scores, strict=True)
    made = [assign_cells(one, where, placed, sure, config) for one, placed, sure in pictures]
    assigned = Assignment(*(torch.stack(parts) for parts in zip(*made, strict=True)))
    finds, counts = assigned.faces >= 0, assigned.faces != IGNORED
    total = finds.sum().clamp(min=1)
    targets, points = _targets(faces, assigned.faces, where, output)
    known = finds & torch.isfinite(points).all(dim=-1)
    classes = F.binary_cross_entropy_with_logits(class_logits[finds], assigned.overlaps[finds], reduction="sum")
    objects = F.binary_cross_entropy_with_logits(object_logits[counts], finds[counts].float(), reduction="sum")
    return {
        "classification": classes / total,
        "objectness": objects / total,
        "box": eiou_loss(boxes[finds], targets[finds]).sum() / total,
        "landmarks": offset_loss(output.landmarks, points, known),
    }


def weighted_sum(terms: Mapping[str, Tensor], config: YuNetLossConfig) -> Tensor:
    """The terms times their weights."""
    faces = config.class_weight * terms["classification"] + config.object_weight * terms["objectness"]
    return faces + config.box_weight * terms["box"] + config.landmark_weight * terms["landmarks"]


def _targets(faces: Sequence[Faces], found: Tensor, where: Tensor, output: YuNetOutput) -> tuple[Tensor, Tensor]:
    """The faces' boxes [B, A, 4], pixels, and landmarks [B, A, 10], in strides from the cell; NaN where unknown."""
    boxes, points = torch.zeros_like(output.boxes.float()), torch.full_like(output.landmarks.float(), torch.nan)
    corners = where[:, :2].repeat(1, points.shape[-1] // 2)
    for at, one in enumerate(faces):
        rows = (found[at] >= 0).nonzero()[:, 0]
        chosen = found[at, rows]
        boxes[at, rows] = one.boxes[chosen]
        points[at, rows] = (one.landmarks[chosen] - corners[rows]) / where[rows, 2:]
    return boxes, points

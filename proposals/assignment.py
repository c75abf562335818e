"""Which cells have to find which face, decided by what the network says (SimOTA; Ge et al. 2021, YOLOX)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from proposals.matching import Faces

NOBODY, IGNORED = -1, -2
FAR = 1e5  # cost of a cell that does not lie both in the face's box and near its centre
SMALLEST = 1e-8  # of a probability or an IoU whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """How cells and faces are matched; defaults as in YOLOX and the public YuNet.

    Attributes:
        radius: a cell whose middle is less than this many strides from a face's centre, in x and in y, may find the
            face, even outside its box.
        candidates: a face is found by as many cells as the sum of its largest IoUs says, of this many.
        box_weight: weight of -log IoU against -log score when cells are compared.
        ignored_iou: a cell that finds no face is ignored if its box overlaps an ignored face (invalid, too small) by
            this IoU; so is one that lies in an ignored face.
    """

    radius: float = 2.5
    candidates: int = 10
    box_weight: float = 3.0
    ignored_iou: float = 0.3

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")
        if not (self.radius > 0 and self.box_weight >= 0):
            raise ValueError(f"radius must be above 0 and box_weight not below, got {self.radius}, {self.box_weight}")
        if not 0 < self.ignored_iou <= 1:
            raise ValueError(f"ignored_iou lies in (0, 1], got {self.ignored_iou}")


class Assignment(NamedTuple):
    """What is expected of A cells.

    Attributes:
        faces: int64 [A], the row of the cell's face; ``NOBODY`` or ``IGNORED``.
        overlaps: float [A], IoU of the cell's box with its face; 0 where there is none.
    """

    faces: Tensor
    overlaps: Tensor


@torch.no_grad()
def assign_cells(faces: Faces, where: Tensor, boxes: Tensor, scores: Tensor, config: AssignmentConfig) -> Assignment:
    """Match cells and faces.

    Args:
        faces: the faces of one picture.
        where: float [A, 3], corner ``x, y`` in pixels and stride, see :func:`proposals.yunet.cells`.
        boxes: float [A, 4], the cells' present boxes, ``x1, y1, x2, y2`` in pixels.
        scores: float [A], their present scores in [0, 1].
        config: the thresholds.

    Returns:
        Every face has the cells of the smallest cost, about as many as its size allows; a cell that two faces want
        finds the one of smaller cost.
    """
    found = torch.full((len(where),), NOBODY, device=where.device)
    overlaps = boxes.new_zeros(len(where))
    middle, stride = where[:, :2] + where[:, 2:] / 2, where[:, 2:]
    left_out = faces.boxes[faces.ignored]
    if len(left_out):
        covered = _inside(middle, left_out) | (box_iou(boxes, left_out) >= config.ignored_iou)
        found[covered.any(dim=1)] = IGNORED
    numbers = (~faces.ignored).nonzero()[:, 0]
    if not len(numbers):
        return Assignment(found, overlaps)
    wanted = faces.boxes[numbers]
    centres = (wanted[:, :2] + wanted[:, 2:]) / 2
    near = ((middle[:, None] - centres).abs() < config.radius * stride[:, None]).all(dim=2)
    inside = _inside(middle, wanted)
    rows = (near | inside).any(dim=1).nonzero()[:, 0]
    shared = box_iou(boxes[rows], wanted)
    cost = -scores[rows, None].clamp(min=SMALLEST).log() - config.box_weight * shared.clamp(min=SMALLEST).log()
    cost = cost + FAR * ~(near & inside)[rows]
    matched = _cheapest(cost, shared, config.candidates)
    best = cost.masked_fill(~matched, torch.inf).argmin(dim=1)
    finds = matched.any(dim=1)
    found[rows[finds]] = numbers[best[finds]]
    overlaps[rows[finds]] = shared[finds, best[finds]]
    return Assignment(found, overlaps)


def _cheapest(cost: Tensor, overlaps: Tensor, candidates: int) -> Tensor:
    """Which of K cells each of M faces wants, bool [K, M]: those of the smallest cost, one at least."""
    most = min(candidates, len(cost))
    counts = overlaps.topk(most, dim=0).values.sum(dim=0).int().clamp(min=1)
    rows = cost.topk(most, dim=0, largest=False).indices
    chosen = torch.arange(most, device=cost.device)[:, None] < counts
    return torch.zeros_like(cost, dtype=torch.bool).scatter_(0, rows, chosen)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which of A points lie in which of M boxes, bool [A, M]."""
    low, high = points[:, None] > boxes[:, :2], points[:, None] < boxes[:, 2:]
    return (low & high).all(dim=2)

"""The losses of detectors with anchors as pure functions (Deng et al. 2020, Eq. 1, without its dense regression)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from proposals.matching import BACKGROUND, FACE, IGNORED, MINED, Targets
from proposals.output import Output

STEPS = ("", "_first")  # ends of the terms' names; only a cascade has two


@dataclass(frozen=True, kw_only=True)
class DetectionLossConfig:
    """Form of the classification loss, and weights.

    Attributes:
        classification: ``hard_negatives``: cross-entropy on all faces and the worst background anchors; ``focal``: on
            all anchors (Lin et al. 2017).
        negatives_per_face: background anchors per face anchor, for ``hard_negatives`` (7 in the common code).
        focal_alpha: weight of faces, for ``focal``.
        focal_gamma: exponent that lowers the weight of easy anchors, for ``focal``.
        box_weight: λ1 of the paper; the common implementation has 2.
        landmark_weight: λ2 of the paper; the common implementation has 1.
        mined_weight: weight of the background anchors that are hard negatives (``--mine``), for ``focal``; among
            ``hard_negatives`` they always are. Not stated in the paper.
    """

    classification: Literal["hard_negatives", "focal"] = "hard_negatives"
    negatives_per_face: int = 7
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_weight: float = 0.25
    landmark_weight: float = 0.1
    mined_weight: float = 2.0

    def __post_init__(self) -> None:
        if self.negatives_per_face < 1:
            raise ValueError(f"negatives_per_face must be at least 1, got {self.negatives_per_face}")
        weights = (self.box_weight, self.landmark_weight, self.mined_weight, self.focal_gamma)
        if not all(0 <= value < math.inf for value in weights) or not 0 <= self.focal_alpha <= 1:
            raise ValueError("weights and focal_gamma must not be negative, focal_alpha lies in [0, 1]")


def hard_negative_loss(logits: Tensor, labels: Tensor, negatives_per_face: int) -> Tensor:
    """Cross-entropy over faces and, picture by picture, hard negatives and the background with the highest loss.

    Args:
        logits: float [B, A], face against background.
        labels: int64 [B, A], ``FACE``, ``BACKGROUND``, ``IGNORED`` or ``MINED``.
        negatives_per_face: number of background anchors per face anchor; a picture without a face anchor gives as
            many as a picture with one. Hard negatives are chosen first, and all of them, even if they are more.

    Returns:
        A scalar: the sum over the chosen anchors, divided by the number of face anchors (at least 1).
    """
    faces, mined, background = labels == FACE, labels == MINED, labels == BACKGROUND
    losses = F.binary_cross_entropy_with_logits(logits, faces.to(logits.dtype), reduction="none")
    quota = (negatives_per_face * faces.sum(dim=1).clamp(min=1) - mined.sum(dim=1)).clamp(min=0)
    total = losses[faces | mined].sum()
    for row, mask, count in zip(losses, background, quota.tolist(), strict=True):
        negatives = row[mask]
        total = total + negatives.topk(min(count, len(negatives))).values.sum()
    return total / faces.sum().clamp(min=1)


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float, weights: Tensor | None = None) -> Tensor:
    """Focal loss over all anchors that count (Lin et al. 2017, Eq. 5).

    Args:
        logits: float [B, A], face against background.
        labels: int64 [B, A], ``FACE``, ``BACKGROUND``, ``IGNORED`` or ``MINED``.
        alpha: weight of faces; 1 - alpha is that of background.
        gamma: exponent that lowers the weight of easy anchors; 0 weighs all alike.
        weights: float [B, A], further weights of the anchors; default: 1.

    Returns:
        A scalar: the weighted sum, divided by the number of face anchors (at least 1).
    """
    counts = labels != IGNORED
    faces = labels == FACE
    losses: Tensor = sigmoid_focal_loss(logits[counts], faces[counts].to(logits.dtype), alpha, gamma, reduction="none")
    total = losses.sum() if weights is None else (weights[counts] * losses).sum()
    return total / faces.sum().clamp(min=1)


def classification_loss(logits: Tensor, labels: Tensor, config: DetectionLossConfig) -> Tensor:
    """The classification loss of logits and labels [B, A] in the form that ``config`` wants, a scalar."""
    if config.classification == "hard_negatives":
        return hard_negative_loss(logits, labels, config.negatives_per_face)
    weights = torch.where(labels == MINED, config.mined_weight, 1.0)
    return focal_loss(logits, labels, config.focal_alpha, config.focal_gamma, weights)


def offset_loss(offsets: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """Smooth-L1 of box or landmark offsets.

    Args:
        offsets: float [B, A, K].
        targets: float [B, A, K], finite where ``chosen``.
        chosen: bool [B, A], the anchors that count.

    Returns:
        A scalar: the sum over K, averaged over the chosen anchors; 0 (with a gradient of 0) if there are none.
    """
    found = offsets[chosen].float()
    return F.smooth_l1_loss(found, targets[chosen], reduction="sum") / max(1, len(found))


def detection_losses(output: Output, targets: Targets, config: DetectionLossConfig) -> dict[str, Tensor]:
    """All terms, unweighted; landmarks count where they are known, and have no term if the network learns none.

    Args:
        output: the network's output for B pictures.
        targets: the targets of the same anchors, [B, A, ...].
        config: the form of the classification loss.

    Returns:
        ``classification``, ``box`` and, if there are any, ``landmarks``, each a scalar.
    """
    faces = targets.labels == FACE
    classification = classification_loss(output.face_logits.float(), targets.labels, config)
    terms = {"classification": classification, "box": offset_loss(output.boxes, targets.boxes, faces)}
    if output.landmarks is not None:
        known = faces & torch.isfinite(targets.landmarks).all(dim=-1)
        terms["landmarks"] = offset_loss(output.landmarks, targets.landmarks, known)
    return terms


def cascade_losses(output: Output, first: Targets, second: Targets, config: DetectionLossConfig) -> dict[str, Tensor]:
    """The terms of both steps of a cascade, unweighted (Deng et al. 2020).

    Args:
        output: the network's output for B pictures.
        first: the first step's targets, [B, A, ...].
        second: the second step's, see :func:`proposals.matching.match_moved`.
        config: the form of the classification loss.

    Returns:
        The terms of :func:`detection_losses`, those of the first step with ``_first`` after their names.
    """
    assert output.first is not None
    said = detection_losses(Output(*output.first, output.sizes), first, config)
    return {f"{name}_first": term for name, term in said.items()} | detection_losses(output, second, config)


def level_losses(output: Output, targets: Targets, config: DetectionLossConfig) -> dict[str, Tensor]:
    """The terms of :func:`detection_losses`, each level over its own faces, and summed (Ren et al. 2015, Eq. 1, each).

    Args:
        output: the network's output for B pictures.
        targets: the targets of the same anchors, [B, A, ...].
        config: the form of the classification loss.

    Returns:
        The sums over the levels of the terms, each a scalar.
    """
    cells = [height * width for height, width in output.sizes]
    counts = [count * (targets.labels.shape[1] // sum(cells)) for count in cells]
    logits, boxes = torch.split(output.face_logits, counts, dim=1), torch.split(output.boxes, counts, dim=1)
    landmarks = [None] * len(cells) if output.landmarks is None else torch.split(output.landmarks, counts, dim=1)
    wanted = zip(*(torch.split(column, counts, dim=1) for column in targets), strict=True)
    levels = [
        detection_losses(Output(one, box, points, [size]), Targets(*target), config)
        for one, box, points, size, target in zip(logits, boxes, landmarks, output.sizes, wanted, strict=True)
    ]
    return {name: torch.stack([terms[name] for terms in levels]).sum() for name in levels[0]}


def weighted_sum(terms: Mapping[str, Tensor], config: DetectionLossConfig) -> Tensor:
    """classification + λ1 box + λ2 landmarks, if there are any; both steps of a cascade."""
    weights = {"classification": 1.0, "box": config.box_weight, "landmarks": config.landmark_weight}
    parts = [weight * terms[name + step] for step in STEPS for name, weight in weights.items() if name + step in terms]
    return torch.stack(parts).sum()

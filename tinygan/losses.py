"""The losses of Bai et al. 2018, Eq. 4-9, and of boxes, as pure functions on tensors.

Every function returns one unweighted scalar; a training stage weighs and adds them in one place. The scalar has the
dtype of the networks' output, but at least float32: under autocast the output is bfloat16, too coarse for a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou_loss

SURE_LOGIT = 8.0  # beyond it a teacher's logit says no more
IMITATION_DISTANCE = 0.03  # weight of the squared distance, as a factor on the cross-entropy


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and switches of the generator's and discriminator's losses.

    Attributes:
        alpha: weight of the adversarial loss (section 4.2).
        beta: weight of the classification loss (section 4.2).
        gamma: weight of the box loss in the generator's loss (SOD-MTGAN, Bai et al. 2018b); with one above 0, stage
            ``gan`` trains the discriminator's head ``fc_box`` too, which needs ``discriminator.box``. Not stated in the
            paper.
        adversarial_form: ``saturating``: Eq. 5 as it is printed, or ``nonsaturating``, whose gradient does not vanish
            where the discriminator is sure.
        wild_alpha: weight of the adversarial loss of wild patches, as a factor on ``alpha``. There are no true
            high-resolution pictures of wild patches, so D never learns to tell their generated pictures from real
            ones; hence 0.
        pixel: whether the generator has a pixel loss (in stage ``gan``).
        adversarial: whether D tells real from generated pictures and the generator tries to mislead it (without it:
            Table 2, "w/o adv loss").
        classification: whether the face logit is part of the generator's loss (without it: Table 2, "w/o clc loss");
            the discriminator learns to classify in either case.
        pixel_form: pixel loss of stages ``mse-init`` and ``portrait``: ``mean``, of Eq. 4, or ``log``, see
            :func:`log_pixel_loss`.
    """

    alpha: float = 0.001
    beta: float = 0.01
    gamma: float = 0.0
    adversarial_form: Literal["nonsaturating", "saturating"] = "nonsaturating"  # Differs from the paper: saturating
    wild_alpha: float = 0.0
    pixel: bool = True
    adversarial: bool = True
    classification: bool = True
    pixel_form: Literal["mean", "log"] = "mean"

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta, self.gamma, self.wild_alpha) < 0:
            raise ValueError("alpha, beta, gamma and wild_alpha must not be negative")


def pixel_loss(picture: Tensor, hr: Tensor) -> Tensor:
    """Mean squared error, one of the two terms of Eq. 4: mean((picture - hr)^2).

    Args:
        picture: float [B, 3, S, S], the generator's ``sr`` or ``refined``, RGB in [0, 1].
        hr: float [B, 3, S, S], the true high-resolution pictures.

    Returns:
        Scalar. # Differs from the paper: a mean over channels and pixels too; next to the sum, as printed, the terms
        weighted by alpha and beta would be negligible.
    """
    made = _precise(picture)
    return functional.mse_loss(made, hr.to(made.dtype))


def log_pixel_loss(picture: Tensor, hr: Tensor) -> Tensor:
    """Mean over pictures of log(mean((picture - hr)^2)): the negative mean PSNR, but for a factor. Not in the paper.

    A picture that is easy, as a sharp one, weighs as much as one that cannot be repaired.

    Args:
        picture: float [B, 3, S, S], RGB in [0, 1].
        hr: float [B, 3, S, S], the true high-resolution pictures.

    Returns:
        Scalar.
    """
    made = _precise(picture)
    squares = (made - hr.to(made.dtype)).square().mean(dim=(1, 2, 3))
    return (squares + 1e-6).log().mean()


PIXEL_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": pixel_loss, "log": log_pixel_loss}


def adversarial_loss(fake_logit: Tensor, form: Literal["nonsaturating", "saturating"]) -> Tensor:
    """The generator's adversarial loss on D's real/generated logits of generated pictures.

    ``saturating`` is Eq. 5: mean(log(1 - D)) = mean(-softplus(logit)).
    ``nonsaturating`` is mean(-log D) = mean(softplus(-logit)) (Goodfellow et al. 2014).

    Args:
        fake_logit: float [B], logits of generated pictures.
        form: which of the two formulas.

    Returns:
        Scalar.
    """
    logit = _precise(fake_logit)
    if form == "saturating":
        return -functional.softplus(logit).mean()
    return functional.softplus(-logit).mean()


def real_generated_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """The discriminator's real/generated loss, a part of Eq. 9: -(mean(log D(hr)) + mean(log(1 - D(G(lr))))).

    Args:
        real_logit: float [B], logits of true pictures.
        fake_logit: float [B], logits of generated pictures.

    Returns:
        Scalar.
    """
    return functional.softplus(-_precise(real_logit)).mean() + functional.softplus(_precise(fake_logit)).mean()


def classification_loss(face_logit: Tensor, labels: Tensor) -> Tensor:
    """Face or non-face, one of the two terms of Eq. 6.

    # Differs from the paper: log(y - D), as printed, has no value for half its inputs; this is
    # binary cross-entropy, mean(-y log D - (1 - y) log(1 - D)).

    Args:
        face_logit: float [B], face logits of pictures.
        labels: float [B], 1 face, 0 non-face.

    Returns:
        Scalar; 0 for an empty batch.
    """
    logit = _precise(face_logit)
    if not len(labels):
        return logit.sum()
    return functional.binary_cross_entropy_with_logits(logit, labels.to(logit.dtype))


def imitation_loss(face_logit: Tensor, taught: Tensor) -> Tensor:
    """How far a student's face logits are from its teacher's. Not in the paper.

    Cross-entropy with the teacher's probability (Hinton et al. 2015), and a little of the squared distance between the
    logits, which still tells apart where both are sure.

    Args:
        face_logit: float [B], the student's.
        taught: float [B], the teacher's.

    Returns:
        Scalar.
    """
    own, aim = _precise(face_logit), _precise(taught).clamp(-SURE_LOGIT, SURE_LOGIT)
    distance = functional.mse_loss(own.clamp(-SURE_LOGIT - 1, SURE_LOGIT + 1), aim)
    return functional.binary_cross_entropy_with_logits(own, aim.sigmoid()) + IMITATION_DISTANCE * distance


def box_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - generalised IoU (Rezatofighi et al. 2019), averaged over boxes. Not in the paper.

    Args:
        boxes: float [B, 4], predicted boxes, ``x1, y1, x2, y2``.
        targets: float [B, 4], the boxes of the faces.

    Returns:
        Scalar; 0 for an empty batch.
    """
    found = _precise(boxes)
    if not len(found):
        return found.sum()
    loss: Tensor = generalized_box_iou_loss(found, targets.to(found.dtype), reduction="mean")
    return loss


def box_offset_loss(boxes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Smooth-L1 of box offsets (Ren et al. 2015, Eq. 2), summed over the four and averaged over the faces.

    # Differs from the paper: a proposal's width and height are both its longer side, as its patch is a square.

    Args:
        boxes: float [B, 4], predicted boxes, ``x1, y1, x2, y2`` relative to the proposal's centre, in units of its
            longer side.
        targets: float [B, 4], the boxes of the faces in the same frame; NaN where there is none.
        labels: float [B], 1 face, 0 non-face; non-faces have no loss.

    Returns:
        Scalar; 0 for a batch without faces.
    """
    found = _precise(boxes)
    faces = (labels > 0.5) & torch.isfinite(targets).all(dim=1)
    if not faces.any():
        return found[faces].sum()
    pair = (_offsets(found[faces]), _offsets(targets[faces].to(found.dtype)))
    return functional.smooth_l1_loss(*pair, reduction="sum") / faces.sum()


def _offsets(boxes: Tensor) -> Tensor:
    """Centre and logarithm of width and height, [B, 4]."""
    places = box_convert(boxes, "xyxy", "cxcywh")
    return torch.cat([places[:, :2], places[:, 2:].log()], dim=1)


def _precise(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))

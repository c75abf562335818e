"""Everything that decides a first stage's training, in one typed tree."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from proposals.losses import DetectionLossConfig
from proposals.matching import MatchingConfig
from proposals.retinaface import RetinaFaceConfig
from tinygan.training.loop import LoopConfig


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How training pictures are cut from photographs.

    Attributes:
        size: side of the square pictures in pixels.
        smallest_scale: smallest scale of a photograph; scales are drawn log-uniformly up to ``largest_scale``.
        largest_scale: largest scale of a photograph; 1 is its own.
        face_share: share of the pictures that are placed around a face; the others are placed at random.
        min_face_px: faces whose longer side is shorter in the picture are ignored.
        mirror: share of the pictures that are mirrored.
        colour: share of the pictures whose brightness, contrast and saturation are changed.
        grey: share of the pictures that become grey.
    """

    size: int = 640
    smallest_scale: float = 0.6
    largest_scale: float = 2.0
    face_share: float = 0.75
    min_face_px: float = 5.0
    mirror: float = 0.5
    colour: float = 0.5
    grey: float = 0.05

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"size must be at least 32, got {self.size}")
        if not 0 < self.smallest_scale <= self.largest_scale < math.inf:
            raise ValueError(
                f"expected 0 < smallest_scale <= largest_scale, got {self.smallest_scale} and {self.largest_scale}"
            )
        for name in ("face_share", "mirror", "colour", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """What is learnt, and how.

    Attributes:
        kind: ``sgd`` with momentum 0.9 (the common implementation) or ``adamw``.
        weight_decay: weight decay of convolutions; normalisation and biases have none.
        freeze: prefixes of layers that keep their weights and BN statistics, such as ``body.stage1``.
        freeze_norm: whether BN statistics are kept in all layers; for small batches and fine-tuning.
        clip_norm: gradients are scaled down to this norm.
        backbone_weights: ``imagenet``: torchvision's, for ``resnet50``; ``none``: random.
        average: decay of the average of the weights, which is what is evaluated and saved; 0: the weights themselves.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4
    freeze: tuple[str, ...] = ()
    freeze_norm: bool = False
    clip_norm: float = 10.0
    backbone_weights: Literal["none", "imagenet"] = "none"
    average: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.average < 1:
            raise ValueError(f"average lies in [0, 1), got {self.average}")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class ProposerRecipe:
    """Configuration of ``tinygan-train-proposer``.

    Attributes:
        seed: seed of the weights, the pictures and their order.
        network: RetinaFace and the thresholds it is used with.
        loop: the schedule; its patches are pictures here.
        pictures: how training pictures are cut from photographs.
        matching: how anchors and faces are matched.
        losses: the form and the weights of the losses.
        optimiser: what is learnt, and how.
        holdout: share of the images kept out of training, by hash of the name; the same images as the second stage's.
        evaluate_images: number of held-out images that are evaluated at the end of each epoch.
    """

    seed: int = 0
    network: RetinaFaceConfig = field(default_factory=RetinaFaceConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    pictures: PictureConfig = field(default_factory=PictureConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    losses: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    holdout: float = 0.15
    evaluate_images: int = 60

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must lie in [0, 1), got {self.holdout}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.evaluate_images < 0:
            raise ValueError(f"evaluate_images must not be negative, got {self.evaluate_images}")

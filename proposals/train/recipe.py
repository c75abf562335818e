"""Everything that decides a first stage's training, in one typed tree; a detector's recipe knows its losses."""

from __future__ import annotations

import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proposals.anchored import AnchoredConfig, AnchoredNetwork
from proposals.detector import DetectorConfig, DetectorNetwork
from proposals.losses import DetectionLossConfig, cascade_losses, detection_losses, weighted_sum
from proposals.matching import Faces, MatchingConfig, Targets, match_anchors, match_moved
from proposals.output import Output
from proposals.retinaface import RetinaFaceConfig, RetinaFaceNetwork
from proposals.train.mining import MiningConfig
from tinygan.errors import ConfigError
from tinygan.proposers import find_proposer, proposer_names
from tinygan.training.loop import LoopConfig


class PictureBatch(NamedTuple):
    """B pictures and what there is to find in them.

    Attributes:
        pictures: uint8 RGB [B, 3, S, S].
        faces: the faces of each picture.
        targets: the targets of every anchor, stacked [B, A, ...]; None where they depend on what the network says.
    """

    pictures: Tensor
    faces: list[Faces]
    targets: Targets | None

    def to(self, device: torch.device) -> PictureBatch:
        """The batch on a device."""
        faces = [Faces(*(tensor.to(device) for tensor in one)) for one in self.faces]
        targets = None if self.targets is None else Targets(*(tensor.to(device) for tensor in self.targets))
        return PictureBatch(self.pictures.to(device), faces, targets)


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How training pictures are cut from photographs.

    Attributes:
        size: side of the square pictures in pixels.
        sizes: sides of which each step draws one instead, for training at several scales; empty: ``size`` alone. The
            sizes are not stated in the paper (papers/retinanet_small_faces).
        mode: ``windows``: squares at a scale drawn from a range, most of them around a face; ``patches``: as in
            RefineFace, squares of part or all of a photograph's shorter side, after it was surrounded by plain colour.
        smallest_scale: smallest scale of a photograph; scales are drawn log-uniformly up to ``largest_scale``. It,
            ``largest_scale`` and ``face_share`` are for ``windows`` alone.
        largest_scale: largest scale of a photograph; 1 is its own.
        largest_growth: a photograph is surrounded by as much colour that it grows up to so many times, in ``patches``.
        smallest_share: smallest side of a square in shorter sides of the photograph, in ``patches``.
        whole_share: share of the squares that have the whole shorter side, in ``patches``.
        face_share: share of the pictures that are placed around a face; the others are placed at random.
        mined_share: share of the pictures that are placed around a hard negative, with ``--mine``; not stated in the
            paper.
        min_face_px: faces whose longer side is shorter in the picture are ignored.
        mirror: share of the pictures that are mirrored.
        colour: share of the pictures whose brightness, contrast and saturation are changed.
        grey: share of the pictures that become grey.
    """

    size: int = 640
    sizes: tuple[int, ...] = ()
    mode: Literal["windows", "patches"] = "windows"
    smallest_scale: float = 0.6
    largest_scale: float = 2.0
    largest_growth: float = 2.0
    smallest_share: float = 0.5
    whole_share: float = 0.5
    face_share: float = 0.75
    mined_share: float = 0.25
    min_face_px: float = 5.0
    mirror: float = 0.5
    colour: float = 0.5
    grey: float = 0.05

    def __post_init__(self) -> None:
        if min(self.all_sizes) < 32:
            raise ValueError(f"size must be at least 32, got {min(self.all_sizes)}")
        if not 0 < self.smallest_scale <= self.largest_scale < math.inf:
            raise ValueError(
                f"expected 0 < smallest_scale <= largest_scale, got {self.smallest_scale} and {self.largest_scale}"
            )
        if not 1 <= self.largest_growth < math.inf:
            raise ValueError(f"largest_growth must be at least 1, got {self.largest_growth}")
        if not 0 < self.smallest_share <= 1:
            raise ValueError(f"smallest_share lies in (0, 1], got {self.smallest_share}")
        for name in ("whole_share", "face_share", "mined_share", "mirror", "colour", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {getattr(self, name)}")

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Every side that pictures may have."""
        return self.sizes or (self.size,)

    def of_step(self, seed: int, step: int) -> PictureConfig:
        """The settings of a step, whose size is a pure function of the seed and the step: the same on all processes."""
        if not self.sizes:
            return self
        return replace(self, size=int(np.random.default_rng([seed, 3, step]).choice(self.sizes)), sizes=())


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """What is learnt, and how.

    Attributes:
        kind: ``sgd`` with momentum 0.9 (the common implementation) or ``adamw``.
        weight_decay: weight decay of convolutions; normalisation and biases have none.
        freeze: prefixes of layers that keep their weights and BN statistics, such as ``body.stage1``.
        freeze_norm: whether BN statistics are kept in all layers; for small batches and fine-tuning.
        clip_norm: gradients are scaled down to this norm.
        backbone_weights: ``imagenet``: torchvision's, for ``resnet18`` to ``resnet152``; ``none``: random.
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
class TeacherConfig:
    """What is learnt of faces that nobody labelled but other detectors found (``--teacher``).

    Attributes:
        face_score: boxes of at least this score are faces.
        ignored_score: boxes of at least this score, and less than ``face_score``, are ignored: neither faces nor
            background.
        same_face_iou: a box that overlaps a labelled face, or a better box, by at least this IoU tells nothing new.
    """

    face_score: float = 0.9
    ignored_score: float = 0.4
    same_face_iou: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.ignored_score <= self.face_score:
            raise ValueError(
                f"expected 0 <= ignored_score <= face_score, got {self.ignored_score} and {self.face_score}"
            )
        if not 0 < self.same_face_iou <= 1:
            raise ValueError(f"same_face_iou lies in (0, 1], got {self.same_face_iou}")


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe(ABC):
    """What trainings of all first stages share.

    Attributes:
        proposer: name of the first stage.
        seed: seed of the weights, the pictures and their order.
        network: the network and the thresholds it is used with.
        loop: the schedule; its patches are pictures here.
        pictures: how training pictures are cut from photographs.
        teacher: what is learnt from other detectors' boxes.
        optimiser: what is learnt, and how.
        holdout: share of the images kept out of training, by hash of the name; the same images as the second stage's.
        evaluate_images: number of held-out images that are evaluated at the end of each epoch.
    """

    proposer: str = ""
    seed: int = 0
    network: DetectorConfig = field(default_factory=DetectorConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    pictures: PictureConfig = field(default_factory=PictureConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
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

    @abstractmethod
    def build(self) -> DetectorNetwork[Any]:
        """The network with random weights."""

    @abstractmethod
    def matcher(self, size_px: int) -> Callable[[Faces], Targets] | None:
        """How targets are made from the faces of a picture alone; None where they depend on what the network says.

        Args:
            size_px: side of the picture.
        """

    @abstractmethod
    def terms(self, network: DetectorNetwork[Any], output: Any, batch: PictureBatch) -> Mapping[str, Tensor]:
        """All terms of the loss, unweighted, as scalars.

        Args:
            network: the network, which may have parts that only training needs.
            output: what it said of the pictures of the batch.
            batch: the pictures and the faces.
        """

    @abstractmethod
    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """What is minimised."""


@dataclass(frozen=True, kw_only=True)
class AnchoredRecipe(DetectorRecipe):
    """A detector with anchors: hard negatives or focal loss, smooth-L1.

    Attributes:
        matching: how anchors and faces are matched.
        losses: the form and the weights of the losses.
        mining: which boxes are hard negatives, with ``--mine``.
    """

    network: AnchoredConfig
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    losses: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)

    @abstractmethod
    def build(self) -> AnchoredNetwork:
        """See :class:`DetectorRecipe`."""

    def matcher(self, size_px: int) -> Callable[[Faces], Targets] | None:
        """See :class:`DetectorRecipe`."""
        anchors, variances = self.network.anchors_of_picture(size_px), self.network.scales_of_offsets
        return lambda faces: match_anchors(faces, anchors, variances, self.matching)

    def terms(self, network: DetectorNetwork[Any], output: Output, batch: PictureBatch) -> Mapping[str, Tensor]:
        """See :class:`DetectorRecipe`."""
        assert batch.targets is not None
        return detection_losses(output, batch.targets, self.losses)

    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """classification + λ1 box + λ2 landmarks."""
        return weighted_sum(terms, self.losses)


@dataclass(frozen=True, kw_only=True)
class SecondMatching(MatchingConfig):
    """How faces are matched with the anchors that the first step of a cascade moved (Deng et al. 2020)."""

    positive_iou: float = 0.5
    negative_iou: float = 0.4


@dataclass(frozen=True, kw_only=True)
class ProposerRecipe(AnchoredRecipe):
    """RetinaFace.

    Attributes:
        second_matching: how anchors and faces are matched in the second step of a cascade.
    """

    proposer: Literal["retinaface"] = "retinaface"
    network: RetinaFaceConfig = field(default_factory=RetinaFaceConfig)
    second_matching: SecondMatching = field(default_factory=SecondMatching)

    def build(self) -> RetinaFaceNetwork:
        """See :class:`DetectorRecipe`."""
        return RetinaFaceNetwork(self.network)

    def terms(self, network: DetectorNetwork[Any], output: Output, batch: PictureBatch) -> Mapping[str, Tensor]:
        """See :class:`DetectorRecipe`."""
        if output.first is None:
            return super().terms(network, output, batch)
        assert batch.targets is not None
        anchors = self.network.anchor_boxes(output.sizes).to(output.boxes.device)
        variances = self.network.scales_of_offsets
        second = match_moved(output.first.boxes, batch.faces, anchors, variances, self.second_matching)
        return cascade_losses(output, batch.targets, second, self.losses)


def find_recipe(name: str) -> type[DetectorRecipe]:
    """The recipe that trains a first stage.

    Raises:
        ConfigError: if there is no such first stage, or it cannot be trained here.
    """
    target = find_proposer(name).recipe
    if target is None:
        raise ConfigError(f"proposer '{name}': cannot be trained; tinygan-train-proposer trains {trained_names()}")
    recipe: type[DetectorRecipe] = pkgutil.resolve_name(target)
    return recipe


def trained_names() -> str:
    """The first stages that can be trained, in words."""
    names = [name for name in proposer_names() if find_proposer(name).recipe is not None]
    return f"{', '.join(names[:-1])} and {names[-1]}"

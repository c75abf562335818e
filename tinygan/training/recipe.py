"""Everything that can be configured about training, in one tree; sections live beside what they configure."""

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
    """Settings of stage ``gan`` beside its schedule.

    Attributes:
        ema_decay: decay of the exponential moving average of the generator's and discriminator's weights,
            which is what is saved; 0 switches it off.
        discriminator_rate: the discriminator's learning rate, as a factor on the schedule's.
        discriminator_steps: k, the discriminator's updates for each of the generator's (1 in the paper). The
            judge needs many more patches than the generator, whose updates cost the most.
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
    """Settings of stage ``judge`` beside its schedule.

    Attributes:
        widths: filters of ``vgg_lite``'s five stages, none fewer than in stage ``gan``; ``None``: as many as there.
        surroundings: ``mobilenet025``: the discriminator gets a second tower, which sees what lies around a proposal;
            ``none``: it gets none.
        surroundings_rate: learning rate of the second tower, as a factor on the schedule's; lower where the tower
            starts from public weights.
        box: whether the discriminator gets a third head, which says where the face lies.
        box_weight: weight of the third head's loss.
        box_iou: proposals whose IoU to a face is at least this teach the third head.
        shift: every region that touches a face comes once more, moved and scaled by about this share of its side.
        weight_decay: weight decay of the optimiser, AdamW.
        ema_decay: decay of the exponential moving average of the weights, which is what is saved; 0 switches it off.
    """

    widths: tuple[int, ...] | None = None
    surroundings: Literal["none", "mobilenet025"] = "none"
    surroundings_rate: float = 1.0
    box: bool = True
    box_weight: float = 1.0
    box_iou: float = 0.35
    shift: float = 0.15
    weight_decay: float = 0.01
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.box_iou < 1:
            raise ValueError(f"box_iou must lie in (0, 1), got {self.box_iou}")
        if min(self.box_weight, self.shift, self.weight_decay) < 0:
            raise ValueError("box_weight, shift and weight_decay must not be negative")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")

    def form(self, discriminator: DiscriminatorConfig) -> DiscriminatorConfig:
        """The discriminator of stage ``gan``, grown."""
        widths = discriminator.lite_widths if self.widths is None else self.widths
        return replace(discriminator, lite_widths=widths, surroundings=self.surroundings, box=self.box)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole configuration of training; the defaults are preset ``paper``.

    Attributes:
        seed: seed of the weights, the jitter and the batches.
        crops: sizes of patches, how much they show around a box, and which go through the generator.
        rois: which regions are trained on, and as what; which images are held out.
        degradation: how low-resolution copies of patches are made.
        batches: what batches are made of, and how patches are augmented.
        generator: form of the generator, G1 and its refinement G2.
        discriminator: form of the discriminator.
        losses: weights and switches of the losses.
        mse_init: schedule of stage ``mse-init``.
        gan: schedule of stage ``gan``.
        adversarial_game: further settings of stage ``gan``.
        judge: schedule of stage ``judge``.
        judge_training: further settings of stage ``judge``.
        fusion_search: how fusion is fitted.
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
    judge: LoopConfig = field(default_factory=LoopConfig)
    judge_training: JudgeTraining = field(default_factory=JudgeTraining)
    fusion_search: FusionConfig = field(default_factory=FusionConfig)


def check_trainable(recipe: Recipe) -> None:
    """Refuse settings that leave the generator nothing to learn from.

    Raises:
        ConfigError: if pixel, adversarial and classification are all off.
    """
    losses = recipe.losses
    if not (losses.pixel or losses.adversarial or losses.classification):
        raise ConfigError("losses: pixel, adversarial and classification are all off; the generator could not learn")

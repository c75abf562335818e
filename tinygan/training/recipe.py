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
        ema_decay: exponential moving average of the generator's and discriminator's weights, which
            is what is saved; 0 switches it off.
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
        widths: filters of ``vgg_lite``'s five stages, none fewer than in stage ``gan``; ``None``: as there.
        surroundings: whether a second tower sees the surroundings, as of
            :class:`~tinygan.models.discriminator.DiscriminatorConfig`.
        surroundings_rate: its learning rate, as a factor on the schedule's; lower where it starts from public weights.
        box: whether there is the third head.
        box_weight: weight of its loss.
        box_iou: proposals that overlap a face by this much teach it where the face lies.
        shift: every region that touches a face comes once more, moved and scaled by about this share of its side.
        weight_decay: of AdamW.
        ema_decay: exponential moving average of the weights, which is what is saved; 0 switches it off.
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
        seed: of weights, jitter and batches.
        crops: patch sizes, context, routing.
        rois: labels, quotas, hold-out.
        degradation: how LR copies are made.
        batches: composition and augmentation.
        generator: G1 and G2.
        discriminator: D.
        losses: weights and switches.
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

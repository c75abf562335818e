"""Everything that can be configured about training, in one tree; sections live beside what they configure."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinygan.data.batches import BatchConfig
from tinygan.data.crops import CropConfig, DegradationConfig
from tinygan.data.rois import RoiConfig
from tinygan.errors import ConfigError
from tinygan.fusion import FusionConfig
from tinygan.loop import LoopConfig
from tinygan.losses import LossConfig
from tinygan.models.discriminator import DiscriminatorConfig
from tinygan.models.generator import GeneratorConfig


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
        fusion: how fusion is fitted.
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
    fusion: FusionConfig = field(default_factory=FusionConfig)


def check_trainable(recipe: Recipe) -> None:
    """Refuse settings that leave the generator nothing to learn from.

    Raises:
        ConfigError: if pixel, adversarial and classification are all off.
    """
    losses = recipe.losses
    if not (losses.pixel or losses.adversarial or losses.classification):
        raise ConfigError("losses: pixel, adversarial and classification are all off; the generator could not learn")

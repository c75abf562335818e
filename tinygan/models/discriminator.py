"""The discriminator: VGG19 without its last max-pool, then two parallel heads (Bai et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.error import URLError

from torch import Tensor, nn

from tinygan.errors import MissingDependency
from tinygan.models.blocks import Normalise, conv_bn_relu


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Form of the discriminator.

    Attributes:
        backbone: ``vgg19`` (the paper), ``vgg19_bn``, or ``vgg_lite``: five stages of 3x3 convolutions with BN.
        weights: ``imagenet`` (the paper) through torchvision, or ``none``. ``vgg_lite`` has none.
        lite_widths: filters of ``vgg_lite``'s five stages.
        lite_depths: convolutions in each of them.
        fc_std: the heads' weights start from N(0, fc_std): 0.1 in the paper; a network without
            pretrained weights wants 0.01.
    """

    backbone: Literal["vgg19", "vgg19_bn", "vgg_lite"] = "vgg19"
    weights: Literal["imagenet", "none"] = "imagenet"
    lite_widths: tuple[int, ...] = (24, 48, 96, 128, 192)
    lite_depths: tuple[int, ...] = (1, 1, 2, 2, 2)
    fc_std: float = 0.1

    def __post_init__(self) -> None:
        if self.backbone == "vgg_lite" and self.weights != "none":
            raise ValueError("vgg_lite has no ImageNet weights; set weights: none")
        if len(self.lite_widths) != 5 or len(self.lite_depths) != 5:
            raise ValueError("lite_widths and lite_depths have five entries, one a stage")
        if min(*self.lite_widths, *self.lite_depths) < 1:
            raise ValueError("lite_widths and lite_depths must be at least 1")


class Judgement(NamedTuple):
    """The discriminator's logits, each [B].

    Attributes:
        real_logit: real picture (positive) or generated (fc_gan).
        face_logit: face (positive) or not (fc_clc).
    """

    real_logit: Tensor
    face_logit: Tensor


class Discriminator(nn.Module):
    """Tells real from generated and face from non-face, jointly.

    Args:
        config: backbone and weights.
        hr_size: side of the input in pixels.
    """

    def __init__(self, config: DiscriminatorConfig, hr_size: int) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise()
        self.features, channels = _backbone(config)
        side = hr_size // 16  # four max-pools
        self.fc_gan = nn.Linear(channels * side * side, 1)
        self.fc_clc = nn.Linear(channels * side * side, 1)
        for head in (self.fc_gan, self.fc_clc):
            nn.init.normal_(head.weight, 0.0, config.fc_std)
            nn.init.zeros_(head.bias)

    def forward(self, hr: Tensor) -> Judgement:
        """Judge pictures.

        Args:
            hr: float [B, 3, S, S], RGB in [0, 1], S = ``hr_size``.

        Returns:
            Logits [B] of both heads.
        """
        features = self.features(self.normalise(hr)).flatten(1)
        return Judgement(self.fc_gan(features).squeeze(1), self.fc_clc(features).squeeze(1))


def _backbone(config: DiscriminatorConfig) -> tuple[nn.Sequential, int]:
    if config.backbone == "vgg_lite":
        return _vgg_lite(config), config.lite_widths[-1]
    from torchvision import models

    build = {"vgg19": models.vgg19, "vgg19_bn": models.vgg19_bn}[config.backbone]
    try:
        vgg = build(weights="IMAGENET1K_V1" if config.weights == "imagenet" else None)
    except (URLError, OSError) as error:
        raise MissingDependency(
            f"ImageNet weights of {config.backbone} could not be downloaded ({error}); connect to the network, put "
            "torchvision's file into $TORCH_HOME/hub/checkpoints, or train from scratch with "
            "--set discriminator.weights=none"
        ) from error
    return vgg.features[:-1], 512  # without the last max-pool


def _vgg_lite(config: DiscriminatorConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, depth) in enumerate(zip(config.lite_widths, config.lite_depths, strict=True)):
        for _ in range(depth):
            layers.append(conv_bn_relu(channels, width))
            channels = width
        if stage < 4:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)

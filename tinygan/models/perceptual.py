"""How alike two pictures look to a network trained on ImageNet, and a discriminator that sees through its eyes.

Not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinygan.models.blocks import Normalise
from tinygan.models.efficientnet import MEAN, STAGES, STD, EfficientNetLite0
from tinygan.models.folding import fold_batch_norm

TAPS = (0, 1, 2, 4)  # the stages whose last features are used: strides 2, 4, 8 and 16


class ImageNetFeatures(nn.Module):
    """The features of a frozen EfficientNet-Lite0 at four strides.

    Args:
        trunk: the network with ImageNet weights, as of :func:`tinygan.models.build.load_efficientnet_lite0`.
    """

    channels = tuple(STAGES[tap].channels for tap in TAPS)

    def __init__(self, trunk: EfficientNetLite0) -> None:
        super().__init__()
        fold_batch_norm(trunk).requires_grad_(False)
        self.normalise = Normalise(MEAN, STD)
        ends = [1 + sum(stage.blocks for stage in STAGES[: tap + 1]) for tap in TAPS]
        self.parts = nn.ModuleList(trunk.stages[first:end] for first, end in zip([0, *ends[:-1]], ends, strict=True))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """RGB pictures float32 [B, 3, S, S] in [0, 1] to features [B, C, S/2, S/2] … [B, C, S/16, S/16]."""
        features, found = self.normalise(pictures), []
        for part in self.parts:
            features = part(features)
            found.append(features)
        return found


def feature_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Distance of two pictures' features, [B], 0 for equal ones.

    As LPIPS without its fitted weights (Zhang et al. 2018): at each place the channels are scaled to unit length; the
    squared differences are summed over channels, averaged over places and over the layers.

    Args:
        first: features of B pictures by layer, [B, C, H, W], of :class:`ImageNetFeatures`.
        second: those of the other pictures.
    """
    layers = [
        (functional.normalize(a, dim=1) - functional.normalize(b, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(layers).mean(dim=0)


class PerceptualDiscriminator(nn.Module):
    """Tells real from generated pictures, place by place, by frozen ImageNet features and by the pixels themselves.

    With features that are known already it learns within minutes (Sauer et al. 2021, Projected GAN); the pixels show it
    what such features hide, such as checkerboards.

    Args:
        width: number of filters of each head.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(channels, width) for channels in ImageNetFeatures.channels[1:])
        self.pixels = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *_head(width, width),
        )

    def forward(self, pictures: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Logits of "real", one map [B, 1, H, W] for the pixels and for each layer of the features but the first.

        Args:
            pictures: float32 [B, 3, S, S], RGB in [0, 1].
            features: theirs, of :class:`ImageNetFeatures`.
        """
        found = [self.pixels(pictures * 2 - 1)]
        return found + [head(layer) for head, layer in zip(self.heads, features[1:], strict=True)]


def _head(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 1, 1),
    )

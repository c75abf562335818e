"""Building blocks shared by the networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """RGB in [0, 1] to zero mean and unit variance, by default with ImageNet statistics. Shape [B, 3, H, W] is kept."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise [B, 3, H, W]."""
        return (image - self.mean) / self.std


class Centre(nn.Module):
    """What is left of :class:`Normalise` where the next convolution divides by the standard deviation.

    Args:
        mean: float [1, 3, 1, 1].
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W], less the mean."""
        return image - self.mean


def one_by_one(*sequences: nn.Module) -> Iterator[nn.Module]:
    """The layers of sequences, and of the sequences in them, in the order in which they run.

    Who runs them so needs each map only until the next is there. A sequence in a sequence keeps its input until it
    ends, a map more than a processor's cache has room for.
    """
    for module in sequences:
        if isinstance(module, nn.Sequential):
            yield from one_by_one(*module)
        else:
            yield module


def conv_bn_relu(channels_in: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU; height and width are kept."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def deconv_bn_relu(channels_in: int, channels_out: int) -> nn.Sequential:
    """Fractionally-strided 4x4 convolution (x2), batch normalisation, ReLU.

    The kernel size is not stated in the paper. 4 is a multiple of the stride, which avoids checkerboard patterns.
    """
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """x + BN(conv(ReLU(BN(conv(x))))), as in SRGAN, then ReLU. Not stated in the paper.

    Args:
        channels: number of filters of each convolution.
        layers: number of convolutions.
    """

    def __init__(self, channels: int, layers: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv_bn_relu(channels, channels) for _ in range(layers - 1)),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        out: Tensor = self.relu(features + self.body(features))
        return out


class InvertedResidual(nn.Module):
    """Layers one after the other, whose input is added to their output if shapes agree (Sandler et al. 2018).

    Args:
        layers: 1x1 to more channels, depthwise, 1x1 to fewer.
        residual: whether the input is added.
    """

    def __init__(self, layers: Sequence[nn.Module], residual: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        out: Tensor = self.body(features)
        return features + out if self.residual else out

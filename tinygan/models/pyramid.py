"""The parts between a backbone and the heads: a feature pyramid and a context module.

Attributes have the same names as in the common PyTorch RetinaFace, so that its checkpoints can be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def activation(negative_slope: float) -> nn.Module:
    """ReLU, or leaky ReLU where the slope is not 0."""
    return nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution, padded so that the size is the input's over the stride, and a batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class FeaturePyramid(nn.Module):
    """Top-down pyramid (Lin et al. 2017, with BN and an activation after every conv); RetinaFace's has three levels.

    Unlike torchvision's ``FeaturePyramidNetwork``, a level is smoothed before it is added to the finer
    one, and the top level is not smoothed at all.

    Args:
        inputs: numbers of channels of the maps, fine to coarse.
        channels: number of channels of each output.
        negative_slope: slope of the activations below 0; 0 is ReLU.
    """

    def __init__(self, inputs: Sequence[int], channels: int, negative_slope: float) -> None:
        super().__init__()

        def block(count: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(*conv_bn(count, channels, kernel), activation(negative_slope))

        for number, count in enumerate(inputs, start=1):
            self.add_module(f"output{number}", block(count, 1))
        for number in range(1, len(inputs)):
            self.add_module(f"merge{number}", block(channels, 3))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], fine to coarse, to as many [B, channels, H_i, W_i]."""
        levels: list[Tensor] = [self.get_submodule(f"output{at}")(one) for at, one in enumerate(maps, start=1)]
        for at in range(len(maps) - 2, -1, -1):
            larger = F.interpolate(levels[at + 1], size=levels[at].shape[-2:], mode="nearest")
            levels[at] = self.get_submodule(f"merge{at + 1}")(levels[at] + larger)
        return levels


class ContextModule(nn.Module):
    """Fields of view of 3, 5 and 7 px in parallel, made of stacked 3x3 convs (SSH, Najibi et al. 2017, Figure 4).

    Args:
        channels: number of channels of the input and of the output; a multiple of 4.
        negative_slope: slope of the inner activations below 0; 0 is ReLU.
    """

    def __init__(self, channels: int, negative_slope: float) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3X3 = nn.Sequential(*conv_bn(channels, half))
        self.conv5X5_1 = nn.Sequential(*conv_bn(channels, quarter), activation(negative_slope))
        self.conv5X5_2 = nn.Sequential(*conv_bn(quarter, quarter))
        self.conv7X7_2 = nn.Sequential(*conv_bn(quarter, quarter), activation(negative_slope))
        self.conv7x7_3 = nn.Sequential(*conv_bn(quarter, quarter))

    def forward(self, level: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        shared = self.conv5X5_1(level)
        wide = self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat([self.conv3X3(level), self.conv5X5_2(shared), wide], dim=1))

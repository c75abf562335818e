"""The discriminator's second tower, which sees the surroundings of a proposal. Not in the paper.

It is a RetinaFace-MobileNet0.25 (Deng et al. 2020) without its heads, and gives features at three scales. It has the
layers of that detector so that it can start from the detector's public weights: those were trained on many more faces
than the judge sees in its own training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinygan.models.blocks import Centre
from tinygan.models.mobilenet import MobileNet025
from tinygan.models.pyramid import ContextModule, FeaturePyramid

STRIDES, CHANNELS = (8, 16, 32), 64
SCALE = 0.25  # factor on the features: there are so many that the first training steps of a head would overshoot
MEAN_BGR = (104.0, 117.0, 123.0)


class Surroundings(nn.Module):
    """Features of a proposal's surroundings. Layers have the same names as in the common PyTorch RetinaFace."""

    def __init__(self) -> None:
        super().__init__()
        self.colours: nn.Module = _Bgr()
        self.body = MobileNet025(negative_slope=0.0)
        self.fpn = FeaturePyramid(self.body.channels[1:], CHANNELS, negative_slope=0.0)
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule(CHANNELS, negative_slope=0.0) for _ in STRIDES)

    @staticmethod
    def count(wide_size: int) -> int:
        """Number of features of a patch of ``wide_size`` px, F."""
        return sum(CHANNELS * (-(-wide_size // stride)) ** 2 for stride in STRIDES)

    @torch.no_grad()
    def deploy(self) -> None:
        """Let the first convolution turn colours to BGR in [0, 255]; it is trained no more."""
        if isinstance(self.colours, _Bgr):
            conv = next(layer for layer in self.body.modules() if isinstance(layer, nn.Conv2d))
            conv.weight.copy_(conv.weight.flip(1) * 255)
            self.colours = Centre(self.colours.mean.flip(1) / 255)

    def forward(self, wide: Tensor) -> Tensor:
        """Patches float [B, 3, W, W], RGB in [0, 1], to features [B, F]."""
        levels = self.fpn(self.body(self.colours(wide))[1:])  # 3 x [B, 64, W / stride, W / stride], rounded up
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        return torch.cat([SCALE * ssh(level).flatten(1) for ssh, level in zip(contexts, levels, strict=True)], dim=1)


class _Bgr(nn.Module):
    """RGB in [0, 1] to BGR in [0, 255] less its mean, as the public weights want it. Shape [B, 3, H, W] is kept."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)

    def forward(self, wide: Tensor) -> Tensor:
        """Turn [B, 3, H, W]."""
        return wide.flip(1) * 255 - self.mean

"""The discriminator's second tower, which sees the surroundings of a proposal. Not in the paper.

It is a RetinaFace-MobileNet0.25 (Deng et al. 2020) without its heads, and gives features at three scales. It has the
layers of that detector so that it can start from the detector's public weights: those were trained on many more faces
than the judge sees in its own training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinygan.models.mobilenet import MobileNet025
from tinygan.models.pyramid import ContextModule, FeaturePyramid

STRIDES, CHANNELS = (8, 16, 32), 64
SCALE = 0.25  # factor on the features: there are so many that the first training steps of a head would overshoot
MEAN_BGR = (104.0, 117.0, 123.0)


class Surroundings(nn.Module):
    """Features of a proposal's surroundings. Layers have the same names as in the common PyTorch RetinaFace."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = MobileNet025(negative_slope=0.0)
        self.fpn = FeaturePyramid(self.body.channels[1:], CHANNELS, negative_slope=0.0)
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule(CHANNELS, negative_slope=0.0) for _ in STRIDES)
        self.register_buffer("mean", torch.tensor(MEAN_BGR)[:, None, None], persistent=False)
        self._absorbed = False

    @staticmethod
    def count(wide_size: int) -> int:
        """Number of features of a patch of ``wide_size`` px, F."""
        return sum(CHANNELS * (-(-wide_size // stride)) ** 2 for stride in STRIDES)

    @torch.no_grad()
    def deploy(self) -> None:
        """Let the first convolution turn colours to BGR in [0, 255]; it is trained no more."""
        if not self._absorbed:
            conv = next(layer for layer in self.body.modules() if isinstance(layer, nn.Conv2d))
            conv.weight.copy_(conv.weight.flip(1) * 255)
            self.mean = self.mean.flip(0) / 255
            self._absorbed = True

    def forward(self, wide: Tensor) -> Tensor:
        """Patches float [B, 3, W, W], RGB in [0, 1], to features [B, F]."""
        colours = wide - self.mean if self._absorbed else wide.flip(1) * 255 - self.mean
        levels = self.fpn(self.body(colours)[1:])  # 3 x [B, 64, W / stride, W / stride], rounded up
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        return torch.cat([SCALE * ssh(level).flatten(1) for ssh, level in zip(contexts, levels, strict=True)], dim=1)

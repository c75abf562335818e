"""The judge's second tower: what lies around a proposal. Not in the paper.

A RetinaFace-MobileNet0.25 without its heads (Deng et al. 2020): three scales of features, so that it can start from
public weights of that detector, which learned from far more faces than proposals of one data set's part hold.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinygan.models.mobilenet import MobileNet025
from tinygan.models.pyramid import ContextModule, FeaturePyramid

STRIDES, CHANNELS = (8, 16, 32), 64
SCALE = 0.25  # of the features, which are many: a head's first steps would overshoot
MEAN_BGR = (104.0, 117.0, 123.0)


class Surroundings(nn.Module):
    """Features of a proposal's surroundings. Layers bear the names of the common PyTorch RetinaFace."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = MobileNet025(negative_slope=0.0)
        self.fpn = FeaturePyramid(self.body.channels, CHANNELS, negative_slope=0.0)
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule(CHANNELS, negative_slope=0.0) for _ in STRIDES)
        self.register_buffer("mean", torch.tensor(MEAN_BGR)[:, None, None], persistent=False)

    @staticmethod
    def count(wide_size: int) -> int:
        """How many features there are of a patch of ``wide_size`` px."""
        return sum(CHANNELS * (-(-wide_size // stride)) ** 2 for stride in STRIDES)

    def forward(self, wide: Tensor) -> Tensor:
        """float [B, 3, W, W], RGB in [0, 1], to [B, F]."""
        levels = self.fpn(self.body(wide.flip(1) * 255 - self.mean))
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        return torch.cat([SCALE * ssh(level).flatten(1) for ssh, level in zip(contexts, levels, strict=True)], dim=1)

"""RefineFace's receptive field enhancement (Zhang et al. 2019, section 3.5): a block that sees long and tall shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNELS = ((1, 5), (5, 1), (1, 3), (3, 1))  # height and width, one per branch
SHARE = 4  # a branch has a quarter of the channels


class ReceptiveField(nn.Module):
    """Four branches of narrow convolutions, joined and added to the input (Figure 7).

    The paper's text has a single 1x1 convolution after each branch's and does not say where; here each branch ends with
    one and another follows where they are joined, as in its authors' SRN (Chi et al. 2019).

    Args:
        channels: number of channels of input and output, a multiple of four.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // SHARE
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, narrow, kernel_size=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(narrow, narrow, kernel_size=kernel, padding=(kernel[0] // 2, kernel[1] // 2)),
                nn.ReLU(inplace=True),
                nn.Conv2d(narrow, narrow, kernel_size=1),
                nn.ReLU(inplace=True),
            )
            for kernel in KERNELS
        )
        self.join = nn.Sequential(nn.Conv2d(SHARE * narrow, channels, kernel_size=1), nn.ReLU(inplace=True))

    def forward(self, level: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        joined: Tensor = self.join(torch.cat([branch(level) for branch in self.branches], dim=1))
        return level + joined

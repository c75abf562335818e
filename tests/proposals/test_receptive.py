"""RefineFace's receptive field enhancement by hand."""

import torch
from torch import nn

from proposals.receptive import ReceptiveField


def test_it_is_lighter_than_the_two_convolutions_it_replaces():
    count = sum(one.numel() for one in ReceptiveField(256).parameters())
    two = 2 * sum(one.numel() for one in nn.Conv2d(256, 256, kernel_size=3).parameters())
    assert (count, two) == (214_016, 1_180_160)


def test_without_weights_it_changes_nothing():
    block, level = ReceptiveField(8), torch.randn(2, 8, 5, 7)
    for one in block.parameters():
        nn.init.zeros_(one)
    assert torch.equal(block(level), level)


def test_it_sees_a_cross_of_nine_cells():
    block, level = ReceptiveField(4), torch.zeros(1, 4, 9, 9)
    for name, one in block.named_parameters():
        nn.init.constant_(one, 0.0 if name.endswith("bias") else 1.0)
    level[:, :, 4, 4] = 1
    seen = block(level)[0, 0] > 0
    assert seen.sum() == 9 and seen[4, 2:7].all() and seen[2:7, 4].all()

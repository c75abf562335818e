"""Folds other layers into convolutions, for inference."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution defined just before it in the same module.

    Args:
        network: the network, which is changed in place; its modules must run in the order in which they are defined.

    Returns:
        The network in evaluation mode.
    """
    network.eval()
    for parent, (name, conv), (next_name, norm) in _neighbours(network):
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
            transpose = isinstance(conv, nn.ConvTranspose2d)
            setattr(parent, name, fuse_conv_bn_eval(conv, norm, transpose))
            setattr(parent, next_name, nn.Identity())
    return network


def fold_padding(network: nn.Module) -> nn.Module:
    """Let convolutions pad their input themselves, where a layer of its own did because sides differ by a pixel.

    A filter gets a row and a column of zeros at its low end, so that it needs as many pixels on both sides. On a CPU
    an EfficientNet-Lite0, whose strided convolutions are padded so, takes half of the time; its answers are the same.

    Args:
        network: the network, which is changed in place; its modules must run in the order in which they are defined.

    Returns:
        The network.
    """
    for parent, (name, pad), (next_name, conv) in _neighbours(network):
        if isinstance(pad, nn.ZeroPad2d) and isinstance(conv, nn.Conv2d) and conv.padding == (0, 0):
            left, right, top, bottom = pad.padding
            if (left, top) == (right - 1, bottom - 1) and conv.dilation == (1, 1):
                setattr(parent, name, nn.Identity())
                setattr(parent, next_name, _padding(conv, right))
    return network


def _padding(conv: nn.Conv2d, padding: int) -> nn.Conv2d:
    """The convolution with padding on all sides, and filters that pass over the first row and column."""
    (high, wide), (down, right) = conv.kernel_size, conv.stride
    padded = nn.Conv2d(
        conv.in_channels, conv.out_channels, (high + 1, wide + 1), (down, right), padding, groups=conv.groups
    )
    with torch.no_grad():
        padded.weight.copy_(F.pad(conv.weight, (1, 0, 1, 0)))
    padded.bias = conv.bias
    return padded.train(conv.training)


Named = tuple[str, nn.Module]


def _neighbours(network: nn.Module) -> Iterator[tuple[nn.Module, Named, Named]]:
    """Each module with a pair of its children of which one runs right after the other."""
    for parent in list(network.modules()):
        for first, second in pairwise(list(parent.named_children())):
            yield parent, first, second

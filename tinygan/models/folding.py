"""Folds batch normalisation into convolutions, for inference."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution defined just before it in the same module.

    Args:
        network: the network, which is changed in place; its modules must run in the order in which they are defined.

    Returns:
        The network in evaluation mode.
    """
    network.eval()
    for parent in list(network.modules()):
        for (name, conv), (next_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transpose = isinstance(conv, nn.ConvTranspose2d)
                setattr(parent, name, fuse_conv_bn_eval(conv, norm, transpose))
                setattr(parent, next_name, nn.Identity())
    return network

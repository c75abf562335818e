"""A narrower copy of a trained discriminator, for a student that learns from it. Not in the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tinygan.errors import CheckpointError
from tinygan.models.discriminator import Discriminator

OF_FILTERS = ("weight", "bias", "running_mean", "running_var")  # of batch normalisation, an entry per filter


@torch.no_grad()
def shrink(network: Discriminator, trained: Discriminator) -> None:
    """Copy the filters that matter most of a wider ``vgg_lite``, its heads and its second tower.

    Args:
        network: the narrower discriminator; its weights are overwritten.
        trained: the wider one.

    Raises:
        CheckpointError: if one of both is no ``vgg_lite``, they differ in more than widths, or a layer is to grow.
    """
    narrow, wide = network.config, trained.config
    alike = replace(wide, lite_widths=narrow.lite_widths) == narrow and network.cells == trained.cells
    if wide.backbone != "vgg_lite" or not alike or any(map(int.__gt__, narrow.lite_widths, wide.lite_widths)):
        raise CheckpointError(
            f"discriminator: a narrower one of widths {list(narrow.lite_widths)} is made of a vgg_lite that differs in "
            f"widths alone, none of them smaller; got {wide.backbone} of widths {list(wide.lite_widths)}"
        )
    kept = torch.arange(3)
    for number, (own, old) in enumerate(zip(_layers(network), _layers(trained), strict=True)):
        before, most_first = kept, _importance(trained, number).argsort(descending=True)
        kept = most_first[: own.conv.out_channels].sort().values
        own.conv.weight.copy_(old.conv.weight[kept][:, before])
        for name in OF_FILTERS:
            getattr(own.norm, name).copy_(getattr(old.norm, name)[kept])
    of_features = (kept[:, None] * trained.cells + torch.arange(trained.cells)).flatten()
    of_tower = torch.arange(wide.lite_widths[-1] * trained.cells, trained.fc_clc.in_features)
    for head, old_head in zip(network.heads, trained.heads, strict=True):
        head.weight.copy_(old_head.weight[:, torch.cat([of_features, of_tower])])
        head.bias.copy_(old_head.bias)
    if network.surroundings is not None and trained.surroundings is not None:
        network.surroundings.load_state_dict(trained.surroundings.state_dict())


class _Layer(NamedTuple):
    conv: nn.Conv2d
    norm: nn.BatchNorm2d


def _layers(network: Discriminator) -> list[_Layer]:
    """The convolutions of a ``vgg_lite``, each with its batch normalisation."""
    found = []
    for layer in network.features.children():
        if isinstance(layer, nn.Sequential):
            conv, norm, _ = layer
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            found.append(_Layer(conv, norm))
    return found


def _importance(network: Discriminator, number: int) -> Tensor:
    """How much each filter of a layer matters: how batch normalisation scales it, times how those after it weigh it."""
    layers = _layers(network)
    scale = layers[number].norm.weight.abs()
    if number + 1 < len(layers):
        weighed = layers[number + 1].conv.weight.square().sum((0, 2, 3))
    else:
        by_cell = sum((head.weight.square().sum(0) for head in network.heads), torch.zeros(()))
        weighed = by_cell[: len(scale) * network.cells].view(len(scale), network.cells).sum(1)
    importance: Tensor = scale * weighed.sqrt()
    return importance

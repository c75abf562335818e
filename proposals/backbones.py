"""Backbones that give feature maps C2 to C5, at strides 4, 8, 16 and 32."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.resnet import ResNet as TorchvisionResNet

from tinygan.models.mobilenet import MobileNet025

ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
BackboneName = Literal["mobilenet025", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
MEAN_RGB, STD_RGB = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in [0, 255]
MEAN_BGR = (104.0, 117.0, 123.0)


class ResNet(nn.Module):
    """torchvision's ResNet (He et al. 2016) without its classifier.

    Args:
        name: which of them.
        last_stride: 1 gives the last map the size of the one before it, and dilates its convolutions instead.

    Raises:
        ValueError: if the last map is to keep its size in ``resnet18`` or ``resnet34``, whose blocks cannot be dilated.
    """

    def __init__(self, name: ResNetName, last_stride: int = 2) -> None:
        super().__init__()
        basic = name in ("resnet18", "resnet34")
        if basic and last_stride == 1:
            raise ValueError(f"{name} cannot keep the stride of its last map at 16; resnet50 and larger ones can")
        dilated = {} if basic else {"replace_stride_with_dilation": [False, False, last_stride == 1]}
        network = cast(TorchvisionResNet, get_model(name, weights=None, **dilated))
        self.name = name
        self.channels = (64, 128, 256, 512) if basic else (256, 512, 1024, 2048)
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to maps at strides 4, 8, 16 and 32."""
        maps = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(pictures)))))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


Backbone = MobileNet025 | ResNet


class Normalise(nn.Module):
    """RGB in [0, 255] as a backbone is used to it: MobileNet025's BGR less its mean, ImageNet's RGB for ResNets.

    Args:
        name: the backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: BackboneName) -> None:
        super().__init__()
        self.flips = name == "mobilenet025"
        mean, std = (MEAN_BGR, (1.0, 1.0, 1.0)) if self.flips else (MEAN_RGB, STD_RGB)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W], uint8 or float, to float."""
        channels = pictures.flip(1) if self.flips else pictures
        return (channels.float() - self.mean) / self.std


def build_backbone(name: BackboneName, negative_slope: float = 0.0, last_stride: int = 2) -> Backbone:
    """A backbone with random weights.

    Args:
        name: which one.
        negative_slope: slope of ``mobilenet025``'s leaky ReLU, 0 for ReLU.
        last_stride: stride of the last map in cells of the one before it; 1 in ``resnet50`` and larger ones alone.

    Raises:
        ValueError: if the backbone's last map cannot have that stride.
    """
    if name != "mobilenet025":
        return ResNet(name, last_stride)
    if last_stride == 1:
        raise ValueError("mobilenet025 cannot keep the stride of its last map at 16; resnet50 and larger ones can")
    return MobileNet025(negative_slope)

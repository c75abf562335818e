"""Backbones that give feature maps at strides 8, 16 and 32."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet50

from tinygan.models.mobilenet import MobileNet025

BackboneName = Literal["mobilenet025", "resnet50"]
STRIDES = (8, 16, 32)


class ResNet50(nn.Module):
    """torchvision's ResNet-50 (He et al. 2016) without its classifier."""

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        network = resnet50(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to maps at strides 8, 16 and 32."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(pictures))))
        fine = self.layer2(self.layer1(stem))
        middle = self.layer3(fine)
        return [fine, middle, self.layer4(middle)]


def build_backbone(name: BackboneName, negative_slope: float) -> MobileNet025 | ResNet50:
    """A backbone with random weights."""
    return MobileNet025(negative_slope) if name == "mobilenet025" else ResNet50()

"""Backbones that give feature maps at strides 8, 16 and 32."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet50

from proposals.fpn import activation, conv_bn

BackboneName = Literal["mobilenet025", "resnet50"]
STRIDES = (8, 16, 32)


class MobileNet025(nn.Module):
    """MobileNetV1 at a quarter of its width (Howard et al. 2017), without its classifier.

    Args:
        negative_slope: of the activations; 0 is ReLU.
    """

    channels = (64, 128, 256)

    def __init__(self, negative_slope: float) -> None:
        super().__init__()

        def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            depthwise = conv_bn(inputs, inputs, stride=stride, groups=inputs)
            pointwise = conv_bn(inputs, outputs, kernel=1)
            return nn.Sequential(*depthwise, activation(negative_slope), *pointwise, activation(negative_slope))

        self.stage1 = nn.Sequential(
            nn.Sequential(*conv_bn(3, 8, stride=2), activation(negative_slope)),
            separable(8, 16),
            separable(16, 32, stride=2),
            separable(32, 32),
            separable(32, 64, stride=2),
            separable(64, 64),
        )
        self.stage2 = nn.Sequential(separable(64, 128, stride=2), *(separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(separable(128, 256, stride=2), separable(256, 256))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to maps at strides 8, 16 and 32."""
        fine = self.stage1(pictures)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


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

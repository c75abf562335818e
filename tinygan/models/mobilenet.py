"""MobileNetV1 at a quarter of its width: RetinaFace's light backbone, and that of the tower for the surroundings."""

from __future__ import annotations

from torch import Tensor, nn

from tinygan.models.pyramid import activation, conv_bn


class MobileNet025(nn.Module):
    """MobileNetV1 at a quarter of its width (Howard et al. 2017), without its classifier.

    Args:
        negative_slope: slope of the activations below 0; 0 is ReLU.
    """

    channels = (32, 64, 128, 256)

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
        """Pictures [B, 3, H, W] to feature maps at strides 4, 8, 16 and 32, with :attr:`channels` channels."""
        finest = self.stage1[:4](pictures)
        fine = self.stage1[4:](finest)
        middle = self.stage2(fine)
        return [finest, fine, middle, self.stage3(middle)]

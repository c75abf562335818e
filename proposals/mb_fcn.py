"""MB-FCN (Bai & Ghanem 2017): one pass through a backbone, and a branch for each range of face sizes.

Stated in the papers (also Bai et al. 2018, sections 3.1 and 4.2): a ResNet-50, one pass, branches by face size, each
with skip connections of its own that join shallow fine and deep coarse maps, and region proposals (Ren et al. 2015).
All layers, anchors and losses below are not stated there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from proposals.anchored import AnchoredConfig, AnchoredNetwork, other_backbone
from proposals.anchors import Sides, shaped
from proposals.backbones import BackboneName, Normalise, build_backbone
from proposals.detector import PyramidDetector, load_detector
from proposals.output import Output, cat_levels
from proposals.views import positive
from tinygan.models.pyramid import conv_bn
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

FIRST_STD = 0.01  # of the weights of the predictions, as in Ren et al. 2015


@dataclass(frozen=True, kw_only=True)
class MbFcnConfig(AnchoredConfig):
    """Network and thresholds; the thresholds are RetinaFace's.

    Attributes:
        backbone: ``resnet18`` to ``resnet152`` (the papers: ``resnet50``), or ``mobilenet025``.
        branches: the maps that each branch joins, 2 to 5 for C2 to C5; not stated in the paper.
        strides: pixels from cell to cell of each branch; not stated in the paper.
        sides: square roots of the areas of each branch's anchors in pixels; not stated in the paper.
        aspect: height over width of the anchors; not stated in the paper.
        skip_channels: number of channels that a branch takes of each map; not stated in the paper.
        channels: number of channels of a branch after joining; not stated in the paper.
        c5_stride: 2, or 1 if C5 keeps C4's size and dilates its convolutions; not stated in the paper.
    """

    backbone: BackboneName = "resnet50"
    branches: tuple[tuple[int, ...], ...] = ((3, 4, 5), (4, 5), (4, 5))
    strides: tuple[int, ...] = (8, 16, 32)
    sides: tuple[tuple[float, ...], ...] = (
        (8, 11.31, 16, 22.63), (32, 45.25, 64, 90.51), (128, 181.02, 256, 362.04)
    )  # fmt: skip
    aspect: float = 1.25
    skip_channels: int = 128
    channels: int = 256
    c5_stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.branches) == len(self.strides) == len(self.sides) > 0:
            raise ValueError("branches, strides and sides are lists of equal length, an entry for each branch")
        if not all(maps and set(maps) <= {2, 3, 4, 5} for maps in self.branches):
            raise ValueError(f"a branch joins some of the maps 2, 3, 4 and 5; got {self.branches}")
        if any(stride not in (4, 8, 16, 32) for stride in self.strides):
            raise ValueError(f"strides are 4, 8, 16 or 32, got {self.strides}")
        if len({len(sides) for sides in self.sides}) != 1 or not self.sides[0] or not positive(sum(self.sides, ())):
            raise ValueError(f"sides are lists of equally many numbers above 0, got {self.sides}")
        if self.c5_stride not in (1, 2) or not positive((self.aspect, self.skip_channels, self.channels)):
            raise ValueError("c5_stride is 1 or 2; aspect, skip_channels and channels are above 0")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return self.strides

    @property
    def level_sides(self) -> tuple[tuple[Sides, ...], ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return tuple(tuple(shaped(side, self.aspect) for side in sides) for sides in self.sides)

    def map_stride(self, number: int) -> int:
        """Pixels from cell to cell of the map C2, C3, C4 or C5."""
        return 16 if number == 5 and self.c5_stride == 1 else 2**number


def bilinear_filter(factor: int) -> Tensor:
    """The filter float32 [2 factor, 2 factor] with which a transposed convolution interpolates ``factor`` times."""
    row = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    return row[:, None] * row


class _Skip(nn.Sequential):
    """What a branch takes of one map: 1x1, at the branch's own stride.

    Args:
        inputs: number of channels of the map.
        outputs: number of channels that are taken.
        map_stride: pixels from cell to cell of the map.
        stride: pixels from cell to cell of the branch.
    """

    def __init__(self, inputs: int, outputs: int, map_stride: int, stride: int) -> None:
        down, up = max(1, stride // map_stride), max(1, map_stride // stride)
        layers = [*conv_bn(inputs, outputs, kernel=1), nn.ReLU(inplace=True)]
        if down > 1:
            layers.insert(0, nn.MaxPool2d(down, ceil_mode=True))
        if up > 1:
            larger = nn.ConvTranspose2d(outputs, outputs, 2 * up, up, up // 2, groups=outputs, bias=False)
            with torch.no_grad():
                larger.weight.copy_(bilinear_filter(up).expand_as(larger.weight))
            layers.append(larger)
        super().__init__(*layers)


class _Branch(nn.Module):
    """Joins some maps, and says of each cell's anchors how likely they hold a face and where exactly.

    Args:
        config: the network's.
        number: which branch.
        map_channels: numbers of channels of C2 to C5.
    """

    def __init__(self, config: MbFcnConfig, number: int, map_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.maps, self.stride = config.branches[number], config.strides[number]
        count = len(config.sides[number])
        self.skips = nn.ModuleList(
            _Skip(map_channels[one - 2], config.skip_channels, config.map_stride(one), self.stride) for one in self.maps
        )
        joined = len(self.maps) * config.skip_channels
        self.join = nn.Sequential(*conv_bn(joined, config.channels), nn.ReLU(inplace=True))
        self.faces, self.boxes = (nn.Conv2d(config.channels, count * columns, kernel_size=1) for columns in (1, 4))
        for layer in (self.faces, self.boxes):
            nn.init.normal_(layer.weight, std=FIRST_STD)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Maps C2 to C5 [B, C, H, W] to logits [B, A, H', W'] and offsets [B, 4 A, H', W'] of ``height x width`` cells.

        Maps that were enlarged are cut to that size.
        """
        taken = [skip(maps[one - 2])[..., :height, :width] for one, skip in zip(self.maps, self.skips, strict=True)]
        level = self.join(torch.cat(taken, dim=1))
        return self.faces(level), self.boxes(level)


class MbFcnNetwork(AnchoredNetwork):
    """Backbone and branches.

    Args:
        config: the backbone, the branches and their anchors.
    """

    config: MbFcnConfig

    def __init__(self, config: MbFcnConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.backbone)
        self.body = build_backbone(config.backbone, last_stride=config.c5_stride)
        numbers = range(len(config.branches))
        self.branches = nn.ModuleList(_Branch(config, number, self.body.channels) for number in numbers)

    def forward(self, pictures: Tensor) -> Output:
        """Judge every anchor.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float.
        """
        maps = self.body(self.normalise(pictures))
        height, width = pictures.shape[-2:]
        # Whole numbers alone: in an export the sides stay variable, and ONNX divides towards 0.
        sizes = [((height + stride - 1) // stride, (width + stride - 1) // stride) for stride in self.config.strides]
        found = [branch(maps, *size) for branch, size in zip(self.branches, sizes, strict=True)]
        return Output(
            cat_levels([one for one, _ in found], 1)[..., 0], cat_levels([one for _, one in found], 4), None, sizes
        )

    def describe(self, tensors: dict[str, Tensor]) -> tuple[str, str]:
        """See :class:`proposals.anchored.AnchoredNetwork`."""
        hint = other_backbone(tensors, self.config.backbone) or "; expected layers body and branches"
        return f"MB-FCN with backbone {self.config.backbone}", hint


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_mb_fcn(config: MbFcnConfig, weights: Path | None, runtime: Runtime) -> PyramidDetector[Output]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    return load_detector(MbFcnNetwork(config), config, weights, runtime)


ENTRY = Entry(
    MbFcnConfig, build_mb_fcn, recipe="proposals.train.mb_fcn:MbFcnRecipe", wanted="a run of tinygan-train-proposer"
)

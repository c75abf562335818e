"""RetinaFace (Deng et al. 2020): faces and five landmarks in one pass over an image.

Names of layers, the order of channels and the defaults are those of the common PyTorch implementation, so that its
checkpoints load. Those have three levels and one step; five levels and the cascade are settings. The paper's dense
regression (λ3) is left out: it needs a mesh decoder trained on 3D scans; neither that nor its code was ever published.
It is not stated whether the second step's context modules see the pyramid or the first step's: here, the pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from proposals.anchored import AnchoredConfig, AnchoredNetwork, other_backbone
from proposals.anchors import Sides, shaped
from proposals.backbones import MEAN_BGR, build_backbone
from proposals.candidates import LANDMARKS
from proposals.detector import PyramidDetector, load_detector
from proposals.output import First, Output
from proposals.views import positive
from tinygan.models.pyramid import ContextModule, FeaturePyramid, activation, conv_bn
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

MOBILE_CHANNELS, CHANNELS = 64, 256  # of the pyramid
P6 = 6


@dataclass(frozen=True, kw_only=True)
class RetinaFaceConfig(AnchoredConfig):
    """Network and thresholds; thresholds as in papers/retinaface_finetuning.

    Attributes:
        negative_slope: slope of the leaky ReLU of ``mobilenet025``, 0 for ReLU; 0.1 in some public checkpoints.
        levels: levels of the pyramid, neighbours from 2 to 6 with 5 among them; the paper has all five, of which 6 is a
            convolution of stride 2 on C5.
        anchors: sides in pixels on each level, or ``[width, height]``; some public checkpoints: [[16, 32], [64, 128],
            [256, 512]].
        aspects: heights over widths; each side is taken with each of them, at equal area.
        cascade: whether a second step starts from the anchors as a first one moved them; only what it says is used.
    """

    negative_slope: float = 0.0
    levels: tuple[int, ...] = (3, 4, 5)
    anchors: tuple[tuple[Sides, ...], ...] = ((10, 20), (32, 64), (128, 256))
    aspects: tuple[float, ...] = (1.0,)
    cascade: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if 5 not in self.levels or self.levels not in [tuple(range(a, b)) for a in range(2, 6) for b in (6, 7)]:
            raise ValueError(f"levels are neighbours from 2 to 6 with 5 among them, got {self.levels}")
        counts = {len(sides) for sides in self.anchors}
        sides = [side for level in self.anchors for side in level]
        pairs = [side for side in sides if isinstance(side, tuple)]
        numbers = [side for side in sides if not isinstance(side, tuple)]
        good = all(len(pair) == 2 and positive(pair) for pair in pairs) and positive(numbers)
        if len(self.anchors) != len(self.levels) or len(counts) != 1 or not sides or not good:
            raise ValueError(f"anchors are {len(self.levels)} lists of equally many sides above 0, got {self.anchors}")
        if not self.aspects or not positive(self.aspects) or (pairs and self.aspects != (1.0,)):
            raise ValueError(f"aspects are numbers above 0, for anchors that are sides of squares; got {self.aspects}")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return tuple(2**level for level in self.levels)

    @property
    def level_sides(self) -> tuple[tuple[Sides, ...], ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return tuple(
            tuple(
                side if isinstance(side, tuple) else shaped(side, aspect) for side in sides for aspect in self.aspects
            )
            for sides in self.anchors
        )

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one place of one level."""
        return len(self.level_sides[0])


class _Head(nn.Module):
    """A 1x1 convolution with ``columns`` numbers for each anchor of a cell."""

    def __init__(self, channels: int, anchors: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.conv1x1 = nn.Conv2d(channels, anchors * columns, kernel_size=1)

    def forward(self, level: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, H W anchors, columns]."""
        rows: Tensor = self.conv1x1(level).permute(0, 2, 3, 1)
        return rows.reshape(level.shape[0], -1, self.columns)


class RetinaFaceNetwork(AnchoredNetwork):
    """Backbone, feature pyramid, context modules and heads.

    Args:
        config: the backbone, the levels, the anchors and whether there are two steps.
    """

    config: RetinaFaceConfig
    mean: Tensor

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__()
        self.config = config
        mobile = config.backbone == "mobilenet025"
        channels, slope = (MOBILE_CHANNELS, config.negative_slope) if mobile else (CHANNELS, 0.0)
        self.body = build_backbone(config.backbone, slope)
        inputs = [self.body.channels[level - 2] for level in config.levels if level < P6]
        self.fpn = FeaturePyramid(inputs, channels, slope)
        if P6 in config.levels:
            self.p6 = nn.Sequential(*conv_bn(self.body.channels[-1], channels, stride=2), activation(slope))
        _add_heads(self, config, channels, slope)
        if config.cascade:
            self.second = nn.Module()
            _add_heads(self.second, config, channels, slope)
        self.register_buffer("mean", torch.tensor(MEAN_BGR)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Output:
        """Judge every anchor.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float.
        """
        maps = self.body(pictures.flip(1).float() - self.mean)
        levels = self.fpn([maps[level - 2] for level in self.config.levels if level < P6])
        if P6 in self.config.levels:
            levels.append(self.p6(maps[-1]))
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]  # no int(): an export keeps them free
        said = _ask(self, levels)
        return Output(*_ask(self.second, levels), sizes, said) if self.config.cascade else Output(*said, sizes)

    def describe(self, tensors: dict[str, Tensor]) -> tuple[str, str]:
        """See :class:`proposals.anchored.AnchoredNetwork`."""
        layers = "; expected layers body, fpn, ssh1-3, ClassHead, BboxHead, LandmarkHead (a .pth of PyTorch RetinaFace)"
        hint = other_backbone(tensors, self.config.backbone) or layers
        return f"RetinaFace with backbone {self.config.backbone}", hint


def _add_heads(network: nn.Module, config: RetinaFaceConfig, channels: int, slope: float) -> None:
    """Give a network the context modules and heads of one step, on all levels."""
    for number, _ in enumerate(config.levels, start=1):
        network.add_module(f"ssh{number}", ContextModule(channels, slope))
    for name, columns in (("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 2 * LANDMARKS)):
        heads = (_Head(channels, config.anchors_per_cell, columns) for _ in config.levels)
        network.add_module(name, nn.ModuleList(heads))


def _ask(network: nn.Module, levels: Sequence[Tensor]) -> First:
    """What the context modules and heads of one step say of levels [B, C, H, W]."""
    seen = [network.get_submodule(f"ssh{number}")(level) for number, level in enumerate(levels, start=1)]

    def ask(name: str) -> Tensor:
        return torch.cat([network.get_submodule(f"{name}.{at}")(level) for at, level in enumerate(seen)], dim=1)

    classes = ask("ClassHead").float()
    face_logits = classes[..., 1] - classes[..., 0]  # softmax of two classes is this one's sigmoid
    return First(face_logits, ask("BboxHead"), ask("LandmarkHead"))


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_retinaface(config: RetinaFaceConfig, weights: Path | None, runtime: Runtime) -> PyramidDetector[Output]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    return load_detector(RetinaFaceNetwork(config), config, weights, runtime)


ENTRY = Entry(
    RetinaFaceConfig, build_retinaface, "retinaface_mobilenet025", recipe="proposals.train.recipe:ProposerRecipe"
)

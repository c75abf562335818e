"""RetinaFace (Deng et al. 2020): faces and five landmarks in one pass over an image.

Names of layers, the order of channels and the defaults are those of the common PyTorch implementation, so that its
checkpoints load. The paper's dense regression (λ3) and cascade are not part of it, nor of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from proposals.anchored import AnchoredConfig, AnchoredNetwork, other_backbone
from proposals.anchors import Sides
from proposals.backbones import MEAN_BGR, STRIDES, build_backbone
from proposals.detector import LANDMARKS, PyramidDetector, positive
from proposals.output import Output
from tinygan.models.pyramid import ContextModule, FeaturePyramid
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

MOBILE_CHANNELS, CHANNELS = 64, 256  # of the pyramid


@dataclass(frozen=True, kw_only=True)
class RetinaFaceConfig(AnchoredConfig):
    """Network and thresholds; thresholds as in papers/retinaface_finetuning.

    Attributes:
        negative_slope: slope of the leaky ReLU of ``mobilenet025``, 0 for ReLU; 0.1 in some public checkpoints.
        anchors: sides in pixels at strides 8, 16 and 32; some public checkpoints: [[16, 32], [64, 128], [256, 512]].
    """

    negative_slope: float = 0.0
    anchors: tuple[tuple[float, ...], ...] = ((10, 20), (32, 64), (128, 256))

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {len(sides) for sides in self.anchors}
        sides = [side for level in self.anchors for side in level]
        if len(self.anchors) != len(STRIDES) or len(counts) != 1 or not sides or not positive(sides):
            raise ValueError(f"anchors are three lists of equally many sides above 0, got {self.anchors}")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return STRIDES

    @property
    def level_sides(self) -> tuple[tuple[Sides, ...], ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return self.anchors

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one place of one level."""
        return len(self.anchors[0])


class _Head(nn.Module):
    """A 1x1 convolution with ``columns`` numbers for each anchor of a cell."""

    def __init__(self, channels: int, anchors: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.conv1x1 = nn.Conv2d(channels, anchors * columns, kernel_size=1)

    def forward(self, level: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, H W anchors, columns]."""
        rows: Tensor = self.conv1x1(level).permute(0, 2, 3, 1)
        return rows.reshape(len(level), -1, self.columns)


class RetinaFaceNetwork(AnchoredNetwork):
    """Backbone, feature pyramid, context modules and heads.

    Args:
        config: the backbone and the anchors.
    """

    config: RetinaFaceConfig
    mean: Tensor

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__()
        self.config = config
        mobile = config.backbone == "mobilenet025"
        channels, slope = (MOBILE_CHANNELS, config.negative_slope) if mobile else (CHANNELS, 0.0)
        self.body = build_backbone(config.backbone, slope)
        self.fpn = FeaturePyramid(self.body.channels[1:], channels, slope)
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule(channels, slope) for _ in STRIDES)

        def heads(columns: int) -> nn.ModuleList:
            return nn.ModuleList(_Head(channels, config.anchors_per_cell, columns) for _ in STRIDES)

        self.ClassHead, self.BboxHead, self.LandmarkHead = heads(2), heads(4), heads(2 * LANDMARKS)
        self.register_buffer("mean", torch.tensor(MEAN_BGR)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Output:
        """Judge every anchor.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float.
        """
        maps = self.body(pictures.flip(1).float() - self.mean)[1:]
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        levels = [context(level) for context, level in zip(contexts, self.fpn(maps), strict=True)]

        def ask(heads: nn.ModuleList) -> Tensor:
            return torch.cat([head(level) for head, level in zip(heads, levels, strict=True)], dim=1)

        sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
        classes = ask(self.ClassHead).float()
        face_logits = classes[..., 1] - classes[..., 0]  # softmax of two classes is this one's sigmoid
        return Output(face_logits, ask(self.BboxHead), ask(self.LandmarkHead), sizes)

    def describe(self, tensors: dict[str, Tensor]) -> tuple[str, str]:
        """See :class:`proposals.anchored.AnchoredNetwork`."""
        layers = "; expected layers body, fpn, ssh1-3, ClassHead, BboxHead, LandmarkHead (a .pth of PyTorch RetinaFace)"
        hint = other_backbone(tensors, self.config.backbone) or layers
        return f"RetinaFace with backbone {self.config.backbone}", hint


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_retinaface(config: RetinaFaceConfig, weights: Path | None, runtime: Runtime) -> PyramidDetector[Output]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    network = RetinaFaceNetwork(config)
    if weights is not None:
        network.load_weights(weights)
    return PyramidDetector(network, config, runtime)


ENTRY = Entry(
    RetinaFaceConfig, build_retinaface, "retinaface_mobilenet025", recipe="proposals.train.recipe:ProposerRecipe"
)

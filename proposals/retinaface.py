"""RetinaFace (Deng et al. 2020): faces and five landmarks in one pass over an image.

Names of layers, the order of channels and the defaults are those of the common PyTorch implementation, so that its
checkpoints load. The paper's dense regression (λ3) and cascade are not part of it, nor of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proposals.anchors import decode_boxes, decode_landmarks, pyramid_anchors
from proposals.backbones import STRIDES, BackboneName, build_backbone
from proposals.detector import LANDMARKS, DetectorConfig, DetectorNetwork, PyramidDetector, positive
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.models.pyramid import ContextModule, FeaturePyramid
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

MEAN_BGR = (104.0, 117.0, 123.0)
PYRAMID_CHANNELS = {"mobilenet025": 64, "resnet50": 256}


@dataclass(frozen=True, kw_only=True)
class RetinaFaceConfig(DetectorConfig):
    """Network and thresholds; thresholds as in papers/retinaface_finetuning.

    Attributes:
        backbone: ``mobilenet025`` (0.43 M parameters) or ``resnet50`` (27 M).
        negative_slope: slope of the leaky ReLU of ``mobilenet025``, 0 for ReLU; 0.1 in some public checkpoints.
        anchors: sides in pixels at strides 8, 16 and 32; some public checkpoints: [[16, 32], [64, 128], [256, 512]].
        variances: scales of the offsets of an anchor's centre and size.
    """

    backbone: BackboneName = "mobilenet025"
    negative_slope: float = 0.0
    anchors: tuple[tuple[float, ...], ...] = ((10, 20), (32, 64), (128, 256))
    variances: tuple[float, ...] = (0.1, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {len(sides) for sides in self.anchors}
        sides = [side for level in self.anchors for side in level]
        if len(self.anchors) != len(STRIDES) or len(counts) != 1 or not sides or not positive(sides):
            raise ValueError(f"anchors are three lists of equally many sides above 0, got {self.anchors}")
        if len(self.variances) != 2 or not positive(self.variances):
            raise ValueError(f"variances are two numbers above 0, got {self.variances}")

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one place of one level."""
        return len(self.anchors[0])


class Output(NamedTuple):
    """The network's answer for A anchors, in the order of :func:`proposals.anchors.pyramid_anchors`.

    Attributes:
        class_logits: [B, A, 2], background and face.
        boxes: [B, A, 4], offsets.
        landmarks: [B, A, 10], offsets of eyes, nose and corners of the mouth.
        sizes: height and width of each level, in cells.
    """

    class_logits: Tensor
    boxes: Tensor
    landmarks: Tensor
    sizes: list[tuple[int, int]]


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


class RetinaFaceNetwork(DetectorNetwork[Output]):
    """Backbone, feature pyramid, context modules and heads.

    Args:
        config: the backbone and the anchors.
    """

    mean: Tensor

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__()
        self.config = config
        channels = PYRAMID_CHANNELS[config.backbone]
        slope = config.negative_slope if config.backbone == "mobilenet025" else 0.0
        self.body = build_backbone(config.backbone, slope)
        self.fpn = FeaturePyramid(self.body.channels, channels, slope)
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
        maps = self.body(pictures.flip(1).float() - self.mean)
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        levels = [context(level) for context, level in zip(contexts, self.fpn(maps), strict=True)]

        def ask(heads: nn.ModuleList) -> Tensor:
            return torch.cat([head(level) for head, level in zip(heads, levels, strict=True)], dim=1)

        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]  # no int(): an export keeps them free
        return Output(ask(self.ClassHead), ask(self.BboxHead), ask(self.LandmarkHead), sizes)

    def scores(self, output: Output) -> Tensor:
        """See :class:`proposals.detector.DetectorNetwork`."""
        logits = output.class_logits.float()
        return torch.sigmoid(logits[..., 1] - logits[..., 0])  # softmax of two

    def decode(self, output: Output, places: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`proposals.detector.DetectorNetwork`."""
        anchors = pyramid_anchors(output.sizes, STRIDES, self.config.anchors).to(places.device)[places]
        variances = (self.config.variances[0], self.config.variances[1])
        boxes = decode_boxes(output.boxes[:, places].float(), anchors, variances)
        return boxes, decode_landmarks(output.landmarks[:, places].float(), anchors, variances)

    def load_weights(self, path: Path) -> None:
        """See :class:`proposals.detector.DetectorNetwork`; also the ``.pth`` of PyTorch RetinaFace."""
        tensors = load_tensors(path)
        what = f"RetinaFace with backbone {self.config.backbone}"
        load_into(self, tensors, path, what, _hint(tensors, self.config))


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


def _hint(tensors: dict[str, Tensor], config: RetinaFaceConfig) -> str:
    """What to do about weights that do not fit."""
    for backbone, name in (("mobilenet025", "body.stage1.0.0.weight"), ("resnet50", "body.layer1.0.conv1.weight")):
        if name in tensors and backbone != config.backbone:
            return f"; they look like backbone {backbone}: set backbone={backbone}"
    return "; expected layers body, fpn, ssh1-3, ClassHead, BboxHead, LandmarkHead (a .pth of PyTorch RetinaFace)"


ENTRY = Entry(
    RetinaFaceConfig, build_retinaface, "retinaface_mobilenet025", recipe="proposals.train.recipe:ProposerRecipe"
)

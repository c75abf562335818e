"""RetinaFace (Deng et al. 2020): faces and five landmarks in one pass over an image.

Names of layers, the order of channels and the defaults are those of the common PyTorch implementation, so that its
checkpoints load. The paper's dense regression (λ3) and cascade are not part of it, nor of this.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from proposals.anchors import decode_boxes, decode_landmarks, pyramid_anchors
from proposals.backbones import STRIDES, BackboneName, build_backbone
from tinygan.detections import Detections
from tinygan.models.folding import fold_batch_norm
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.models.pyramid import ContextModule, FeaturePyramid
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime, one_thread

log = logging.getLogger(__name__)
MEAN_BGR = (104.0, 117.0, 123.0)
PYRAMID_CHANNELS = {"mobilenet025": 64, "resnet50": 256}
LANDMARKS = 5
OVERVIEW_FROM, OVERVIEW_SIDE_PX = 2, 48  # times overview_px; side of a face in an overview


@dataclass(frozen=True, kw_only=True)
class RetinaFaceConfig:
    """Network and thresholds; thresholds as in papers/retinaface_finetuning.

    Attributes:
        backbone: ``mobilenet025`` (0.43 M parameters) or ``resnet50`` (27 M).
        negative_slope: slope of the leaky ReLU of ``mobilenet025``, 0 for ReLU; 0.1 in some public checkpoints.
        anchors: sides in pixels at strides 8, 16 and 32; some public checkpoints: [[16, 32], [64, 128], [256, 512]].
        variances: scales of the offsets of an anchor's centre and size.
        score_threshold: boxes of a lower face probability are dropped.
        top_k: number of boxes per scale, the best ones, that enter NMS.
        nms_iou: of two boxes with a larger IoU the one with the lower score is dropped.
        keep: number of boxes per image, the best ones, that are kept after NMS.
        scales: factors by which the image is resized; several are detected one by one and merged by NMS.
        overview_px: images at least twice as long are searched once more, shrunk to this: faces of 48 px or more there
            are looked for in this overview alone. 0: there is no overview.
        max_side_px: longer sides (after scaling) are shrunk to this, which bounds memory.
    """

    backbone: BackboneName = "mobilenet025"
    negative_slope: float = 0.0
    anchors: tuple[tuple[float, ...], ...] = ((10, 20), (32, 64), (128, 256))
    variances: tuple[float, ...] = (0.1, 0.2)
    score_threshold: float = 0.02
    top_k: int = 5000
    nms_iou: float = 0.4
    keep: int = 750
    scales: tuple[float, ...] = (1.0,)
    overview_px: int = 0
    max_side_px: int = 4096

    def __post_init__(self) -> None:
        counts = {len(sides) for sides in self.anchors}
        sides = [side for level in self.anchors for side in level]
        if len(self.anchors) != len(STRIDES) or len(counts) != 1 or not sides or not _positive(sides):
            raise ValueError(f"anchors are three lists of equally many sides above 0, got {self.anchors}")
        if len(self.variances) != 2 or not _positive(self.variances):
            raise ValueError(f"variances are two numbers above 0, got {self.variances}")
        if not self.scales or not _positive(self.scales):
            raise ValueError(f"scales are one or more factors above 0, got {self.scales}")
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {getattr(self, name)}")
        if self.overview_px < 0:
            raise ValueError(f"overview_px must not be negative, got {self.overview_px}")
        for name in ("top_k", "keep", "max_side_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def overview_of(self, longer_side_px: int) -> float | None:
        """The scale of an image's overview, if it is to have one."""
        wanted = self.overview_px > 0 and longer_side_px >= OVERVIEW_FROM * self.overview_px
        return self.overview_px / longer_side_px if wanted else None

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one place of one level."""
        return len(self.anchors[0])


def _positive(values: Sequence[float]) -> bool:
    return all(0 < value < math.inf for value in values)


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
        return rows.reshape(len(level), -1, self.columns)


class RetinaFaceNetwork(nn.Module):
    """Backbone, feature pyramid, context modules and heads.

    Args:
        config: the backbone and the anchors.
    """

    mean: Tensor

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__()
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

        sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
        return Output(ask(self.ClassHead), ask(self.BboxHead), ask(self.LandmarkHead), sizes)


class _Candidates(NamedTuple):
    """Boxes in pixels of the image: [K, 4], scores [K], landmarks [K, 10]."""

    boxes: Tensor
    scores: Tensor
    landmarks: Tensor


class RetinaFace:
    """RetinaFace as a proposer; ``fields["landmarks"]`` [N, 10] holds ``x, y`` of five points.

    Images run one by one, at their own size: padding them to a common one would change what is found.

    Args:
        network: a trained network; its batch normalisation is folded in place.
        config: the thresholds and the scales.
        runtime: the device and the precision.
    """

    def __init__(self, network: RetinaFaceNetwork, config: RetinaFaceConfig, runtime: Runtime) -> None:
        self._network, self._config, self._runtime = fold_batch_norm(network), config, runtime
        self._said_shrunk = False
        runtime.place(self._network)

    @torch.inference_mode()
    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        with self._runtime.autocast():
            return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        picture = image.to(self._runtime.device)[None]
        found = [self._candidates(picture, scale) for scale in self._config.scales]
        overview = self._config.overview_of(max(picture.shape[-2:]))
        if overview is not None:
            found = [_smaller(one, OVERVIEW_SIDE_PX / overview) for one in found]
            found.append(self._candidates(picture, overview))
        boxes, scores, landmarks = (torch.cat(parts) for parts in zip(*found, strict=True))
        chosen = nms(boxes, scores, self._config.nms_iou)
        columns = [tensor[chosen].double().cpu().numpy() for tensor in (boxes, scores, landmarks)]
        detections = Detections(columns[0], columns[1], {"landmarks": columns[2]})
        return best_inside(detections, image.shape[2], image.shape[1], self._config.keep)

    def _candidates(self, picture: Tensor, scale: float) -> _Candidates:
        """The best boxes at one scale, before NMS."""
        config, (height, width) = self._config, picture.shape[-2:]
        resized = self._resize(picture, scale)
        output: Output = self._network(resized)
        logits = output.class_logits[0].float()
        scores = torch.sigmoid(logits[:, 1] - logits[:, 0])  # softmax of two
        likely = (scores > config.score_threshold).nonzero()[:, 0]
        scores, order = torch.sort(scores[likely], descending=True, stable=True)
        scores, best = scores[: config.top_k], likely[order[: config.top_k]]
        anchors = pyramid_anchors(output.sizes, STRIDES, config.anchors).to(best.device)[best]
        variances = (config.variances[0], config.variances[1])
        boxes = decode_boxes(output.boxes[0, best].float(), anchors, variances)
        landmarks = decode_landmarks(output.landmarks[0, best].float(), anchors, variances)
        back = boxes.new_tensor([width / resized.shape[-1], height / resized.shape[-2]])
        return _Candidates(boxes * back.repeat(2), scores, landmarks * back.repeat(LANDMARKS))

    def _resize(self, picture: Tensor, scale: float) -> Tensor:
        height, width = picture.shape[-2:]
        limit = self._config.max_side_px / max(height, width)
        if limit < scale:
            self._say_shrunk(max(height, width) * scale)
        factor = min(scale, limit)
        if factor == 1:
            return picture
        size = [max(1, round(side * factor)) for side in (height, width)]
        return F.interpolate(picture.float(), size=size, mode="bilinear", align_corners=False, antialias=True)

    def _say_shrunk(self, side_px: float) -> None:
        if not self._said_shrunk:
            log.warning(
                "an image of %.0f px was shrunk to max_side_px = %d for detection, and others may be; a larger "
                "max_side_px finds more tiny faces and takes more memory", side_px, self._config.max_side_px,
            )  # fmt: skip
        self._said_shrunk = True


def _smaller(found: _Candidates, side_px: float) -> _Candidates:
    """The candidates whose longer side is shorter than ``side_px``."""
    small = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(dim=1) < side_px
    return _Candidates(*(column[small] for column in found))


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_retinaface(config: RetinaFaceConfig, weights: Path | None, runtime: Runtime) -> RetinaFace:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    network = RetinaFaceNetwork(config)
    if weights is not None:
        tensors = load_tensors(weights)
        load_into(network, tensors, weights, f"RetinaFace with backbone {config.backbone}", _hint(tensors, config))
    return RetinaFace(network, config, runtime)


def _hint(tensors: dict[str, Tensor], config: RetinaFaceConfig) -> str:
    """What to do about weights that do not fit."""
    for backbone, name in (("mobilenet025", "body.stage1.0.0.weight"), ("resnet50", "body.layer1.0.conv1.weight")):
        if name in tensors and backbone != config.backbone:
            return f"; they look like backbone {backbone}: set backbone={backbone}"
    return "; expected layers body, fpn, ssh1-3, ClassHead, BboxHead, LandmarkHead (a .pth of PyTorch RetinaFace)"


ENTRY = Entry(RetinaFaceConfig, build_retinaface, "retinaface_mobilenet025")

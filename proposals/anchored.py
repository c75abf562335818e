"""What detectors with anchors share: the backbone, the anchors and how answers are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proposals.anchors import Sides, decode_boxes, decode_landmarks, move_anchors, pyramid_anchors
from proposals.backbones import Backbone, BackboneName
from proposals.detector import DetectorConfig, DetectorNetwork
from proposals.output import Output
from proposals.views import positive
from tinygan.models.public_weights import load_into, load_tensors


@dataclass(frozen=True, kw_only=True)
class AnchoredConfig(DetectorConfig, ABC):
    """Network and thresholds of a detector with anchors.

    Attributes:
        backbone: ``mobilenet025`` (MobileNetV1 at a quarter of its width) or ``resnet18`` to ``resnet152``.
        variances: scales of the offsets of an anchor's centre and size; those of the common RetinaFace, not stated in
            the papers of RetinaNet, RefineFace and MB-FCN.
    """

    backbone: BackboneName = "mobilenet025"
    variances: tuple[float, ...] = (0.1, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.variances) != 2 or not positive(self.variances):
            raise ValueError(f"variances are two numbers above 0, got {self.variances}")

    @property
    @abstractmethod
    def level_strides(self) -> tuple[int, ...]:
        """Pixels from cell to cell of each level."""

    @property
    @abstractmethod
    def level_sides(self) -> Sequence[Sequence[Sides]]:
        """For each level the sides of the anchors of one cell in pixels; equally many on each."""

    @property
    def scales_of_offsets(self) -> tuple[float, float]:
        """The variances, of centre and size."""
        return self.variances[0], self.variances[1]

    def anchor_boxes(self, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Anchors float32 [A, 4] for levels of these sizes in cells; see :func:`proposals.anchors.pyramid_anchors`."""
        return pyramid_anchors(sizes, self.level_strides, self.level_sides)

    def anchors_of_picture(self, side_px: int) -> Tensor:
        """The same for a square picture."""
        cells = [-(-side_px // stride) for stride in self.level_strides]
        return self.anchor_boxes([(count, count) for count in cells])


class AnchoredNetwork(DetectorNetwork[Output]):
    """A network that judges anchors; its backbone is the layer ``body``."""

    config: AnchoredConfig
    body: Backbone

    @abstractmethod
    def describe(self, tensors: dict[str, Tensor]) -> tuple[str, str]:
        """What the network is called in an error message, and what to do about weights that do not fit."""

    def load_weights(self, path: Path) -> None:
        """See :class:`proposals.detector.DetectorNetwork`."""
        tensors = load_tensors(path)
        load_into(self, tensors, path, *self.describe(tensors))

    def scores(self, output: Output) -> Tensor:
        """See :class:`proposals.detector.DetectorNetwork`."""
        return torch.sigmoid(output.face_logits.float())

    def decode(self, output: Output, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`proposals.detector.DetectorNetwork`."""
        anchors = self.config.anchor_boxes(output.sizes).to(places.device)[places]
        variances = self.config.scales_of_offsets
        if output.first is not None:
            anchors = move_anchors(output.first.boxes[:, places].float(), anchors, variances)
        boxes = decode_boxes(output.boxes[:, places].float(), anchors, variances)
        if output.landmarks is None:
            return boxes, None
        return boxes, decode_landmarks(output.landmarks[:, places].float(), anchors, variances)


def other_backbone(tensors: dict[str, Tensor], backbone: BackboneName) -> str:
    """What to do about weights that look like those of a network with another kind of backbone; else nothing."""
    if "body.stage1.0.0.weight" in tensors and backbone != "mobilenet025":
        return "; they look like backbone mobilenet025: set backbone=mobilenet025"
    if "body.layer1.0.conv1.weight" in tensors and backbone == "mobilenet025":
        return "; they look like backbone resnet50: set backbone=resnet50"
    return ""

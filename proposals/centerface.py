"""CenterFace (Xu et al. 2019): each point of a map at stride 4 says whether it is a face's centre, and gives its box.

The network is MobileNetV2 with a pyramid of 24 channels (:mod:`tinygan.models.centerface`), 1.8 million parameters. The
public ONNX file loads; of its weights the narrower ones of ``pair`` ship alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proposals.candidates import LANDMARKS
from proposals.detector import DetectorConfig, DetectorNetwork, PyramidDetector, load_detector
from tinygan.models.centerface import COARSEST, PYRAMID, SOURCE, WHITE, WIDTHS, CenterFaceTrunk, widths_of
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

STRIDE = 4
COLUMNS = (1, 2, 2, 2 * LANDMARKS)  # heat, log of height and width, offset in y and x, landmarks; per point
MAX_LOG_SIDE = 8.0  # log(side / stride): a wild answer stays finite


@dataclass(frozen=True, kw_only=True)
class CenterFaceConfig(DetectorConfig):
    """Thresholds, and the closer looks of YuNet.

    Attributes: those of :class:`proposals.detector.DetectorConfig`.
    """

    nms_iou: float = 0.5
    overview_px: int = 256
    zoom: tuple[float, ...] = (1.5, 2.0)
    mirror_unsure: int = 8
    keep: int = 1500


class CenterFaceOutput(NamedTuple):
    """The network's answer for the A points of B pictures, row by row.

    Attributes:
        heat: [B, A], log-odds that this is a face's centre.
        log_sides: [B, A, 2], log of height and width, in strides.
        offsets: [B, A, 2], ``y, x`` of the centre from the middle of the point's cell, in strides.
        landmarks: [B, A, 10], ``y, x`` of five points from the box's upper left corner, in sides of the box.
        width: number of points of a row.
    """

    heat: Tensor
    log_sides: Tensor
    offsets: Tensor
    landmarks: Tensor
    width: int


class CenterFaceNetwork(DetectorNetwork[CenterFaceOutput]):
    """Backbone, pyramid and the last layer, which holds all heads.

    Args:
        widths: number of channels inside each block of the trunk but the first.
    """

    side_step = 2 * COARSEST

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.trunk = CenterFaceTrunk(widths)
        self.heads = nn.Conv2d(PYRAMID, sum(COLUMNS), 1)
        self._absorbed = False

    def forward(self, pictures: Tensor) -> CenterFaceOutput:
        """Judge every point.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float; sides that are no multiples of 32 are padded with
                black at the right and at the bottom.
        """
        below, right = (-side % COARSEST for side in pictures.shape[-2:])
        colours = pictures if self._absorbed else pictures.float() / WHITE
        fine, _ = self.trunk(F.pad(colours, (0, right, 0, below)))
        return self.answer(self.heads(fine))

    @staticmethod
    def answer(said: Tensor) -> CenterFaceOutput:
        """The answer in what the last layer says, [B, 15, H / 4, W / 4]."""
        heat, log_sides, offsets, landmarks = torch.split(said.flatten(2).transpose(1, 2), list(COLUMNS), dim=2)
        return CenterFaceOutput(heat[..., 0], log_sides, offsets, landmarks, said.shape[-1])

    def scores(self, output: CenterFaceOutput) -> Tensor:
        """See :class:`proposals.detector.DetectorNetwork`."""
        return torch.sigmoid(output.heat.float())

    def decode(self, output: CenterFaceOutput, places: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`proposals.detector.DetectorNetwork`."""
        cells = torch.stack([places % output.width, places // output.width], dim=-1)  # [K, 2]
        centres = (cells + 0.5 + output.offsets[:, places].float().flip(-1)) * STRIDE
        sides = output.log_sides[:, places].float().flip(-1).clamp(max=MAX_LOG_SIDE).exp() * STRIDE
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)
        points = output.landmarks[:, places].float()
        inside = points.reshape(*points.shape[:-1], LANDMARKS, 2).flip(-1) * sides[..., None, :]
        return boxes, (boxes[..., None, :2] + inside).flatten(-2)

    @torch.no_grad()
    def deploy(self) -> None:
        """See :class:`proposals.detector.DetectorNetwork`: the first layer takes colours in [0, 255]."""
        self.trunk.first.weight.div_(WHITE)
        self._absorbed = True

    @torch.no_grad()
    def load_weights(self, path: Path) -> None:
        """See :class:`proposals.detector.DetectorNetwork`; the public ONNX file, or tensors of this network's names.

        The trunk takes the form of the weights.
        """
        if path.suffix != ".onnx":
            tensors = load_tensors(path)
            self.trunk = CenterFaceTrunk(widths_of(tensors, "trunk."))
            load_into(self, tensors, path, "CenterFace", f"; or {SOURCE}")
            return
        self.trunk = CenterFaceTrunk()
        heads = self.trunk.load_public(path)
        self.heads.weight.copy_(heads[:, :-1, None, None])
        assert self.heads.bias is not None
        self.heads.bias.copy_(heads[:, -1])


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_centerface(
    config: CenterFaceConfig, weights: Path | None, runtime: Runtime
) -> PyramidDetector[CenterFaceOutput]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no ONNX or PyTorch file, or of another network.
    """
    return load_detector(CenterFaceNetwork(), config, weights, runtime)


ENTRY = Entry(CenterFaceConfig, build_centerface, wanted=f"{SOURCE} (--weights W.onnx)", half=True)

"""RefineFace's feature supervision (Zhang et al. 2019, section 3.4): in training, regions of the pyramid are judged.

The judge of regions is thrown away afterwards; what stays is a backbone whose maps tell faces better.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from proposals.matching import Faces, MatchingConfig, label_boxes

CONV_CHANNELS, FC_FEATURES = 96, (128, 64, 32)
SAMPLING = 2  # samples per side of a cell of RoIAlign
PER_LEVEL, NMS_IOU = 1000, 0.7  # not stated in the paper: how regions are chosen before the best are taken
FIRST_LEVEL, LAST_LEVEL = 2, 7
MIDDLE_SCALE = 2**1.25  # of the two scales of an anchor in strides, 2 and 2 sqrt(2)


class Regions(NamedTuple):
    """R regions of pictures.

    Attributes:
        pictures: int64 [R], the picture of each.
        boxes: float [R, 4], ``x1, y1, x2, y2`` in pixels.
        levels: int64 [R], the level of the pyramid that is asked about each, 2 to 7.
        labels: int64 [R], ``FACE``, ``BACKGROUND`` or ``IGNORED``.
    """

    pictures: Tensor
    boxes: Tensor
    levels: Tensor
    labels: Tensor


class Supervision(nn.Module):
    """Judges regions of the pyramid.

    Args:
        channels: number of channels of the pyramid.
        roi: number of cells per side into which a region is divided.
        form: ``conv``: four 3x3 convolutions and the mean over the cells; ``fc``: four layers without biases.
    """

    def __init__(self, channels: int, roi: int, form: Literal["conv", "fc"]) -> None:
        super().__init__()
        self.roi = roi
        layers: list[nn.Module] = []
        if form == "conv":
            widths = (channels, CONV_CHANNELS, CONV_CHANNELS, CONV_CHANNELS)
            for inputs, outputs in pairwise(widths):
                layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(CONV_CHANNELS, 1, kernel_size=3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        else:
            sizes = (channels * roi * roi, *FC_FEATURES)
            layers.append(nn.Flatten())
            for inputs, outputs in pairwise(sizes):
                layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU(inplace=True)]
            layers.append(nn.Linear(FC_FEATURES[-1], 1, bias=False))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, levels: list[Tensor], regions: Regions) -> Tensor:
        """Logits [R], face against background, of regions of the levels P2 to P7 [B, C, H, W]."""
        seen = levels[0].new_zeros((len(regions.boxes), levels[0].shape[1], self.roi, self.roi), dtype=torch.float32)
        for number, level in enumerate(levels, start=FIRST_LEVEL):
            rows = (regions.levels == number).nonzero()[:, 0]
            if len(rows):
                places = torch.cat([regions.pictures[rows, None].float(), regions.boxes[rows]], dim=1)
                cells = roi_align(level.float(), places, self.roi, 1 / 2**number, SAMPLING, aligned=True)
                seen = seen.index_copy(0, rows, cells)
        logits: Tensor = self.layers(seen)
        return logits[:, 0]


def level_of_size(boxes: Tensor) -> Tensor:
    """The level int64 [N] whose anchors' scale is nearest to that of boxes [N, 4]; not stated in the paper."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3).prod(dim=1).sqrt()
    return (sides / MIDDLE_SCALE).log2().round().clamp(FIRST_LEVEL, LAST_LEVEL).long()


def choose_regions(
    picture: int, boxes: Tensor, scores: Tensor, levels: Tensor, faces: Faces, matching: MatchingConfig, count: int
) -> Regions:
    """The regions of a picture: its faces, and the best boxes that the network found.

    Args:
        picture: number of the picture.
        boxes: float [A, 4], what the network found, ``x1, y1, x2, y2`` in pixels; without gradient.
        scores: float [A], face probabilities.
        levels: int64 [A], the level of each.
        faces: the faces of the picture.
        matching: least IoU of a face, and largest of background.
        count: largest number of regions; faces come first.
    """
    rows = [(levels == level).nonzero()[:, 0] for level in range(FIRST_LEVEL, LAST_LEVEL + 1)]
    best = torch.cat([some[scores[some].topk(min(PER_LEVEL, len(some))).indices] for some in rows])
    wanted = faces.boxes[~faces.ignored][:count]
    others = best[nms(boxes[best], scores[best], NMS_IOU)[: count - len(wanted)]]
    found = torch.cat([wanted, boxes[others]])
    of = torch.cat([level_of_size(wanted), levels[others]])
    return Regions(of.new_full(of.shape, picture), found, of, label_boxes(found, faces, matching))

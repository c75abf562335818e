"""Detectors that know nothing of sizes and tiles, at several sizes or in tiles, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from proposals.views import View, ViewConfig, resize
from tinygan.detections import Detections
from tinygan.proposers import Proposer, best_inside, check_image


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(ViewConfig):
    """What a detector sees of pictures, and which of its boxes count.

    Attributes:
        max_side_px: longer sides of what it sees are shrunk to this, which bounds memory. 0: none is.
    """

    max_side_px: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_side_px < 0:
            raise ValueError(f"max_side_px must be above 0, or 0 for no limit, got {self.max_side_px}")


class Viewed:
    """A detector around which pictures are resized and cut into tiles; its boxes are joined by NMS.

    Args:
        first: what finds faces in each view.
        config: the views.
    """

    def __init__(self, first: Proposer, config: AdapterConfig) -> None:
        self._first, self._config = first, config

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        height, width = image.shape[1:]
        seen = [self._seen(image, view) for view in self._config.views(width, height)]
        found = _joined(seen)
        if len(seen) > 1:
            boxes, scores = torch.from_numpy(found.boxes), torch.from_numpy(found.scores)
            found = found[nms(boxes, scores, self._config.nms_iou).numpy()]
        return best_inside(found, width, height, self._config.keep)

    def _seen(self, image: Tensor, view: View) -> Detections:
        """The boxes of one view that count, with their landmarks, in pixels of the image."""
        part = image[:, view.top : view.bottom, view.left : view.right]
        limit = (self._config.max_side_px or math.inf) / max(part.shape[1:])
        size = [max(1, round(side * min(view.scale, limit))) for side in part.shape[1:]]
        (found,) = self._first.propose([resize(part[None], *size)[0]])
        back = np.array([part.shape[2] / size[1], part.shape[1] / size[0]])
        corner = np.array([view.left, view.top])
        boxes = found.boxes * np.tile(back, 2) + np.tile(corner, 2)
        fields = dict(found.fields)
        if "landmarks" in fields:
            points = fields["landmarks"]
            fields["landmarks"] = points * np.tile(back, points.shape[1] // 2) + np.tile(corner, points.shape[1] // 2)
        kept = view.keeps(torch.from_numpy(boxes), image.shape[2], image.shape[1]).numpy()
        return Detections(boxes, found.scores, fields)[kept]


def _joined(parts: Sequence[Detections]) -> Detections:
    """All rows of several detections of one picture, with the columns that all of those with boxes have."""
    parts = [part for part in parts if len(part)] or [Detections.empty()]
    shared = set.intersection(*(set(part.fields) for part in parts))
    return Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        {name: np.concatenate([part.fields[name] for part in parts]) for name in sorted(shared)},
    )

"""What every first stage is: images in, boxes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from tinygan.boxes import area, clip
from tinygan.detections import Detections


class Proposer(Protocol):
    """A face detector as tinygan sees it."""

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find boxes.

        Args:
            images: uint8 RGB [3, H, W] each, of any sizes.

        Returns:
            One :class:`Detections` an image, by falling score: boxes of some area in pixels of that image and
            inside it. What is found in an image does not depend on the others.

        Raises:
            ValueError: if an image is not uint8 [3, H, W].
        """
        ...


def check_image(image: Tensor) -> None:
    """Refuse what is not an image.

    Raises:
        ValueError: if ``image`` is not uint8 [3, H, W] with at least one pixel.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"expected a uint8 RGB image [3, H, W], got {image.dtype} {list(image.shape)}")


def inside_image(found: Detections, width_px: int, height_px: int, keep: int) -> Detections:
    """The best boxes, cut to the image; those wholly outside it are dropped.

    Args:
        found: in pixels of the image.
        width_px: of the image.
        height_px: of the image.
        keep: at most so many.

    Returns:
        By falling score; every box has some area.
    """
    boxes = clip(found.boxes, width_px, height_px)
    return replace(found, boxes=boxes)[area(boxes) > 0].sorted()[:keep]

"""Which parts of a picture a detector sees, at which size, and which of the boxes found there count.

Two rules make sure that a face is found once. A view at a larger size leaves faces that are large enough in the next
smaller one to that one. A tile leaves faces near its inner borders, which it may see cut, to its neighbour: tiles
overlap by more than such a face.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

WHOLE_SIDE_PX = 48  # a face of this size is found at the smaller of two sizes
OVERVIEW_LEAST_PX = 30  # smaller boxes in an overview are seldom right
MARGIN = 1 / 8  # of the overlap: a box this near to an inner border may be of a face that is cut
SURE_SHARE = 0.9  # two views of a face measure its side to within a tenth
LEAST_SLICE_PX = 64  # smaller tiles would be very many


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """At which sizes and in which parts pictures are searched, and how what is found there is joined.

    Attributes:
        nms_iou: of two boxes with a larger IoU the one with the lower score is dropped.
        keep: number of boxes per image, the best ones, that are kept after NMS.
        scales: factors by which the image is resized; several are detected one by one and merged by NMS. Faces of 48 px
            or more at a smaller scale are looked for there alone.
        slice_px: longer images are searched in square tiles of this side, and, for faces too large for a tile, in tiles
            of larger parts shrunk to this side, and as a whole. 0: there are no tiles.
        slice_overlap: by which share of their side neighbouring tiles overlap.
    """

    nms_iou: float = 0.4
    keep: int = 750
    scales: tuple[float, ...] = (1.0,)
    slice_px: int = 0
    slice_overlap: float = 0.2

    def __post_init__(self) -> None:
        if not self.scales or not positive(self.scales):
            raise ValueError(f"scales are one or more factors above 0, got {self.scales}")
        if not 0 <= self.nms_iou <= 1:
            raise ValueError(f"nms_iou lies in [0, 1], got {self.nms_iou}")
        if not 0 < self.slice_overlap <= 0.5:
            raise ValueError(
                f"slice_overlap lies above 0, or faces would be cut, and is at most 0.5; got {self.slice_overlap}"
            )
        if self.slice_px != 0 and self.slice_px < LEAST_SLICE_PX:
            raise ValueError(f"slice_px must be 0 (no tiles) or at least {LEAST_SLICE_PX}, got {self.slice_px}")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")

    def is_sliced(self, width_px: int, height_px: int) -> bool:
        """Whether an image of this size is searched in tiles."""
        return 0 < self.slice_px < max(width_px, height_px)

    def views(self, width_px: int, height_px: int) -> list[View]:
        """What is searched of an image of this size."""
        if self.is_sliced(width_px, height_px):
            return sliced_views(width_px, height_px, self.scales, self.slice_px, self.slice_overlap)
        return whole_views(width_px, height_px, self.scales)


def positive(values: Sequence[float]) -> bool:
    """Whether all values are finite and above 0."""
    return all(0 < value < math.inf for value in values)


@dataclass(frozen=True)
class View:
    """A part of a picture at some size; pixels are the picture's.

    Attributes:
        left: where it starts.
        top: where it starts.
        right: where it ends, exclusive.
        bottom: where it ends, exclusive.
        scale: factor by which it is resized.
        largest_px: boxes whose longer side has this length or more are left to other views.
        margin_px: boxes nearer than this to an inner border are left to other views.
        smallest_px: boxes whose longer side is shorter are left to other views.
    """

    left: int
    top: int
    right: int
    bottom: int
    scale: float
    largest_px: float = math.inf
    margin_px: float = 0.0
    smallest_px: float = 0.0

    def keeps(self, boxes: Tensor, width_px: int, height_px: int) -> Tensor:
        """Which boxes count.

        Args:
            boxes: ``x1, y1, x2, y2`` [K, 4] in pixels of the picture.
            width_px: the picture's width.
            height_px: the picture's height.

        Returns:
            bool [K].
        """
        sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
        kept = (sides < self.largest_px) & (sides >= self.smallest_px)
        if self.left > 0:
            kept &= boxes[:, 0] >= self.left + self.margin_px
        if self.top > 0:
            kept &= boxes[:, 1] >= self.top + self.margin_px
        if self.right < width_px:
            kept &= boxes[:, 2] <= self.right - self.margin_px
        if self.bottom < height_px:
            kept &= boxes[:, 3] <= self.bottom - self.margin_px
        return kept

    def surely(self) -> View:
        """The same with tighter limits: what it keeps, this one keeps although it measures it a little differently."""
        return replace(self, largest_px=SURE_SHARE * self.largest_px, margin_px=self.margin_px / SURE_SHARE)


def resize(picture: Tensor, height_px: int, width_px: int) -> Tensor:
    """A picture [1, 3, H, W] at another size, bilinear and antialiased; uint8 stays uint8 on CPUs, else it is float."""
    if tuple(picture.shape[-2:]) == (height_px, width_px):
        return picture
    known = picture if picture.device.type == "cpu" else picture.float()  # on CPUs bytes take a tenth of the time
    return F.interpolate(known, (height_px, width_px), mode="bilinear", align_corners=False, antialias=True)


def whole_views(width_px: int, height_px: int, scales: Sequence[float], overviews: Sequence[float] = ()) -> list[View]:
    """The whole picture at several sizes.

    Args:
        width_px: the picture's width.
        height_px: the picture's height.
        scales: factors, in any order.
        overviews: further factors, at which small faces are not looked for.

    Returns:
        One view per factor, in their order.
    """
    every = [*scales, *overviews]
    views = [View(0, 0, width_px, height_px, scale, _largest_px(scale, every)) for scale in every]
    own = len(scales)
    return views[:own] + [replace(view, smallest_px=OVERVIEW_LEAST_PX / view.scale) for view in views[own:]]


def sliced_views(width_px: int, height_px: int, scales: Sequence[float], slice_px: int, overlap: float) -> list[View]:
    """A picture in tiles that overlap, and the whole of it.

    Faces of a tile may be as large as the overlap, less its margins. For larger ones there is another level of tiles,
    which show a larger part of the picture at the same size, and so on; last comes the whole picture.

    Args:
        width_px: the picture's width.
        height_px: the picture's height.
        scales: factors by which tiles are resized further.
        slice_px: side of a tile; the longer side of the whole picture in the last view.
        overlap: of neighbouring tiles, as a share of their side, above 0.

    Returns:
        The views; one if the picture is no larger than a tile.
    """
    longer, views, level = max(width_px, height_px), [], 1.0
    whole_px = slice_px * overlap * (1 - 2 * MARGIN)  # side, in a tile, of a face that some tile sees whole
    while longer * level > slice_px:
        side, margin_px = slice_px / level, slice_px * overlap * MARGIN / level
        for top, bottom in _spans(height_px, side, overlap):
            for left, right in _spans(width_px, side, overlap):
                for scale in scales:
                    largest_px = min(whole_px, _largest_px(scale, scales)) / level
                    views.append(View(left, top, right, bottom, scale * level, largest_px, margin_px))
        level *= min(0.5, WHOLE_SIDE_PX / whole_px)
    return [*views, View(0, 0, width_px, height_px, min(1.0, slice_px / longer))]


def _largest_px(scale: float, scales: Sequence[float]) -> float:
    """Side from which faces are left to the next smaller of the scales."""
    smaller = [other for other in scales if other < scale]
    return WHOLE_SIDE_PX / max(smaller) if smaller else math.inf


def _spans(length_px: int, side_px: float, overlap: float) -> list[tuple[int, int]]:
    """Starts and ends of tiles along one side of a picture, evenly spread, overlapping by at least the given share."""
    if length_px <= side_px:
        return [(0, length_px)]
    count = math.ceil((length_px - side_px) / (side_px * (1 - overlap))) + 1
    starts = torch.linspace(0, length_px - side_px, count, dtype=torch.float64).tolist()
    return [(math.floor(start), min(length_px, math.ceil(start + side_px))) for start in starts]

"""Detections of many images as one set of rows: the step between a table or a list on disk and :class:`Detections`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygan.detections import BoolArray, Detections, FloatArray
from tinygan.errors import DataError
from tinygan.formats.dialect import Order


@dataclass(frozen=True, eq=False)
class Rows:
    """Detections of many images, one box per row, in any order.

    Attributes:
        images: the image name of each of N rows.
        boxes: float64 [N, 4], ``x1, y1, x2, y2`` in pixels.
        scores: float64 [N].
        fields: further columns of N rows each.
        empty: images that are listed without a box.
        order: what the four numbers of a box are in the file.
    """

    images: Sequence[str]
    boxes: FloatArray
    scores: FloatArray
    fields: Mapping[str, npt.NDArray[Any]]
    empty: Sequence[str] = ()
    order: Order = "xywh"

    def kept(self, keep: BoolArray) -> Rows:
        """Those rows that ``keep``, bool [N], says; images that lose all of theirs are listed without a box."""
        if keep.all():
            return self
        images = [image for image, stays in zip(self.images, keep.tolist(), strict=True) if stays]
        fields = {name: column[keep] for name, column in self.fields.items()}
        boxed = set(images)
        empty = [image for image in dict.fromkeys([*self.images, *self.empty]) if image not in boxed]
        return Rows(images, self.boxes[keep], self.scores[keep], fields, empty, self.order)


class GroupedRows(Mapping[str, Detections]):
    """The same detections by image, in the order of the images' first rows; an image's rows keep their order."""

    def __init__(self, rows: Rows) -> None:
        places: dict[str, int] = {}
        image_of_row = np.fromiter((places.setdefault(n, len(places)) for n in rows.images), np.int64, len(rows.images))
        order = np.argsort(image_of_row, kind="stable")
        for name in rows.empty:
            places.setdefault(name, len(places))
        counts = np.bincount(image_of_row, minlength=len(places))
        self.order = rows.order
        self._places = places
        self._ends = np.cumsum(counts).tolist()
        self._starts = (np.cumsum(counts) - counts).tolist()
        self._all = Detections(rows.boxes, rows.scores, rows.fields)[order]

    def __getitem__(self, name: str) -> Detections:
        place = self._places[name]
        return self._all[self._starts[place] : self._ends[place]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def ungroup(detections: Mapping[str, Detections]) -> Rows:
    """One row per box, image after image, each image by falling score; a field that an image lacks is NaN there.

    Raises:
        DataError: if an image has no name, or a field does not hold numbers of one shape in all images.
    """
    if "" in detections:
        raise DataError("an image without a name cannot be written into a table")
    found = {name: item.sorted() for name, item in detections.items()}
    images = [name for name, item in found.items() for _ in range(len(item))]
    boxes = np.concatenate([np.zeros((0, 4)), *(item.boxes for item in found.values())])
    scores = np.concatenate([np.zeros(0), *(item.scores for item in found.values())])
    shapes = {key: column.shape[1:] for item in found.values() for key, column in item.fields.items() if len(item)}
    fields = {key: _join_field(key, shape, found) for key, shape in shapes.items()}
    return Rows(images, boxes, scores, fields, [name for name, item in found.items() if not len(item)])


def _join_field(key: str, shape: tuple[int, ...], found: Mapping[str, Detections]) -> FloatArray:
    parts = [np.zeros((0, *shape))]
    for name, item in found.items():
        column = item.fields.get(key, np.full((len(item), *shape), np.nan))
        if len(item) and (column.shape[1:] != shape or column.dtype.kind not in "biuf"):
            raise DataError(
                f"field '{key}' of image '{name}' cannot be written into a table: expected numbers of shape "
                f"[N{''.join(f', {side}' for side in shape)}], got {column.dtype} {list(column.shape)}"
            )
        parts.append(column.astype(np.float64).reshape(len(item), *shape))
    return np.concatenate(parts)

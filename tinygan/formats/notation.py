"""Boxes as corners, whatever four numbers a file has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinygan.boxes import xywh_to_xyxy, xyxy_to_xywh
from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError
from tinygan.formats import wider
from tinygan.formats.dialect import Dialect, Notation, Order
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.images import Orientation
from tinygan.formats.names import stem
from tinygan.formats.sizes import Size, find_pictures, read_size


def to_corners(numbers: FloatArray, order: Order) -> FloatArray:
    """Corners ``x1, y1, x2, y2`` of boxes.

    Args:
        numbers: float64 [N, 4], in this order.
        order: what the four numbers are.
    """
    if order == "xyxy":
        return numbers
    if order == "xywh":
        return xywh_to_xyxy(numbers)
    half = numbers[:, 2:] / 2
    return np.concatenate([numbers[:, :2] - half, numbers[:, :2] + half], axis=1)


def from_corners(boxes: FloatArray, order: Order) -> FloatArray:
    """The inverse of :func:`to_corners`, float64 [N, 4]."""
    if order == "xyxy":
        return boxes
    if order == "xywh":
        return xyxy_to_xywh(boxes)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def read_as(files: DetectionFiles, notation: Notation, dialect: Dialect) -> DetectionFiles:
    """The same files, their numbers read in another notation.

    Files of pictures that are not there or cannot be read are left out where boxes are parts of a picture's size.

    Args:
        files: the detections as their format reads them.
        notation: what their numbers are.
        dialect: the folder of the pictures, for relative boxes.

    Raises:
        DataError: if boxes are relative and there is no folder, or it holds none of the pictures.
    """
    images = dialect.images
    if not notation.relative:
        return _Renoted(files, notation, None)
    if images is None:
        raise DataError(f"{files.source}: its boxes are parts of a picture's size; give the pictures (--images DIR)")
    pictures = find_pictures(files, images, str(files.source))
    sizes, left_out = _sizes_of(pictures, dialect.orientation)
    left_out |= {name: "not on disk, and its boxes are parts of its size" for name in files if name not in pictures}
    if len(files) and not pictures:
        example = next(iter(files))
        raise DataError(
            f"{files.source}: its boxes are parts of a picture's size, and none of its {len(files)} files "
            f"(such as '{example}') is named like a picture below {images}"
        )
    return _Renoted(files, notation, sizes, left_out)


def _sizes_of(pictures: Mapping[str, Path], orientation: Orientation) -> tuple[dict[str, Size], dict[str, str]]:
    """Sizes of pictures by name, and why that of others is not known."""
    sizes: dict[str, Size] = {}
    problems: dict[str, str] = {}
    for name, picture in pictures.items():
        try:
            sizes[name] = read_size(picture, orientation)
        except DataError as error:
            problems[name] = str(error)
    return sizes, problems


class _Renoted(DetectionFiles):
    """Detection files whose numbers mean something else than their format says."""

    def __init__(
        self,
        files: DetectionFiles,
        notation: Notation,
        sizes: Mapping[str, Size] | None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__({}, files.source, notation.order or files.order)
        self._files, self._sizes = files, sizes
        self.left_out = {**files.left_out, **(left_out or {})}

    def __getitem__(self, name: str) -> Detections:
        if self._sizes is not None and name not in self._sizes:
            raise KeyError(name)
        found = self._files[name]
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                boxes = to_corners(from_corners(found.boxes, self._files.order), self.order)
                if self._sizes is not None:
                    boxes = boxes * np.tile(self._sizes[name], 2)
                return replace(found, boxes=boxes)
        except ValueError as error:
            raise DataError(f"{self.describe(name)}: {error}; got too large a box") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._files if self._sizes is None else [name for name in self._files if name in self._sizes])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def text(self, name: str) -> str:
        is_empty = not self._files.text(name).strip()
        return "" if is_empty else wider.format_detections(stem(name), self[name])

    def stray(self, name: str) -> str | None:
        return self._files.stray(name)

    def describe(self, name: str) -> str:
        return self._files.describe(name)

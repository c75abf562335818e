"""YOLO's text annotations: one file per image, boxes as parts of the image's size.

Parsers are pure (text in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np

from tinygan.detections import GroundTruth
from tinygan.errors import DataError
from tinygan.files import decode, read_bytes
from tinygan.formats.names import list_images, match_names

CLASS_LIST = "classes.txt"
_TOLERANCE = 0.01  # boxes that reach over the border a little
_ROW = "'class cx cy w h', a whole number and four parts of the image's size in [0, 1]"


def parse_yolo(text: str, source: str, size_px: tuple[int, int], classes: Collection[int] | None = None) -> GroundTruth:
    """Read one image's annotation.

    Args:
        text: one line ``class cx cy w h`` per box, in parts of the image's width and height.
        source: path for error messages.
        size_px: width and height of the image.
        classes: the classes that are faces; None takes every box.

    Returns:
        The faces, none invalid.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    boxes = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse_row(line, f"{source}:{number}")
        if classes is None or int(row[0]) in classes:
            boxes.append(row[1:])
    values = np.array(boxes).reshape(-1, 4)
    centre, half = values[:, :2], values[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1) * np.array([*size_px, *size_px])
    return GroundTruth(corners, np.zeros(len(corners), dtype=np.bool_))


def load_yolo(labels: Path, images: Path, classes: Collection[int] | None = None) -> dict[str, GroundTruth]:
    """Read every ``.txt`` of a folder and below; of the images, the headers alone are read.

    A label file belongs to the image with the longest common path suffix. The stored size counts, whatever
    the EXIF orientation says. ``classes.txt`` is passed over.

    Args:
        labels: folder of the annotations.
        images: folder of the images.
        classes: the classes that are faces; None takes every box.

    Returns:
        ``{image name below images: faces}`` of all images; those without a file have no face.

    Raises:
        DataError: if a folder is absent or empty, a line is malformed, a file has no image, or an image
            cannot be read.
    """
    files = [p.relative_to(labels).as_posix() for p in sorted(labels.rglob("*.txt")) if p.name != CLASS_LIST]
    if not files:
        reason = "found none" if labels.is_dir() else "no such folder"
        raise DataError(f"{labels}: expected YOLO annotations (*.txt) in a folder: {reason}")
    names = list_images(images)
    matched = match_names(files, names, str(labels))
    strays = sorted(set(files) - set(matched.values()))
    if strays:
        raise DataError(f"{labels / strays[0]}: expected an image of that name below {images}, as boxes need its size")
    return {
        name: _load_file(labels / matched[name], images / name, classes) if name in matched else GroundTruth.empty()
        for name in names
    }


def _load_file(label: Path, image: Path, classes: Collection[int] | None) -> GroundTruth:
    text = decode(read_bytes(label, "a YOLO annotation"), str(label))
    return parse_yolo(text, str(label), _size_px(image), classes)


def _size_px(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:  # reads the header only
                width, height = image.size
                return width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected an image whose size can be read: {' '.join(str(error).split())}") from error


def _parse_row(line: str, place: str) -> list[float]:
    try:
        row = [float(value) for value in line.split()]
    except ValueError:
        row = []
    is_good = len(row) == 5 and row[0].is_integer() and row[0] >= 0
    if not is_good or not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in row[1:]):
        raise DataError(f"{place}: expected {_ROW}; got '{line.strip()[:200]}'")
    return row

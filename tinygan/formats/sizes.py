"""Sizes of pictures, from their headers alone."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.errors import DataError
from tinygan.formats.names import list_images, match_names

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: width and height change places

Size = tuple[int, int]


def read_size(path: Path) -> Size:
    """Width and height in pixels of the upright picture; of the file, the header alone is read.

    Raises:
        DataError: if the file is absent or no picture.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and damaged EXIF blocks
            with Image.open(path) as image:
                width, height = image.size
                return (height, width) if _is_turned(image) else (width, height)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected an image whose size can be read: {' '.join(str(error).split())}") from error


def find_pictures(names: Iterable[str], folder: Path, source: str) -> dict[str, Path]:
    """``{name: picture}`` of those names that have one below a folder.

    Raises:
        DataError: if the folder holds no picture, or names are ambiguous.
    """
    return {name: folder / file for file, name in match_names(names, list_images(folder), source).items()}


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # Pillow raises many kinds; a damaged EXIF block costs the orientation at most
        return False

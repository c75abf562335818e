"""Sizes of pictures, from their headers alone."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tinygan.errors import DataError
from tinygan.files import refuse_special
from tinygan.formats.names import list_images, match_names

if TYPE_CHECKING:
    from PIL import Image

    from tinygan.formats.images import Orientation

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: width and height change places

_WIDTH, _LENGTH = 256, 257  # of TIFF

LARGE_PIXELS = 4_000_000  # several pictures of more at once would fill memory, and one keeps all cores busy

Item = TypeVar("Item")
Size = tuple[int, int]


def read_size(source: Path | str | bytes, orientation: Orientation = "upright") -> Size:
    """Width and height in pixels; of the file, the header alone is read.

    Args:
        source: a picture's file, or its content.
        orientation: ``upright``, as viewers show it, or ``stored``, whatever the EXIF orientation.

    Raises:
        DataError: if the file is absent or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and damaged EXIF blocks
            if not isinstance(source, bytes):
                refuse_special(Path(source))
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                width, height = _stored_size(image)
                turned = orientation == "upright" and _is_turned(image)
                return (height, width) if turned else (width, height)
    except UnidentifiedImageError as error:  # a kind that needs a plugin, or no picture
        return _decoded_size(source, orientation, error)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise _unreadable(source, error) from error


def is_large(path: Path) -> bool:
    """Whether a picture has more pixels than :data:`LARGE_PIXELS`; one whose size cannot be read has not."""
    try:
        width, height = read_size(path)
    except DataError:
        return False
    return width * height > LARGE_PIXELS


def several_or_large(
    items: Iterable[Item], path_of: Callable[[Item], Path], side_by_side: int
) -> Iterator[tuple[bool, Iterator[Item]]]:
    """Items that follow one another, and whether their pictures may be worked on side by side: none of them is large.

    Args:
        items: what has a picture each.
        path_of: its file; with ``side_by_side`` 1 none is opened.
        side_by_side: how many may be worked on at once.
    """
    return groupby(items, key=lambda item: side_by_side > 1 and not is_large(path_of(item)))


def find_pictures(names: Iterable[str], folder: Path, source: str) -> dict[str, Path]:
    """``{name: picture}`` of those names that have one below a folder.

    Raises:
        DataError: if the folder holds no picture, or names are ambiguous.
    """
    return {name: folder / file for file, name in match_names(names, list_images(folder), source).items()}


def _decoded_size(source: Path | str | bytes, orientation: Orientation, reason: Exception) -> Size:
    from tinygan.formats.images import read_image

    try:
        return read_image(source, orientation).size
    except DataError:
        raise _unreadable(source, reason) from reason


def _unreadable(source: Path | str | bytes, reason: Exception) -> DataError:
    where = "the image in memory" if isinstance(source, bytes) else source
    return DataError(f"{where}: expected an image whose size can be read: {' '.join(str(reason).split())}")


def _stored_size(image: Image.Image) -> Size:
    """Of a TIFF Pillow's size may be that of the picture turned upright, by its version."""
    if image.format != "TIFF":
        return image.size
    tags = cast("Any", image).tag_v2
    return int(tags[_WIDTH]), int(tags[_LENGTH])


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # Pillow raises many kinds; a damaged EXIF block costs the orientation at most
        return False

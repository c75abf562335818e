"""Sizes of pictures, from their headers alone."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from tinygan.errors import IN_MEMORY, DataError, one_line
from tinygan.files import refuse_special
from tinygan.formats.names import list_images, match_names

if TYPE_CHECKING:
    from PIL import Image

    from tinygan.formats.images import Orientation

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: width and height change places

_WIDTH, _LENGTH = 256, 257  # of TIFF

_PNG_SIGNATURE = 8  # bytes before the first chunk
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")

LARGE_PIXELS = 4_000_000  # several pictures of more at once would fill memory, and one keeps all cores busy

Item = TypeVar("Item")
Size = tuple[int, int]


def read_size(source: Path | str | bytes, orientation: Orientation = "upright") -> Size:
    """Width and height in pixels; pictures are not decoded, but for HEIC, and PNG with metadata after the pixels.

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
    where = IN_MEMORY if isinstance(source, bytes) else source
    return DataError(f"{where}: expected an image whose size can be read: {one_line(reason)}")


def _stored_size(image: Image.Image) -> Size:
    """Of a TIFF Pillow's size may be that of the picture turned upright, by its version."""
    if image.format != "TIFF":
        return image.size
    tags = cast("Any", image).tag_v2
    return int(tags[_WIDTH]), int(tags[_LENGTH])


def _is_turned(image: Image.Image) -> bool:
    from PIL import Image

    try:
        if image.format == "PNG" and not _tells_more(cast("Any", image).fp):
            return Image.Image.getexif(image).get(_ORIENTATION) in _TURNED  # PNG's own decodes the pixels
        return image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # Pillow raises many kinds; a damaged EXIF block costs the orientation at most
        return False


def _tells_more(file: BinaryIO) -> bool:
    """Whether chunks that may hold an orientation follow the pixels of a PNG; the file stays where it is."""
    position = file.tell()
    try:
        file.seek(_PNG_SIGNATURE)
        after_pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            after_pixels |= kind == b"IDAT"
            if after_pixels and kind in _PNG_METADATA:
                return True
            file.seek(length + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(position)

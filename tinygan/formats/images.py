"""Reads image files as uint8 RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from tinygan.errors import DataError


def read_image(path: Path) -> Image.Image:
    """Decode an image file.

    EXIF orientation is not applied: WIDER FACE's boxes refer to the stored pixels.

    Args:
        path: a JPEG, PNG or any file Pillow reads.

    Returns:
        A fully decoded RGB image.

    Raises:
        DataError: if the file is absent, truncated, too large (see Pillow's decompression-bomb limit) or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                rgb: Image.Image = image.convert("RGB")
                return rgb
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected a readable image: {reason}") from error

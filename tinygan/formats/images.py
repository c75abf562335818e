"""Reads image files as uint8 RGB."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

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
    return _decode(path, lambda image: image.convert("RGB"))


def read_upright(path: Path) -> Image.Image:
    """Decode an image file as viewers show it: EXIF orientation is applied, 16-bit grey becomes 8-bit.

    Args:
        path: a JPEG, PNG or any file Pillow reads.

    Returns:
        A fully decoded RGB image; of several frames or pages the first, without transparency.

    Raises:
        DataError: in the cases of :func:`read_image`.
    """
    return _decode(path, _as_shown)


def _decode(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return convert(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected a readable image: {reason}") from error


def _as_shown(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # conversion would clip 16 bits at 255
        values = np.asarray(upright, dtype=np.float64)
        upright = Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8))
    return upright.convert("RGB")

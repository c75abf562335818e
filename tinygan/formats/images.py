"""One reader for all pictures: files, bytes, Pillow images, arrays and tensors become upright uint8 RGB.

What is shown counts, by rules that do not depend on who asks:

- *Orientation.* EXIF orientation is applied, as viewers and OpenCV do, unless ``stored`` pixels are asked for.
- *Depth.* 8 bits stay as they are. Samples of more bits are divided by the white of their depth, which their largest
  value tells: the first of 255, 1023, 4095, 16383, 65535, 2^24 - 1, 2^31 - 1 and 2^32 - 1 that is not below it. So 8,
  10, 12 and 14 bits in 16, where cameras leave them right-aligned, are as bright as in 8. Floating-point samples lie in
  0..1 if none is above 1.5, else their white is found in the same way.
- *Thermal pictures.* One channel of more than 8 bits is temperature rather than light if its middle 99 % fill less than
  a quarter of that range, well above black, or if it goes below zero. Its 0.5 and 99.5 % points become black and white.
- *Colour.* Palette, CMYK, grey and 1-bit pictures become RGB. Transparency is dropped and nothing is laid below, as
  OpenCV does. Of several frames or pages the first is read.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tinygan.detections import ByteArray, to_numpy
from tinygan.errors import IN_MEMORY, DataError, one_line
from tinygan.files import is_address, read_address, refuse_special

Orientation = Literal["upright", "stored"]
ORIENTATIONS: tuple[Orientation, ...] = ("upright", "stored")
Picture: TypeAlias = "Path | str | bytes | BinaryIO | Image.Image | npt.ArrayLike"

_WHITES = (255, 1023, 4095, 16383, 65535, 2**24 - 1, 2**31 - 1, 2**32 - 1)
_ORIENTATION_TAG, _BITS_TAG, _PLANES_TAG, _SIGN_TAG = 274, 258, 284, 339
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BACK = {**_TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ROWS = 256  # converted at once, so that memory stays small


class ImageFile(NamedTuple):
    """An image on disk, and how to read it.

    Attributes:
        path: any file that :func:`read_image` reads, its address, or its content.
        orientation: ``upright`` or ``stored``.
    """

    path: Path | str | bytes
    orientation: Orientation = "upright"


def read_image(source: Path | str | bytes | BinaryIO | ImageFile, orientation: Orientation = "upright") -> Image.Image:
    """Decode an image.

    Args:
        source: a file that Pillow reads (with ``pillow-heif``, HEIC too), its address, or its content.
        orientation: ``upright`` applies EXIF orientation; ``stored`` leaves the pixels where the file has them (HEIC is
            upright always). A damaged EXIF block counts as none.

    Returns:
        A fully decoded RGB image; see the rules of this module.

    Raises:
        DataError: if the file is absent, damaged, too large (see :func:`allow_pixels`) or no image.
    """
    if isinstance(source, ImageFile):
        source, orientation = source
    where = str(source) if isinstance(source, Path | str) else IN_MEMORY
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata, and pictures of half the limit
            return _read(source, orientation)
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such image") from error
    except Image.DecompressionBombError as error:
        hint = "if you trust it, lift the limit with --max-pixels N (from Python: PIL.Image.MAX_IMAGE_PIXELS)"
        raise DataError(f"{where}: {one_line(error)}; {hint}") from error
    except Exception as error:  # whatever a damaged file makes of a decoder costs that file alone
        raise DataError(f"{where}: expected a readable image: {one_line(error)}") from error


def to_picture(image: Picture, orientation: Orientation = "upright") -> Image.Image:
    """An upright RGB picture of anything that holds one.

    Args:
        image: a file or its content; a Pillow image, as it is; or an array or tensor, [H, W], [H, W, 1], [H, W, 3] or
            [H, W, 4] (torch's: [C, H, W]) of any number type, with channels in the order R, G, B (, alpha).
        orientation: how files are turned, see :func:`read_image`.

    Raises:
        DataError: if it cannot be read, or is no picture.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, Path | str | bytes) or hasattr(image, "read"):
        return read_image(cast("Path | str | bytes | BinaryIO", image), orientation)
    first = hasattr(image, "detach")  # a tensor of torch, whose channels come first
    try:
        pixels = to_numpy(image)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"expected a picture: a file, a Pillow image or an array; got {type(image).__name__}"
        ) from error
    if first and pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    return Image.fromarray(_array_to_rgb(pixels))


def allow_pixels(most: int | None) -> None:
    """Let this process read images of up to so many pixels; for commands alone, as the limit is Pillow's own.

    Args:
        most: pixels per image; ``None`` leaves Pillow's limit against decompression bombs, 179 million.
    """
    if most is not None:
        Image.MAX_IMAGE_PIXELS = -(-most // 2)  # Pillow warns beyond this and refuses beyond twice this


def _read(source: Path | str | bytes | BinaryIO, orientation: Orientation) -> Image.Image:
    if isinstance(source, str) and is_address(source):
        source = read_address(source)
    if not isinstance(source, Path | str):
        if not isinstance(source, bytes) and source.seekable():
            source.seek(0)
        source = io.BytesIO(source if isinstance(source, bytes) else source.read())
    else:
        refuse_special(Path(source))
    try:
        with _open(source) as image:
            picture, turn = _decode(image, source, orientation)
            return picture if turn is None else picture.transpose(turn)
    except (OSError, SyntaxError, ValueError) as error:
        if _head(source).startswith((b"II*\0", b"MM\0*")):
            try:
                return _read_tiff(source, orientation)
            except Image.DecompressionBombError:
                raise
            except Exception:  # what Pillow says of it is told instead
                raise error from None
        raise


def _decode(
    image: Image.Image, source: Path | str | BinaryIO, orientation: Orientation
) -> tuple[Image.Image, Image.Transpose | None]:
    """The RGB picture, and how it is to be turned."""
    tags = cast("Any", image).tag_v2 if image.format == "TIFF" else {}
    if image.mode in ("RGB", "RGBA") and max(tags.get(_BITS_TAG, (8,))) > 8:
        try:
            return _read_tiff(source, orientation), None
        except Exception:  # without imagecodecs it knows few compressions
            if tags.get(_PLANES_TAG) == 2:  # which Pillow misreads
                raise
    low_mode = _low_mode(image)
    noted = _orientation(image) if tags else 1  # other formats decode the picture to find it
    image.load()
    left = _orientation(image)
    picture = _with_low_bytes(image, source, low_mode) if low_mode else to_rgb(image)
    if orientation == "upright":
        return picture, _TURNS.get(left)
    # Pillow turns a TIFF of its own accord and deletes the tag.
    return picture, _TURNS_BACK.get(noted) if left != noted else None


def _open(source: Path | str | BinaryIO) -> Image.Image:
    try:
        return Image.open(source)
    except UnidentifiedImageError as error:
        head = _head(source)
        if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
            raise ValueError("reading AVIF needs Pillow 11.3 or newer: pip install -U pillow") from error
        if head[4:8] != b"ftyp" or head[8:12] not in _HEIC_BRANDS:
            raise ValueError(f"starts with {head[:8]!r}, which is no image that Pillow knows") from error
        try:
            from pillow_heif import register_heif_opener
        except ImportError as missing:
            raise ValueError("reading HEIC needs pillow-heif: pip install 'tinygan[heic]'") from missing
        register_heif_opener()
        return Image.open(source)


def _head(source: Path | str | BinaryIO) -> bytes:
    if isinstance(source, Path | str):
        with open(source, "rb") as file:
            return file.read(16)
    source.seek(0)
    return source.read(16)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # EXIF may be damaged in any way; a picture without orientation is upright
        return 1


def _low_mode(image: Image.Image) -> str | None:
    """How to decode the low bytes of 16-bit colours in a PNG, of which Pillow keeps the high ones; else ``None``."""
    raw = cast("Any", image).tile[0][3] if image.format == "PNG" and cast("Any", image).tile else ""
    return {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}.get(raw)


def _with_low_bytes(image: Image.Image, source: Path | str | BinaryIO, low_mode: str) -> Image.Image:
    """A decoded picture of 16-bit colours as 8 bits; the low bytes are read if the high ones hold little or nothing."""
    if max(high for _, high in cast("list[tuple[int, int]]", image.getextrema())[:3]) > _WHITES[3] >> 8:
        return to_rgb(image)
    with _open(source) as again:
        file = cast("Any", again)
        tile = (*file.tile[0][:3], low_mode)
        file.tile = [type(file.tile[0])(*tile) if hasattr(file.tile[0], "_fields") else tile]
        file.load()
        high, low = (np.asarray(part, dtype=np.uint16)[..., :3] for part in (image, again))
    return Image.fromarray(_array_to_rgb(high << 8 | low))


def _read_tiff(source: Path | str | BinaryIO, orientation: Orientation) -> Image.Image:
    """A TIFF that Pillow cannot read: several channels of floating-point numbers, separate planes and the like."""
    from tifffile import TiffFile

    if not isinstance(source, Path | str):
        source.seek(0)
    with TiffFile(source) as file:
        page = file.pages.first
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and page.imagewidth * page.imagelength > 2 * most:
            raise Image.DecompressionBombError(f"{page.imagewidth} x {page.imagelength} pixels exceed {2 * most}")
        pixels = page.asarray()
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        turn = page.tags.get(_ORIENTATION_TAG)
    picture = Image.fromarray(_array_to_rgb(pixels))
    method = _TURNS.get(int(turn.value)) if turn is not None and orientation == "upright" else None
    return picture if method is None else picture.transpose(method)


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as 8-bit RGB, by the rules of this module; EXIF orientation is not applied."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "I" and image.format == "TIFF" and 1 in cast("Any", image).tag_v2.get(_SIGN_TAG, (1,)):
            values = values.view(np.uint32)  # Pillow reads them as signed
        return Image.fromarray(_array_to_rgb(values))
    if image.mode in ("P", "PA", "La", "RGBa"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _array_to_rgb(pixels: npt.NDArray[Any]) -> ByteArray:
    """uint8 [H, W, 3] of an array as of :func:`to_picture`.

    Raises:
        DataError: if it is no picture.
    """
    shape = list(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size or pixels.dtype.kind not in "buif":
        hint = "; move the channels last" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        raise DataError(
            f"expected a picture, numbers of shape [H, W], [H, W, 3] or [H, W, 4], got {pixels.dtype} {shape}{hint}"
        )
    colours = _to_bytes(pixels[..., :3])
    return cast("ByteArray", np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3))))


def _to_bytes(values: npt.NDArray[Any]) -> ByteArray:
    """Samples of any number type [H, W, C] as uint8; see the rule of depth of this module."""
    if values.dtype == np.uint8:
        return cast("ByteArray", values)
    if values.dtype == np.bool_:
        return cast("ByteArray", values * np.uint8(255))
    black, white = _black_and_white(values)
    result = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = np.nan_to_num(values[start : start + _ROWS].astype(np.float64), nan=black, posinf=white, neginf=black)
        result[start : start + _ROWS] = np.clip((rows - black) * (255 / (white - black)), 0, 255).round()
    return result


def _black_and_white(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The values that are shown as black and as white."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    least, most, real = float(known.min()), float(known.max()), values.dtype.kind == "f"
    slack = 1.2 if real else 1.0  # interpolation overshoots
    white = 1.0 if real and most <= 1.5 else next((float(white) for white in _WHITES if most <= slack * white), most)
    if values.shape[2] > 1:
        if least < -white / 20 or least < -most / 4:
            raise DataError(
                f"expected a picture with samples from 0 up, got {least:.3g} to {most:.3g}; give it as it was before "
                "it was normalised for a network"
            )
        return 0.0, white
    low, high = (float(point) for point in np.percentile(known[:: 1 + known.size // 1_000_000], (0.5, 99.5)))
    narrow = high - low < white / 4 and not 0 <= low <= white / 16
    thermal = narrow or least < -white / 20
    return (low, high) if thermal and low < high else (0.0, white)

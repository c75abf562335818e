"""From boxes to patches: how much a crop shows, which crops go through the generator, cutting, and LR copies."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter

from tinygan.boxes import area, clip, longer_side, square_crops
from tinygan.detections import BoolArray, ByteArray, FloatArray, IntArray

PART_PIXELS, PART_SHARE = 5_000, 0.3  # what a copy of a part costs: in pixels of a copy of it all, and per pixel
COPIED_PIXELS = 4_000_000  # of a larger image parts alone are copied: all of it takes as long, and thrice its memory
SCALE = 4  # the generator's two x2 deconvolutions (Bai et al. 2018, Table 1)
# With these instructions torch resizes bytes two to three times as fast as Pillow, on the calling thread alone.
FAST_RESIZING = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How a region of interest becomes a patch.

    Attributes:
        lr_size: side of the generator's input in pixels; its output has 4x that. Not stated in the paper.
        context: side of the square crop, as a factor on the box's longer side. Not stated in the paper, which leaves
            "adding the context" to future work (section 4.5); hence 1 in preset ``paper``.
        route_px: largest side, in source pixels, of the crops that are super-resolved before the discriminator sees
            them; larger crops are resized to ``hr_size`` (bicubic). Default: 1.5 x ``lr_size``; 0: none is
            super-resolved; ``.inf``: all are (the paper), shrunk to ``lr_size`` first.
        wide_context: side of a second crop around the same box, as a factor on the box's longer side. It is the input
            of the discriminator's second tower, the ``surroundings`` of
            :class:`~tinygan.models.discriminator.DiscriminatorConfig`. Not in the paper.
        wide_size: side of the patch that is made of the second crop, in pixels.
        paired_size: side, in pixels, of the patches that pairs are made of, as they are kept during training; for
            ``batches.lr_sizes`` above ``lr_size``. Default: ``hr_size``. Not in the paper.
    """

    lr_size: int = 16
    context: float = 2.0  # Differs from the paper: 1
    route_px: float | None = None  # Differs from the paper: inf
    wide_context: float = 4.0
    wide_size: int = 96
    paired_size: int | None = None

    def __post_init__(self) -> None:
        if self.lr_size < 4:
            raise ValueError(f"lr_size must be at least 4 px, got {self.lr_size}")
        if self.paired_size is not None and self.paired_size < self.hr_size:
            raise ValueError(f"paired_size must be at least hr_size = {self.hr_size} px, got {self.paired_size}")
        if not 0.5 <= self.context <= 8:
            raise ValueError(f"context must lie in [0.5, 8], got {self.context}")
        if self.route_px is not None and self.route_px < 0:
            raise ValueError(f"route_px must not be negative, got {self.route_px}")
        if not 0.5 <= self.wide_context <= 16:
            raise ValueError(f"wide_context must lie in [0.5, 16], got {self.wide_context}")
        if self.wide_size < 32:
            raise ValueError(f"wide_size must be at least 32 px, got {self.wide_size}")

    @property
    def hr_size(self) -> int:
        """Side of high-resolution patches in pixels."""
        return SCALE * self.lr_size

    def through_generator(self, sides_px: FloatArray) -> BoolArray:
        """Which crops the judge sees super-resolved, bool [N], by their sides in source pixels, float64 [N]."""
        return self.is_small(sides_px) if self.route_px is None else sides_px <= self.route_px

    def is_small(self, sides_px: FloatArray) -> BoolArray:
        """Which crops the generator was made for, bool [N], by their sides in source pixels, float64 [N]."""
        return sides_px <= 1.5 * self.lr_size

    def squares(self, boxes: FloatArray, width_px: int, height_px: int) -> FloatArray:
        """The square crops of proposals, float64 [N, 4].

        Boxes are clipped to the image first, so that even a box far beyond it gives a crop of bounded size.
        """
        return square_crops(inside_image(boxes, width_px, height_px), self.context)

    def wide_squares(self, boxes: FloatArray, width_px: int, height_px: int) -> FloatArray:
        """The square crops that show the surroundings of proposals, float64 [N, 4]; see :meth:`squares`."""
        return square_crops(inside_image(boxes, width_px, height_px), self.wide_context)


@dataclass(frozen=True, kw_only=True)
class DegradationConfig:
    """How a low-resolution copy is made from a high-resolution patch.

    Attributes:
        kind: ``bicubic`` (the paper); ``wild``, which adds blur, noise and JPEG at random; or ``second_order``, which
            blurs, resizes, adds noise and compresses at random, all twice (Wang et al. 2021, Real-ESRGAN).
        blur_px: largest Gaussian radius, in high-resolution pixels.
        noise: largest standard deviation of additive noise, on a scale of [0, 255].
        jpeg_quality: lowest JPEG quality.
        clean: share of the copies that are made by bicubic resizing alone, whatever ``kind`` says.
    """

    kind: Literal["bicubic", "wild", "second_order"] = "bicubic"
    blur_px: float = 2.0
    noise: float = 6.0
    jpeg_quality: int = 40
    clean: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.clean <= 1:
            raise ValueError(f"clean is a share in [0, 1], got {self.clean}")


def inside_image(boxes: FloatArray, width_px: float, height_px: float) -> FloatArray:
    """Boxes with their corners in order, clipped to the image; shape [N, 4] is kept."""
    return clip(np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4), width_px, height_px)


class Source:
    """An RGB image that regions are cut from, and what many of them share: its pixels, and halved copies.

    Args:
        image: the image.
    """

    def __init__(self, image: Image.Image) -> None:
        self._halved = [image]  # each half as wide and high as the one before
        self._pixels = dict[int, ByteArray]()
        self._wanted = dict[int, float]()  # what copies of parts cost, in pixels of a copy of it all

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        return self._halved[0].width

    @property
    def height(self) -> int:
        """Of the image, in pixels."""
        return self._halved[0].height

    def halved(self, times: int) -> Image.Image:
        """The image, halved so many times."""
        while len(self._halved) <= times:
            self._halved.append(self._halved[-1].reduce(2))
        return self._halved[times]

    def window(self, times: int, left: int, top: int, right: int, bottom: int) -> ByteArray:
        """A part of the image, halved so many times, reflected beyond the border: uint8 [H, W, 3]."""
        image = self.halved(times)
        if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
            return self._part(times, left, top, right, bottom)
        rows, columns = _reflected(top, bottom, image.height), _reflected(left, right, image.width)
        first_row, first_column = int(rows.min()), int(columns.min())
        inside = self._part(times, first_column, first_row, int(columns.max()) + 1, int(rows.max()) + 1)
        return inside.take(rows - first_row, 0).take(columns - first_column, 1)

    def expect(self, times: IntArray, areas: FloatArray) -> None:
        """Say which parts will be cut: once copies of all parts so far cost more, all of the image is copied instead.

        Args:
            times: int64 [N], how often the image is halved for each.
            areas: float64 [N], in pixels of that halved image.
        """
        for level in set(times.tolist()):
            chosen = areas[times == level]
            wanted = self._wanted.get(level, 0.0)
            self._wanted[level] = wanted + PART_PIXELS * len(chosen) + PART_SHARE * float(chosen.sum())

    def _part(self, times: int, left: int, top: int, right: int, bottom: int) -> ByteArray:
        """A part inside the image, halved so many times, uint8 [H, W, 3]; writable, as torch wants it."""
        if times not in self._pixels:
            image = self.halved(times)
            pixels = image.width * image.height
            if self._wanted.get(times, 0.0) < pixels or pixels > COPIED_PIXELS:
                return np.array(image.crop((left, top, right, bottom)))
            self._pixels[times] = np.array(image)
        return self._pixels[times][top:bottom, left:right]


def _reflected(start: int, stop: int, count: int) -> IntArray:
    """The places from ``start`` to ``stop``, int64 [N], where those beyond [0, count) are reflected at the border."""
    place = np.arange(start, stop) % (2 * count)
    return np.minimum(place, 2 * count - 1 - place)


def cut_patch(image: Image.Image, square: FloatArray, size_px: int) -> ByteArray:
    """Cut one square out of an image and resize it (bicubic, antialiased).

    Beyond its border the image is reflected.

    Args:
        image: the RGB image.
        square: float64 [4], ``x1, y1, x2, y2`` in pixels; may reach beyond the image.
        size_px: side of the patch in pixels.

    Returns:
        uint8 [size_px, size_px, 3].
    """
    return _cut_patch(Source(image), square, size_px)


def cut_stack(image: Image.Image, squares: FloatArray, size_px: int) -> ByteArray:
    """Patches uint8 [N, size_px, size_px, 3] of all squares, float64 [N, 4]; see :func:`cut_patch`."""
    source = Source(image)
    patches = np.zeros((len(squares), size_px, size_px, 3), np.uint8)
    for patch, square in zip(patches, squares, strict=True):
        patch[:] = _cut_patch(source, square, size_px)
    return patches


def _cut_patch(source: Source, square: FloatArray, size_px: int) -> ByteArray:
    """A square that shrinks to half or less is taken from a halved copy, in which it is still as large as the patch.

    In the mean of photographs this differs by about one grey level from shrinking the image itself, and takes a third
    of the time.
    """
    times = _halvings(square[2:] - square[:2], size_px)[0]
    image, (x1, y1, x2, y2) = source.halved(times), (square / 2**times).tolist()
    if x1 < 0 or y1 < 0 or x2 > image.width or y2 > image.height:
        left, top = math.floor(x1), math.floor(y1)
        image = Image.fromarray(source.window(times, left, top, math.ceil(x2), math.ceil(y2)))
        x1, y1, x2, y2 = x1 - left, y1 - top, x2 - left, y2 - top
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=(x1, y1, x2, y2)))


def _halvings(sides_px: FloatArray, size_px: IntArray | int) -> IntArray:
    """How often the image is halved before squares with these sides are cut, int64 [N]."""
    times: IntArray = np.log2(np.maximum(sides_px / size_px, 1.0)).astype(np.int64)
    return times


@dataclass(frozen=True)
class Cut:
    """Patches of N + M regions of one image, as the judge takes them.

    Attributes:
        small: uint8 [N, s, s, 3], crops that go through the generator.
        large: uint8 [M, S, S, 3], crops that go straight to the discriminator.
        wide: uint8 [N + M, W, W, 3], surroundings of ``small``, then of ``large``; [0, W, W, 3] if they were not cut.
        is_small: bool [N + M], which regions are in ``small``, in the order of the boxes.
        anchors: float64 [N + M, 4], what the judge says where faces are by, in the order of the boxes: squares with the
            longer sides of the boxes, but for the half pixel that makes patches be of whole pixels.
    """

    small: ByteArray
    large: ByteArray
    wide: ByteArray
    is_small: BoolArray
    anchors: FloatArray

    @classmethod
    def empty(cls, crops: CropConfig) -> Cut:
        """Patches of no region."""
        sizes = (crops.lr_size, crops.hr_size, crops.wide_size)
        small, large, wide = (np.zeros((0, size, size, 3), np.uint8) for size in sizes)
        return cls(small, large, wide, np.zeros(0, np.bool_), np.zeros((0, 4)))


def cut_regions(image: Image.Image | Source, boxes: FloatArray, crops: CropConfig, wide: bool) -> Cut:
    """Cut the regions around boxes.

    Args:
        image: the RGB image; as a source, if it is cut from more than once.
        boxes: float64 [N, 4], in pixels of the image.
        crops: the sizes of patches, and which crops go through the generator.
        wide: whether to cut the surroundings too.
    """
    source = image if isinstance(image, Source) else Source(image)
    squares = crops.squares(boxes, image.width, image.height)
    is_small = crops.through_generator(longer_side(squares))
    around = crops.wide_squares(boxes, image.width, image.height)
    squares, around = _whole(squares, around, np.where(is_small, crops.lr_size, crops.hr_size), crops.wide_size)
    order = np.concatenate([np.flatnonzero(is_small), np.flatnonzero(~is_small)])
    groups = [
        (squares[is_small], crops.lr_size),
        (squares[~is_small], crops.hr_size),
        (around[order] if wide else around[:0], crops.wide_size),
    ]
    for some, size_px in groups:
        times = _halvings(longer_side(some), size_px)
        source.expect(times, area(some) / 4.0**times)
    small, large, surroundings = (_cut_whole(source, some, size_px) for some, size_px in groups)
    return Cut(small, large, surroundings, is_small, anchors=square_crops(squares, 1 / crops.context))


def _whole(squares: FloatArray, around: FloatArray, sizes_px: IntArray, wide_px: int) -> tuple[FloatArray, FloatArray]:
    """The nearest squares of whole pixels, of the halved copies that they are cut from, with their centres in common.

    Whole pixels are cut in half of the time, and the judge need not see a box where it is to a tenth of a pixel, as
    long as it is known what it sees.

    Args:
        squares: float64 [N, 4].
        around: float64 [N, 4], larger squares with the same centres.
        sizes_px: int64 [N], sides of the patches that are made of ``squares``.
        wide_px: that of the patches that are made of ``around``.
    """
    centre, side, wide = (squares[:, :2] + squares[:, 2:]) / 2, longer_side(squares), longer_side(around)
    step = 2.0 ** np.maximum(_halvings(side, sizes_px), _halvings(wide, wide_px))
    side = step * np.maximum(np.rint(side / step), 1)
    low = step[:, None] * np.floor((centre - side[:, None] / 2) / step[:, None] + 0.5)
    more = step * np.rint((wide - side) / (2 * step))  # on each side
    more = np.maximum(more, step * np.ceil((step - side) / (2 * step)))  # if smaller than the square: a pixel at least
    return (
        np.concatenate([low, low + side[:, None]], axis=1),
        np.concatenate([low - more[:, None], low + (side + more)[:, None]], axis=1),
    )


def _cut_whole(source: Source, squares: FloatArray, size_px: int) -> ByteArray:
    """Patches uint8 [N, size_px, size_px, 3] of squares of whole pixels, float64 [N, 4]."""
    patches = np.zeros((len(squares), size_px, size_px, 3), np.uint8)
    times = _halvings(squares[:, 2] - squares[:, 0], size_px)
    corners = np.rint(squares / 2.0 ** times[:, None]).astype(np.int64)
    for patch, halvings, (left, top, right, bottom) in zip(patches, times.tolist(), corners.tolist(), strict=True):
        _resize(source.window(halvings, left, top, right, bottom), patch)
    return patches


def _resize(pixels: ByteArray, patch: ByteArray) -> None:
    """Write pixels, uint8 [H, W, 3], into a patch, uint8 [S, S, 3] (bicubic, antialiased).

    torch and Pillow differ by a grey level. ``interpolate`` would give the patch in another layout, and take three
    times as long.
    """
    if FAST_RESIZING:
        picture, out = (torch.from_numpy(array).permute(2, 0, 1)[None] for array in (pixels, patch))
        torch.ops.aten._upsample_bicubic2d_aa.out(picture, patch.shape[:2], False, out=out)
    else:
        patch[:] = np.asarray(Image.fromarray(pixels).resize(patch.shape[:2], Image.Resampling.BICUBIC))


def make_lr(hr: ByteArray, config: DegradationConfig, rng: np.random.Generator) -> ByteArray:
    """The low-resolution copy of a patch, 4x smaller.

    Args:
        hr: uint8 [S, S, 3].
        config: whether the copy is made by bicubic resizing alone, or also blurred, noisy and compressed.
        rng: random generator of the degradations.

    Returns:
        uint8 [S / 4, S / 4, 3].
    """
    image = Image.fromarray(hr)
    size = (hr.shape[1] // SCALE, hr.shape[0] // SCALE)
    if config.kind == "bicubic" or (config.clean and rng.random() < config.clean):
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    if config.kind == "second_order":
        return np.asarray(_degrade_twice(image, size, config, rng))
    if rng.random() < 0.5:
        image = _blurred(image, config.blur_px, rng)
    image = image.resize(size, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = _noisy(image, config.noise, rng)
    if rng.random() < 0.5:
        image = _compressed(image, config.jpeg_quality, rng)
    return np.asarray(image)


def resize_patches(patches: ByteArray, side_px: int) -> ByteArray:
    """Patches uint8 [N, S, S, 3] resized to [N, side_px, side_px, 3] (bicubic, antialiased)."""
    if patches.shape[1] == side_px:
        return patches
    resized = np.zeros((len(patches), side_px, side_px, 3), np.uint8)
    for small, patch in zip(resized, patches, strict=True):
        small[:] = np.asarray(Image.fromarray(patch).resize((side_px, side_px), Image.Resampling.BICUBIC))
    return resized


def _degrade_twice(
    image: Image.Image, size: tuple[int, int], config: DegradationConfig, rng: np.random.Generator
) -> Image.Image:
    """Blur, resize, noise and JPEG at random, by way of a picture of a size in between; then all once more, weaker."""
    between = rng.uniform(1, SCALE)  # times the final size; the blur of the second round is that of its pixels
    steps = ((between, config.blur_px), (1.0, config.blur_px * between / SCALE / 2))
    for factor, blur_px in steps:
        if rng.random() < 0.6:
            image = _blurred(image, blur_px, rng)
        kernel = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX)[rng.integers(3)]
        image = image.resize((round(size[0] * factor), round(size[1] * factor)), kernel)
        if rng.random() < 0.5:
            image = _noisy(image, config.noise, rng)
        if rng.random() < 0.5:
            image = _compressed(image, config.jpeg_quality, rng)
    return image


def _blurred(image: Image.Image, largest_px: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, largest_px)))


def _noisy(image: Image.Image, largest: float, rng: np.random.Generator) -> Image.Image:
    noise = rng.normal(0, rng.uniform(0, largest), (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).round().astype(np.uint8))


def _compressed(image: Image.Image, lowest_quality: int, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(lowest_quality, 96)))
    return Image.open(buffer).convert("RGB")


def upscale(lr: ByteArray) -> ByteArray:
    """Bicubic 4x upscaling (by Pillow, as in :func:`make_lr`): the baseline that super-resolution has to beat.

    Args:
        lr: uint8 [s, s, 3].

    Returns:
        uint8 [4s, 4s, 3].
    """
    size = (lr.shape[1] * SCALE, lr.shape[0] * SCALE)
    return np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))

"""Patches on disk: all regions of interest are cut once, so that training never decodes an image twice.

Three streams, by the side of the crop in source pixels:

========  ====================  ===========  ==============================================
stream    crop                  patch        used as
========  ====================  ===========  ==============================================
paired    >= hr_size            hr_size      HR truth, and its own 4x smaller LR copy
small     <= ``route_px``       lr_size      wild: goes through the generator
medium    between               hr_size      wild: goes straight to the discriminator
========  ====================  ===========  ==============================================

How large a crop must be for its picture to be the truth is not stated in the paper. There are no wild patches in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinygan.boxes import encode_boxes, longer_side
from tinygan.concurrency import ordered_map
from tinygan.data.cutting import CropConfig, cut_stack, inside_image
from tinygan.data.rois import FACE, Rois
from tinygan.data.store import Layout, Rows, Unreadable, open_store
from tinygan.detections import ByteArray, FloatArray, IntArray
from tinygan.errors import DataError
from tinygan.formats.images import read_image

PAIRED, SMALL, MEDIUM = "paired", "small", "medium"
STREAMS = (PAIRED, SMALL, MEDIUM)


@dataclass(frozen=True)
class Patches:
    """One stream of patches.

    Attributes:
        pixels: uint8 [N, S, S, 3], RGB; may be a memory map.
        labels: int64 [N], 1 face, 0 non-face.
        sides_px: float64 [N], sides of the crops in source pixels.
        targets: float64 [N, 4], the face that overlaps the proposal most, ``x1, y1, x2, y2`` relative to the proposal's
            centre, in units of its longer side; NaN where there is none.
    """

    pixels: ByteArray
    labels: IntArray
    sides_px: FloatArray
    targets: FloatArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PatchSource:
    """An image to cut patches from.

    Attributes:
        path: the image file.
        rois: labelled boxes; ``None`` for a picture of one centred face.
        centre_share: side of the face in a picture of one centred face, as a share of the picture's shorter side, in
            (0, 1]; unused if ``rois`` are given.
    """

    path: Path
    rois: Rois | None
    centre_share: float = 0.5


def patch_size(stream: str, crops: CropConfig) -> int:
    """Side of a stream's patches in pixels, as they are kept."""
    if stream == PAIRED and crops.paired_size is not None:
        return crops.paired_size
    return crops.lr_size if stream == SMALL else crops.hr_size


def stream_of(side_px: float, crops: CropConfig) -> str:
    """The stream of a crop, by its side in source pixels."""
    if side_px >= crops.hr_size:
        return PAIRED  # even if ``route_px`` sends crops of this size through the generator
    return SMALL if crops.through_generator(np.array([side_px]))[0] else MEDIUM


def build_patches(
    sources: Iterable[PatchSource],
    crops: CropConfig,
    folder: Path,
    fingerprint: str,
    streams: Sequence[str] = STREAMS,
) -> tuple[dict[str, Patches], list[str]]:
    """Cut all patches into ``folder``, or open those that an earlier run with this fingerprint left there.

    Args:
        sources: images and their regions; not iterated over if the patches are there already.
        crops: the sizes of patches, and which crops go through the generator.
        folder: folder in which the patches are kept.
        fingerprint: a hash of everything that the patches depend on.
        streams: names of the streams that are needed.

    Returns:
        The patches by stream, and one line per image that could not be read.
    """
    layouts: dict[str, Layout] = {}
    for stream in streams:
        size = patch_size(stream, crops)
        layouts[f"{stream}_pixels"] = Layout(np.uint8, (size, size, 3))
        layouts |= {f"{stream}_labels": Layout(np.int64), f"{stream}_sides_px": Layout(np.float64)}
        layouts[f"{stream}_targets"] = Layout(np.float64, (4,))
    workers = os.cpu_count() or 1
    cuts = ordered_map(lambda source: cut_streams(source, crops, streams), sources, workers, 4 * workers)
    arrays, unreadable = open_store(folder, fingerprint, layouts, cuts)
    columns = ("pixels", "labels", "sides_px", "targets")
    return {name: Patches(*(arrays[f"{name}_{column}"] for column in columns)) for name in streams}, unreadable


def cut_streams(source: PatchSource, crops: CropConfig, streams: Sequence[str]) -> Rows | Unreadable:
    """The patches of one image, as :func:`build_patches` stores them."""
    try:
        image = read_image(source.path)
        squares, labels, targets = _squares(source, image, crops)
        sides_px = longer_side(squares)
        kinds = np.array([stream_of(side_px, crops) for side_px in sides_px.tolist()], np.str_)
        rows: dict[str, npt.NDArray[Any]] = {}
        for stream in streams:
            members = kinds == stream
            rows[f"{stream}_pixels"] = cut_stack(image, squares[members], patch_size(stream, crops))
            rows[f"{stream}_labels"], rows[f"{stream}_sides_px"] = labels[members], sides_px[members]
            rows[f"{stream}_targets"] = targets[members]
    except DataError as error:
        return Unreadable(str(error))
    return rows


def _squares(source: PatchSource, image: Image.Image, crops: CropConfig) -> tuple[FloatArray, IntArray, FloatArray]:
    """Crops, float64 [N, 4] in pixels, their labels, int64 [N], and targets, float64 [N, 4]."""
    rois = source.rois
    if rois is not None:
        squares = crops.squares(rois.boxes, image.width, image.height)
        anchors = inside_image(rois.boxes, image.width, image.height)
        return squares, rois.labels, encode_boxes(rois.targets, anchors)
    side = min(image.size) * source.centre_share
    centre = np.array([image.width, image.height, image.width, image.height]) / 2
    squares = (centre + np.array([-0.5, -0.5, 0.5, 0.5]) * side)[None]
    return squares, np.array([FACE]), np.full((1, 4), np.nan)

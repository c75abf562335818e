"""Patches on disk: every region of interest cut out once, so that training never decodes an image twice.

Three streams, by the side of the crop in source pixels:

========  ====================  ===========  ==============================================
stream    crop                  patch        used as
========  ====================  ===========  ==============================================
paired    >= hr_size            hr_size      HR truth, and its own 4x smaller LR copy
small     <= gate               lr_size      wild: goes through the generator
medium    between               hr_size      wild: goes straight to the discriminator
========  ====================  ===========  ==============================================
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinygan.boxes import longer_side
from tinygan.concurrency import ordered_map
from tinygan.data.cutting import CropConfig, cut_patch
from tinygan.data.rois import FACE, Rois
from tinygan.detections import ByteArray, FloatArray, IntArray
from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.images import read_image

log = logging.getLogger(__name__)

PAIRED, SMALL, MEDIUM = "paired", "small", "medium"
STREAMS = (PAIRED, SMALL, MEDIUM)


@dataclass(frozen=True)
class Patches:
    """One stream of patches.

    Attributes:
        pixels: uint8 [N, S, S, 3], RGB; may be a memory map.
        labels: int64 [N], 1 face, 0 non-face.
        sides_px: float64 [N], side of the crop in source pixels.
    """

    pixels: ByteArray
    labels: IntArray
    sides_px: FloatArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PatchSource:
    """An image to cut patches from: ``rois`` with boxes, or ``None`` for a picture of one centred face.

    Attributes:
        path: image file.
        rois: labelled boxes, or ``None``: the centre square of ``centre_share`` of the shorter side is a face.
        centre_share: only for ``rois=None``; in (0, 1].
    """

    path: Path
    rois: Rois | None
    centre_share: float = 0.5


def patch_size(stream: str, crops: CropConfig) -> int:
    """Side of a stream's patches in pixels."""
    return crops.lr_size if stream == SMALL else crops.hr_size


def stream_of(side_px: float, crops: CropConfig) -> str:
    """The stream of a crop, by its side in source pixels."""
    if side_px >= crops.hr_size:
        return PAIRED  # even where routing sends every crop through the generator
    return SMALL if crops.through_generator(np.array([side_px]))[0] else MEDIUM


def build_patches(
    sources: Sequence[PatchSource], crops: CropConfig, folder: Path, fingerprint: str, streams: Sequence[str] = STREAMS
) -> tuple[dict[str, Patches], list[str]]:
    """Cut all patches into ``folder``, or open those that an earlier run with this fingerprint left there.

    Args:
        sources: images and their regions.
        crops: patch sizes and routing.
        folder: where to keep ``<stream>.u8`` and ``index.json``.
        fingerprint: changes whenever the patches would.
        streams: the streams that are needed.

    Returns:
        The streams, and a line for every image that could not be read.
    """
    index_file = folder / "index.json"
    index = json.loads(index_file.read_text()) if index_file.is_file() else {}
    if index.get("fingerprint") != fingerprint:
        index_file.unlink(missing_ok=True)
        index = {"fingerprint": fingerprint, **_cut_all(sources, crops, folder, streams)}
        write_atomically(index_file, json.dumps(index).encode())
    opened = {stream: _open(folder, stream, index[stream], crops) for stream in streams}
    return opened, index["unreadable"]


def _cut_all(
    sources: Sequence[PatchSource], crops: CropConfig, folder: Path, streams: Sequence[str]
) -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, list[float]]] = {stream: {"labels": [], "sides_px": []} for stream in streams}
    unreadable: list[str] = []
    files = {stream: (folder / f"{stream}.u8").open("wb") for stream in streams}

    def cut(source: PatchSource) -> list[tuple[str, ByteArray, int, float]] | str:
        try:
            return _cut_one(source, crops, streams)
        except DataError as error:
            return str(error)

    workers = os.cpu_count() or 1
    try:
        with tqdm(total=len(sources), desc="cutting patches", unit="image", disable=None) as bar:
            for cuts in ordered_map(cut, sources, workers, 4 * workers):
                bar.update()
                if isinstance(cuts, str):
                    log.warning("skipped: %s", cuts)
                    unreadable.append(cuts)
                    continue
                for stream, pixels, label, side_px in cuts:
                    files[stream].write(pixels.tobytes())
                    index[stream]["labels"].append(label)
                    index[stream]["sides_px"].append(side_px)
    finally:
        for file in files.values():
            file.close()
    return {**index, "unreadable": unreadable}


def _cut_one(source: PatchSource, crops: CropConfig, streams: Sequence[str]) -> list[tuple[str, ByteArray, int, float]]:
    image = read_image(source.path)
    if source.rois is None:
        side = min(image.size) * source.centre_share
        centre = np.array([image.width, image.height, image.width, image.height]) / 2
        squares = (centre + np.array([-0.5, -0.5, 0.5, 0.5]) * side)[None]
        labels = np.array([FACE])
    else:
        squares = crops.squares(source.rois.boxes, image.width, image.height)
        labels = source.rois.labels
    cuts = []
    for square, label, side_px in zip(squares, labels.tolist(), longer_side(squares).tolist(), strict=True):
        stream = stream_of(side_px, crops)
        if stream in streams:
            cuts.append((stream, cut_patch(image, square, patch_size(stream, crops)), label, side_px))
    return cuts


def _open(folder: Path, stream: str, columns: dict[str, list[float]], crops: CropConfig) -> Patches:
    count, size = len(columns["labels"]), patch_size(stream, crops)
    shape = (count, size, size, 3)
    path = folder / f"{stream}.u8"
    pixels = np.memmap(path, np.uint8, "r", shape=shape) if count else np.zeros(shape, np.uint8)
    return Patches(pixels, np.array(columns["labels"], np.int64), np.array(columns["sides_px"], np.float64))

"""The generator from Python: pictures of faces, 4 times as large.

    tinygan.SuperResolver().upscale("face.png").save("large.png")

What it adds is a guess at what a face of that kind looks like, not evidence of what was there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tinygan.checkpoint import Kind, chosen_weights, load_checkpoint
from tinygan.data.cutting import SCALE
from tinygan.detections import ByteArray
from tinygan.errors import DataError
from tinygan.formats.images import Orientation, Picture, to_picture
from tinygan.models.build import load_generator
from tinygan.models.pixels import to_bytes, to_float
from tinygan.runtime import Device, Runtime, RuntimeOptions, device_name

KINDS: tuple[Kind, ...] = ("generator", "gan", "fused")  # of checkpoints that have a generator
PORTRAIT = "portrait"
SCALES = (4, 2)
TILE_PX = 128  # side of the parts in which a picture goes through the generator, without their margins
MOST_PIXELS = 500_000_000  # of the result, which takes 3 bytes per pixel


class SuperResolver:
    """Makes pictures 4 times as wide and high. They may have any size, and go through the generator as they are.

    A large picture goes through in tiles. Each has a margin as wide as the generator looks, so no seam is seen, and
    memory does not grow with the picture, apart from the result.

    Args:
        checkpoint: ``portrait``, which ships and is made to be looked at; ``lite``, that of the second stage; or a run
            folder or file of ``tinygan-train``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, the number N, or a ``torch.device``.
        runtime: where the generator runs, in place of ``device`` at its own precision.

    Raises:
        CheckpointError: if there is no such checkpoint, or it is damaged.
        ConfigError: if there is no such device.
    """

    def __init__(
        self, checkpoint: str | Path = PORTRAIT, *, device: Device = "auto", runtime: Runtime | None = None
    ) -> None:
        weights = load_checkpoint(chosen_weights(checkpoint, KINDS), KINDS)
        self._runtime = runtime or Runtime(RuntimeOptions(device=device_name(device)))
        self._generator = load_generator(weights).float().eval()
        self._runtime.place(self._generator)

    def upscale(self, picture: Picture, scale: int = 4, orientation: Orientation = "upright") -> Image.Image:
        """Super-resolve a picture.

        Args:
            picture: a file, its content or a file object; a Pillow image as it is; or an array [H, W], [H, W, 3] or
                [H, W, 4], also a tensor, of any depth (:mod:`tinygan.formats.images` has the rules).
            scale: 4; or 2, which is the mean of each 2 x 2 px of that.
            orientation: ``upright`` applies the EXIF orientation of a file; ``stored`` does not.

        Returns:
            An RGB picture, ``scale`` times as wide and high.

        Raises:
            DataError: if the picture cannot be read, ``scale`` is another number, or the result would have more than
                500 million pixels.
        """
        if scale not in SCALES:
            raise DataError(f"scale is 4 or 2, got {scale}")
        image = to_picture(picture, orientation)
        if image.width * image.height * scale**2 > MOST_PIXELS:
            raise DataError(
                f"a picture of {image.width} x {image.height} px would get {scale} times as wide and high, "
                f"{image.width * image.height * scale**2 / 1e6:.0f} megapixels; expected {MOST_PIXELS / 1e6:.0f} at "
                "most: cut out the faces, or use scale 2"
            )
        return Image.fromarray(self._upscale(np.asarray(image), scale, -1))

    def stages(self, pixels: ByteArray) -> dict[str, ByteArray]:
        """What each part of the generator makes of a picture, uint8 [H, W, 3]: uint8 [4H, 4W, 3] of G1 and of G2.

        A generator without G2 has one picture, under the name "".
        """
        names = ("G1", "G2") if getattr(self._generator, "refine", None) is not None else ("",)
        return {name: self._upscale(pixels, SCALE, number) for number, name in enumerate(names)}

    def _upscale(self, pixels: ByteArray, scale: int, part: int) -> ByteArray:
        """uint8 [H, W, 3] to [scale H, scale W, 3], tile by tile; ``part``: which picture, 0 of G1, -1 the last."""
        height, width = pixels.shape[:2]
        large = np.empty((height * scale, width * scale, 3), np.uint8)
        margin = self._generator.reach_px
        for top, bottom in _parts(height):
            for left, right in _parts(width):
                first_row, first_column = max(top - margin, 0), max(left - margin, 0)
                tile = self._generate(pixels[first_row : bottom + margin, first_column : right + margin].copy(), part)
                rows = slice((top - first_row) * SCALE, (bottom - first_row) * SCALE)
                columns = slice((left - first_column) * SCALE, (right - first_column) * SCALE)
                inner = tile[:, :, rows, columns]
                if scale < SCALE:
                    inner = torch.nn.functional.avg_pool2d(inner, SCALE // scale)
                large[top * scale : bottom * scale, left * scale : right * scale] = to_bytes(inner)[0]
        return large

    @torch.no_grad()
    def _generate(self, pixels: ByteArray, part: int) -> torch.Tensor:
        """uint8 [h, w, 3] to float32 [1, 3, 4h, 4w] in [0, 1]."""
        with self._runtime.autocast():
            made: torch.Tensor = self._generator(to_float(pixels[None]).to(self._runtime.device))[part]
        return made.float().clamp(0, 1)


def _parts(length: int) -> Iterator[tuple[int, int]]:
    """First and last position plus one of the parts of a side: equal ones of :data:`TILE_PX` at most."""
    count = math.ceil(length / TILE_PX)
    edges = [round(length * number / count) for number in range(count + 1)]
    return pairwise(edges)

"""A wall of framed photographs: two real people, shrunk to tiny faces with known place, among pictures without a face.

The photographs come with scikit-image (the astronaut Eileen Collins) and Matplotlib (Grace Hopper).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib.cbook
import numpy as np
import skimage.data
from PIL import Image, ImageOps

from tinygan.detections import FloatArray, GroundTruth

SIZE = (1000, 680)
LARGEST_PX, SMALLEST_PX = 120, 22  # height of a photograph on the wall
PHOTOGRAPHS, DECOY_SHARE = 130, 0.25
_GAP_PX, _TRIES = 9, 400
_ASTRONAUT, _HOPPER = (179.0, 55.0, 270.0, 178.0), (172.0, 125.0, 358.0, 335.0)  # faces in pixels of the photographs
_DECOYS = ("chelsea", "coffee", "rocket", "hubble_deep_field")
_FRAMES = ((24, 22, 20), (92, 62, 38), (196, 176, 132), (236, 233, 226))


@dataclass(frozen=True)
class Wall:
    """A picture and its faces.

    Attributes:
        image: RGB.
        truth: its faces; boxes in pixels.
    """

    image: Image.Image
    truth: GroundTruth


def draw_wall(seed: int = 0) -> Wall:
    """Hang photographs from large to small where there is room; the same seed gives the same wall.

    Args:
        seed: which photographs, their sizes and places.
    """
    rng = np.random.default_rng(seed)
    people, decoys = _people(), [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in _DECOYS]
    wall, taken, faces = _bricks(), np.zeros(SIZE[::-1], dtype=bool), []
    heights = np.exp(rng.uniform(np.log(SMALLEST_PX), np.log(LARGEST_PX), PHOTOGRAPHS))
    for height in sorted(heights.tolist(), reverse=True):
        is_decoy = rng.random() < DECOY_SHARE
        photo, face = (decoys[rng.integers(len(decoys))], None) if is_decoy else people[rng.integers(len(people))]
        scale = height / photo.height
        size = (round(photo.width * scale), round(height))
        corner = _room(taken, size, rng)
        if corner is None:
            continue
        flipped = bool(rng.random() < 0.5)
        _hang(wall, _developed(photo, size, flipped, rng), corner, _FRAMES[rng.integers(len(_FRAMES))])
        if face is not None:
            x1, y1, x2, y2 = face
            x1, x2 = (photo.width - x2, photo.width - x1) if flipped else (x1, x2)
            factors = np.array([size[0] / photo.width, size[1] / photo.height] * 2)
            faces.append(np.array([x1, y1, x2, y2]) * factors + np.array([*corner, *corner]))
    boxes: FloatArray = np.array(faces)
    return Wall(_photographed(wall), GroundTruth(boxes, np.zeros(len(boxes), dtype=np.bool_)))


def _people() -> list[tuple[Image.Image, tuple[float, float, float, float]]]:
    hopper = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    return [(Image.fromarray(skimage.data.astronaut()), _ASTRONAUT), (hopper, _HOPPER)]


def _bricks() -> Image.Image:
    """A light wall that fills the picture."""
    bricks = Image.fromarray(skimage.data.brick()).resize((380, 380), Image.Resampling.BICUBIC)
    tile = ImageOps.colorize(bricks, (96, 80, 70), (232, 222, 208))
    wall = Image.new("RGB", SIZE)
    for top in range(0, SIZE[1], tile.height):
        for left in range(0, SIZE[0], tile.width):
            wall.paste(tile, (left, top))
    return wall


def _room(taken: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int] | None:
    """The left upper corner of a free place, which is then taken; None if none was found."""
    width, height = size
    for _ in range(_TRIES):
        left = int(rng.integers(_GAP_PX, SIZE[0] - width - _GAP_PX))
        top = int(rng.integers(_GAP_PX, SIZE[1] - height - _GAP_PX))
        place = np.s_[top - _GAP_PX : top + height + _GAP_PX, left - _GAP_PX : left + width + _GAP_PX]
        if not taken[place].any():
            taken[place] = True
            return left, top
    return None


def _developed(photo: Image.Image, size: tuple[int, int], flipped: bool, rng: np.random.Generator) -> Image.Image:
    """The photograph at its size, lit in some way, at times grey."""
    small = photo.resize(size, Image.Resampling.BICUBIC)
    small = ImageOps.mirror(small) if flipped else small
    small = small.convert("L").convert("RGB") if rng.random() < 0.25 else small
    return small.point(
        [round(min(255, level * factor)) for factor in [rng.uniform(0.6, 1.1)] * 3 for level in range(256)]
    )


def _hang(wall: Image.Image, photo: Image.Image, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Paste a photograph in a frame with a shadow."""
    left, top = corner
    frame = max(1, photo.height // 24)
    outer = (photo.width + 2 * frame, photo.height + 2 * frame)
    wall.paste(
        (70, 60, 54), (left - frame + 2, top - frame + 2, left - frame + 2 + outer[0], top - frame + 2 + outer[1])
    )
    wall.paste(colour, (left - frame, top - frame, left - frame + outer[0], top - frame + outer[1]))
    wall.paste(photo, corner)


def _photographed(wall: Image.Image) -> Image.Image:
    """The wall as a camera's JPEG."""
    content = io.BytesIO()
    wall.save(content, format="JPEG", quality=82)
    return Image.open(content).convert("RGB")

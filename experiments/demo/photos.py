"""Photographs that ship with scikit-image: backgrounds, small real faces, and patches that hold none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import skimage.data
from PIL import Image

from experiments.demo.faces import FloatImage, Sprite, add_shoulders
from experiments.demo.people import SKINS, random_person
from tinygan.formats.wider import Split

ByteImage = npt.NDArray[np.uint8]
Ellipse = tuple[float, float, float, float]

LARGEST_TINY_PX = 26.0
"""Faces of ``lfw_subset`` are 25 px high: larger ones would only be blurred."""
LARGEST_ASTRONAUT_PX = 104.0

_TEXTURES = ("brick", "grass", "gravel")
_PHOTOGRAPHS = ("chelsea", "coffee", "hubble_deep_field", "rocket")
# lfw_subset: 100 faces, then 100 patches without; these three do show parts of a face.
_LFW_FACES, _NOT_QUITE_EMPTY = 100, (125, 130, 196)
_TRAIN_SHARE = 0.7
# In pixels of the photographs. Ellipses: centre, half axes (round the hair, round the face); box: x1, y1, x2, y2.
_ASTRONAUT_HEAD: tuple[Ellipse, ...] = ((227.5, 78.0, 77.0, 63.0), (226.0, 120.0, 51.0, 62.0))
_ASTRONAUT_FACE = (180.0, 75.0, 271.0, 179.0)
_CAT_HEAD: tuple[Ellipse, ...] = ((228.0, 152.0, 150.0, 145.0),)


@dataclass(frozen=True)
class Photos:
    """What the scenes of one split are made from.

    Attributes:
        backgrounds: ``{name: uint8 RGB [H, W, 3]}``, without human faces.
        faces: float32 [N, 25, 25] in [0, 1], grey faces; no other split has them.
        patches: float32 [N, 25, 25] in [0, 1], grey patches without a face; no other split has them.
        astronaut: uint8 RGB, a portrait.
        cat: uint8 RGB, a cat's head: not a face.
    """

    backgrounds: dict[str, ByteImage]
    faces: FloatImage
    patches: FloatImage
    astronaut: ByteImage
    cat: ByteImage


def load_photos(split: Split) -> Photos:
    """Read a split's photographs from the installed scikit-image; nothing is downloaded."""
    backgrounds = {name: getattr(skimage.data, name)() for name in _PHOTOGRAPHS}
    backgrounds["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    for name in _TEXTURES:
        backgrounds[name] = np.repeat(getattr(skimage.data, name)()[..., None], 3, axis=2)
    grey = skimage.data.lfw_subset().astype(np.float32)
    empty = np.setdiff1d(np.arange(_LFW_FACES, len(grey)), _NOT_QUITE_EMPTY)
    return Photos(
        backgrounds, _share(grey[:_LFW_FACES], split), _share(grey[empty], split), skimage.data.astronaut(),
        backgrounds["chelsea"],
    )  # fmt: skip


def background(photos: Photos, size: tuple[int, int], rng: np.random.Generator) -> tuple[str, FloatImage]:
    """A random piece of a random photograph, flipped and tinted.

    Args:
        photos: where from.
        size: width and height in pixels.
        rng: what to take.

    Returns:
        The photograph's name, and float32 [H, W, 3] in [0, 1].
    """
    name = str(rng.choice(list(photos.backgrounds)))
    photo = Image.fromarray(photos.backgrounds[name])
    largest = min(photo.width / size[0], photo.height / size[1])
    scale = largest * rng.uniform(0.6, 1.0)
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    piece = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    pixels = np.asarray(piece, dtype=np.float32)[:, :: rng.choice([-1, 1])] / 255
    if name in _TEXTURES:
        pixels = pixels * rng.uniform(0.7, 1.1, 3)
    return name, pixels.astype(np.float32)


def tiny_face(photos: Photos, height_px: float, rng: np.random.Generator) -> Sprite:
    """A face of ``lfw_subset``, tinted like skin, with soft edges, on drawn shoulders.

    Args:
        photos: whose faces.
        height_px: of the face, up to :data:`LARGEST_TINY_PX`.
        rng: which face, and its looks.
    """
    grey = photos.faces[rng.integers(len(photos.faces))][:, :: rng.choice([-1, 1])]
    side = max(6, round(height_px / 0.93))
    picture = _tint(_resize(grey, side), SKINS[rng.integers(len(SKINS))], rng)
    alpha = _ellipse((side, side), (side / 2, side * 0.5, side * 0.47, side * 0.53), softness_px=side * 0.1)
    box = (side * 0.14, side * 0.04, side * 0.86, side * 0.97)
    person = replace(random_person(rng), hair_length=0.0)
    return add_shoulders(Sprite(picture * alpha[..., None], alpha, alpha > 0.5, box, is_face=True), person)


def astronaut_face(photos: Photos, height_px: float, rng: np.random.Generator) -> Sprite:
    """The astronaut's head, flipped, and lit and coloured at random, on drawn shoulders.

    Args:
        photos: where she is.
        height_px: of the face, up to :data:`LARGEST_ASTRONAUT_PX`.
        rng: how it is varied.
    """
    scale = height_px / (_ASTRONAUT_FACE[3] - _ASTRONAUT_FACE[1])
    head, (left, top) = _cut(photos.astronaut, _ASTRONAUT_HEAD, scale, is_face=True)
    x1, y1, x2, y2 = _ASTRONAUT_FACE
    box = ((x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale)
    width = head.alpha.shape[1]
    rgb = head.rgb * _gains(width, rng)
    core = np.zeros_like(head.core)
    face = np.s_[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])]
    core[face] = head.core[face]
    head = replace(head, rgb=np.minimum(rgb, head.alpha[..., None]), core=core, box=box)
    if rng.random() < 0.5:
        box = (width - box[2], box[1], width - box[0], box[3])
        head = replace(head, rgb=head.rgb[:, ::-1], alpha=head.alpha[:, ::-1], core=head.core[:, ::-1], box=box)
    return add_shoulders(head, replace(random_person(rng), skin=SKINS[0], hair_length=0.0, half_width=0.4))


def cat_face(photos: Photos, height_px: float, rng: np.random.Generator) -> Sprite:
    """The cat's face, coloured at random: no human one."""
    head, _ = _cut(photos.cat, _CAT_HEAD, height_px / (2 * _CAT_HEAD[0][3]), is_face=False)
    return replace(head, rgb=np.minimum(head.rgb * _gains(head.alpha.shape[1], rng), head.alpha[..., None]))


def empty_patch(photos: Photos, height_px: float, rng: np.random.Generator) -> Sprite:
    """A patch of ``lfw_subset`` without a face, tinted like skin or not, with soft edges."""
    grey = photos.patches[rng.integers(len(photos.patches))][:, :: rng.choice([-1, 1])]
    side = max(6, round(height_px))
    tint = SKINS[rng.integers(len(SKINS))] if rng.random() < 0.6 else tuple(rng.uniform(0.4, 1, 3).tolist())
    middle = side / 2
    alpha = _ellipse((side, side), (middle, middle, middle, middle), softness_px=side * 0.1)
    picture = _tint(_resize(grey, side), tint, rng)
    return Sprite(picture * alpha[..., None], alpha, alpha > 0.5, (0, 0, side, side), is_face=False)


def _share(images: FloatImage, split: Split) -> FloatImage:
    last = round(len(images) * _TRAIN_SHARE)
    return images[:last] if split == "train" else images[last:]


def _resize(grey: FloatImage, side: int) -> FloatImage:
    method = Image.Resampling.BICUBIC if side > len(grey) else Image.Resampling.BOX
    return np.asarray(Image.fromarray(grey).resize((side, side), method), dtype=np.float32)


def _tint(grey: FloatImage, colour: tuple[float, ...], rng: np.random.Generator) -> FloatImage:
    """Grey as light on a coloured surface: the patch's middle tone becomes the colour."""
    light = np.clip(grey, 0, 1) / max(0.15, float(np.percentile(grey, 92)))
    light = np.minimum(light, 1.05)
    tinted = light[..., None] ** rng.uniform(0.8, 1.1) * np.asarray(colour, dtype=np.float32)
    clipped: FloatImage = np.clip(tinted, 0, 1).astype(np.float32)
    return clipped


def _gains(width: int, rng: np.random.Generator) -> FloatImage:
    """Factors [1, w, 3]: a colour cast, and light from one side."""
    cast = rng.uniform(0.55, 1.1) * rng.uniform(0.9, 1.1, 3)
    sideways = 1 + rng.normal(0, 0.25) * np.linspace(-1, 1, width)
    return (sideways[None, :, None] * cast).astype(np.float32)


def _cut(
    photo: ByteImage, ellipses: tuple[Ellipse, ...], scale: float, *, is_face: bool
) -> tuple[Sprite, tuple[float, float]]:
    """What lies in any of the ellipses, scaled; and the photograph's point at the sprite's corner."""
    low = [min(ellipse[axis] - ellipse[axis + 2] for ellipse in ellipses) for axis in (0, 1)]
    high = [max(ellipse[axis] + ellipse[axis + 2] for ellipse in ellipses) for axis in (0, 1)]
    width, height = (max(6, round((end - start) * scale)) for start, end in zip(low, high, strict=True))
    method = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
    piece = Image.fromarray(photo).resize((width, height), method, (low[0], low[1], high[0], high[1]))
    alpha = np.zeros((height, width), dtype=np.float32)
    for x, y, half_x, half_y in ellipses:
        scaled = ((x - low[0]) * scale, (y - low[1]) * scale, half_x * scale, half_y * scale)
        alpha = np.maximum(alpha, _ellipse((width, height), scaled, softness_px=height * 0.05))
    rgb: FloatImage = np.asarray(piece, dtype=np.float32) / np.float32(255) * alpha[..., None]
    return Sprite(rgb, alpha, alpha > 0.5, (0, 0, width, height), is_face), (low[0], low[1])


def _ellipse(size: tuple[int, int], ellipse: Ellipse, softness_px: float) -> FloatImage:
    """Cover of a soft-edged ellipse on a canvas of (width, height)."""
    x, y, half_x, half_y = ellipse
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    radius = np.hypot((columns - x) / half_x, (rows - y) / half_y)
    cover: FloatImage = np.clip((1 - radius) * min(half_x, half_y) / max(softness_px, 0.7), 0, 1).astype(np.float32)
    return cover

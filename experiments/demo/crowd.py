"""Makes the sample crowd set: a WIDER FACE root of drawn scenes, and a simulated first stage's proposals on it.

    python -m experiments.demo.crowd --out DIR [--train-images N --val-images N --seed S]

It takes the place of WIDER FACE where that is not at hand, to show that every step works. Figures measured on it say
nothing about real photographs, and are labelled "sample".
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from experiments.demo.decoys import random_decoy
from experiments.demo.faces import FloatImage, Mask, Sprite, draw_person
from experiments.demo.people import random_person
from experiments.demo.photos import (
    LARGEST_ASTRONAUT_PX,
    LARGEST_TINY_PX,
    ByteImage,
    Photos,
    astronaut_face,
    background,
    load_photos,
    tiny_face,
)
from experiments.demo.simulate import simulate_proposals
from tinygan.detections import FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.wider import ATTRIBUTES, Split, format_ground_truth
from tinygan.formats.writing import DetectionWriter

Area = tuple[slice, slice]

SCENE_SIZES = ((640, 480), (720, 480), (600, 450), (480, 600))
SMALLEST_PX, LARGE_PX, LARGEST_PX = 8.0, 40.0, 120.0
_LARGE_SHARE, _EMPTY_SHARE = 0.25, 0.06
_MOST_HIDDEN = 0.45
_TRIES = 25


@dataclass(frozen=True)
class Scene:
    """A drawn photograph.

    Attributes:
        background: name of the photograph behind it.
        image: uint8 RGB [H, W, 3].
        truth: its faces, with WIDER FACE's attributes.
        decoys: float64 [K, 4], boxes ``x1, y1, x2, y2`` of what only resembles a face.
    """

    background: str
    image: ByteImage
    truth: GroundTruth
    decoys: FloatArray


def make_crowd(root: Path, proposals: Path, *, train_images: int = 120, val_images: int = 40, seed: int = 0) -> None:
    """Write the sample crowd set; the same seed gives the same bytes.

    Both folders are built beside their place and renamed at the end: a run that was cut off leaves neither.

    Args:
        root: WIDER FACE root to make: ``WIDER_{train,val}/images/`` and ``wider_face_split/``.
        proposals: folder to make: ``{train,val}/<event>/<name>.txt`` in the official submission format.
        train_images: number of training scenes.
        val_images: number of validation scenes; they share no face of ``lfw_subset`` with the former.
        seed: what is drawn.

    Raises:
        DataError: if either folder exists.
    """
    for path in (root, proposals):
        if path.exists():
            raise DataError(f"{path}: exists already; remove it, or choose another folder for the sample crowd set")
    making = {path: path.with_name(f".{path.name}.partial") for path in (root, proposals)}
    try:
        for folder in making.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        _make_split(making[root], making[proposals], "train", train_images, seed)
        _make_split(making[root], making[proposals], "val", val_images, seed)
        # The root comes last: where it is, the proposals are too.
        for path in (proposals, root):
            os.replace(making[path], path)
    finally:
        for folder in making.values():
            shutil.rmtree(folder, ignore_errors=True)


def draw_scene(photos: Photos, rng: np.random.Generator) -> Scene:
    """A crowd before a photograph: people from far to near, and decoys among them.

    Args:
        photos: the split's photographs.
        rng: everything random.
    """
    name, pixels = background(photos, SCENE_SIZES[rng.integers(len(SCENE_SIZES))], rng)
    stage = _Stage(pixels, rng)
    empty = rng.random() < _EMPTY_SHARE
    faces = 0 if empty else int(np.clip(rng.lognormal(2.4, 0.5), 3, 30))
    heights = [(_face_height(rng), True) for _ in range(faces)]
    heights += [(_face_height(rng), False) for _ in range(rng.integers(4, 12))]
    for height_px, is_face in sorted(heights):
        stage.place(_face(photos, height_px, rng) if is_face else random_decoy(photos, height_px, rng))
    image, dark = _photograph(stage.pixels, rng)
    return Scene(name, image, stage.truth(dark), np.array(stage.decoys, dtype=np.float64).reshape(-1, 4))


class _Stage:
    """A scene in the making: who stands where, and how much of each face still shows."""

    def __init__(self, pixels: FloatImage, rng: np.random.Generator) -> None:
        self.pixels = pixels.copy()
        self.decoys: list[FloatArray] = []
        self._rng = rng
        self._owner = np.full(pixels.shape[:2], -1, dtype=np.int64)
        self._core_px: list[int] = []
        self._shown_px = np.zeros(0, dtype=np.int64)
        self._boxes: list[FloatArray] = []
        self._flags: list[dict[str, int]] = []

    def place(self, sprite: Sprite) -> None:
        """Paste a sprite where it hides no face by more than half; leave it out where no such place is found."""
        sprite, blur = _soften(sprite, self._rng)
        height, width = self.pixels.shape[:2]
        x1, y1, x2, y2 = sprite.box
        rows, columns = sprite.alpha.shape[:2]
        for _ in range(_TRIES):
            left = int(self._rng.integers(-int(x1), max(1 - int(x1), int(width - x2))))
            top = int(self._rng.integers(-int(y1), max(1 - int(y1), int(height - y2))))
            box = np.array([x1 + left, y1 + top, x2 + left, y2 + top])
            inside = (box[:2] >= 0).all() and box[2] <= width and box[3] <= height
            area = np.s_[max(0, top) : top + rows, max(0, left) : left + columns]
            part = np.s_[max(0, -top) : height - top, max(0, -left) : width - left]
            if inside and self._leaves_faces_visible(area, sprite.alpha[part] > 0.5):
                self._paste(sprite, area, part, box, blur)
                return

    def truth(self, dark: bool) -> GroundTruth:
        """The faces pasted, with their attributes; ``dark``: the whole scene is lit badly."""
        for flags, whole, shown in zip(self._flags, self._core_px, self._shown_px, strict=True):
            hidden = 1 - shown / whole
            flags["occlusion"] = 0 if hidden < 0.02 else 1 if hidden < 0.3 else 2
            flags["illumination"] = int(dark)
        columns = {name: np.array([flags.get(name, 0) for flags in self._flags], dtype=np.int64) for name in ATTRIBUTES}
        invalid = columns.pop("invalid").astype(np.bool_)
        return GroundTruth(np.round(np.array(self._boxes).reshape(-1, 4), 2), invalid, columns)

    def _leaves_faces_visible(self, area: Area, covered: Mask) -> bool:
        lost = self._lost_px(area, covered)
        least = (1 - _MOST_HIDDEN) * np.array(self._core_px)
        return bool((self._shown_px - lost >= least)[lost > 0].all())

    def _lost_px(self, area: Area, covered: Mask) -> npt.NDArray[np.int64]:
        """How many pixels of each face would go."""
        owners = self._owner[area][covered]
        return np.bincount(owners[owners >= 0], minlength=len(self._core_px)).astype(np.int64)

    def _paste(self, sprite: Sprite, area: Area, part: Area, box: FloatArray, blur: int) -> None:
        around = self.pixels[area].mean()
        light = np.clip(0.55 + 0.9 * around, 0.6, 1.1) * self._rng.uniform(0.85, 1.1)
        alpha = sprite.alpha[part]
        self.pixels[area] = self.pixels[area] * (1 - alpha[..., None]) + np.clip(sprite.rgb[part] * light, 0, 1)
        self._shown_px = self._shown_px - self._lost_px(area, alpha > 0.5)
        self._owner[area][alpha > 0.5] = -1
        if not sprite.is_face:
            self.decoys.append(box)
            return
        self._owner[area][sprite.core[part]] = len(self._core_px)
        core_px = max(1, int(sprite.core[part].sum()))
        self._core_px.append(core_px)
        self._shown_px = np.append(self._shown_px, core_px)
        self._boxes.append(box)
        unclear = blur == 2 and box[3] - box[1] < 10
        self._flags.append({**sprite.attributes, "blur": blur, "invalid": int(unclear)})


def _face(photos: Photos, height_px: float, rng: np.random.Generator) -> Sprite:
    kind = rng.random()
    if height_px <= LARGEST_TINY_PX and kind < 0.5:
        return tiny_face(photos, height_px, rng)
    if height_px <= LARGEST_ASTRONAUT_PX and kind > 0.9:
        return astronaut_face(photos, height_px, rng)
    return draw_person(random_person(rng), height_px, rng)


def _face_height(rng: np.random.Generator) -> float:
    low, high = (LARGE_PX, LARGEST_PX) if rng.random() < _LARGE_SHARE else (SMALLEST_PX, LARGE_PX)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _soften(sprite: Sprite, rng: np.random.Generator) -> tuple[Sprite, int]:
    """Out of focus, at times; with WIDER FACE's degree of blur (0 clear, 1 normal, 2 heavy)."""
    height_px = sprite.box[3] - sprite.box[1]
    sigma = float(abs(rng.normal(0, 0.35)) + (height_px / 40 * rng.random() if rng.random() < 0.25 else 0))
    rgb = gaussian_filter(sprite.rgb, (sigma, sigma, 0))
    alpha = gaussian_filter(sprite.alpha, sigma)
    degree = int(np.digitize(sigma / height_px, (0.03, 0.06)))
    return Sprite(rgb, alpha, sprite.core, sprite.box, sprite.is_face, sprite.attributes), degree


def _photograph(pixels: FloatImage, rng: np.random.Generator) -> tuple[ByteImage, bool]:
    """What a camera makes of a scene: exposure, colour cast, blur, noise; and whether it came out dark."""
    exposure = rng.uniform(0.35, 0.55) if rng.random() < 0.1 else rng.uniform(0.75, 1.15)
    cast = (exposure * rng.normal(1, 0.05, 3)).astype(np.float32)
    graded = np.clip(pixels * cast, 0, 1) ** np.float32(rng.uniform(0.85, 1.15))
    if rng.random() < 0.3:
        sigma = rng.uniform(0.3, 0.9)
        graded = gaussian_filter(graded, (sigma, sigma, 0))
    noisy = graded + np.float32(rng.uniform(0, 0.03)) * rng.standard_normal(graded.shape, dtype=np.float32)
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8), bool(exposure < 0.6)


def _make_split(root: Path, proposals: Path, split: Split, count: int, seed: int) -> None:
    photos = load_photos(split)
    writer = DetectionWriter(proposals / split)
    faces: dict[str, GroundTruth] = {}
    images = root / f"WIDER_{split}" / "images"
    images.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([seed, int(split == "val"), number])
        scene = draw_scene(photos, rng)
        event = f"{list(photos.backgrounds).index(scene.background)}--{scene.background.title()}"
        name = f"{event}/{event.replace('--', '_')}_sample_{split}_{number}.jpg"
        content = io.BytesIO()
        Image.fromarray(scene.image).save(content, format="JPEG", quality=int(rng.integers(65, 96)))
        (images / event).mkdir(exist_ok=True)
        (images / name).write_bytes(content.getvalue())
        faces[name] = scene.truth
        height, width = scene.image.shape[:2]
        writer.write(name, simulate_proposals(scene.truth.boxes, scene.decoys, (width, height), rng))
    text = format_ground_truth(dict(sorted(faces.items())))
    truth = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    truth.parent.mkdir(exist_ok=True)
    write_atomically(truth, text.encode() if faces else b"")


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``OUT/data`` and ``OUT/proposals``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo.crowd", description="Make the sample crowd set.")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets data/ and proposals/")
    parser.add_argument("--train-images", type=int, default=120)
    parser.add_argument("--val-images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    sizes = {"train_images": given.train_images, "val_images": given.val_images}
    try:
        make_crowd(given.out / "data", given.out / "proposals", **sizes, seed=given.seed)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

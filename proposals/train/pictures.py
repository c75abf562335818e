"""Training pictures: squares cut from photographs at random, with the faces in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.ops import nms

from proposals.matching import Faces, Targets
from proposals.train.recipe import DetectorRecipe, PictureBatch, PictureConfig, TeacherConfig
from tinygan.boxes import area, iou, longer_side
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.images import read_image
from tinygan.formats.retinaface import LANDMARKS, POINTS

log = logging.getLogger(__name__)
MEAN_RGB = (123, 117, 104)  # the colour outside a photograph
MIRRORED_POINTS = [1, 0, 2, 4, 3]  # left eye <-> right eye, corners of the mouth
_TRIES = 20


class Photograph(NamedTuple):
    """An image file and its faces.

    Attributes:
        path: the image file.
        boxes: float64 [M, 4], pixels, ``x1, y1, x2, y2`` of some area.
        invalid: bool [M], the faces that are ignored.
        landmarks: float64 [M, 5, 2]; NaN where unknown.
        mined: float64 [K, 4], hard negatives: boxes in which an earlier round of training saw a face.
    """

    path: Path
    boxes: FloatArray
    invalid: BoolArray
    landmarks: FloatArray
    mined: FloatArray = np.zeros((0, 4))


def photographs(
    root: Path, truths: Mapping[str, GroundTruth], names: Sequence[str], labels: Mapping[str, GroundTruth] | None
) -> list[Photograph]:
    """Faces of some images, with the landmarks that RetinaFace's labels know.

    Args:
        root: folder of the images.
        truths: ``{image name: faces}``.
        names: names of the wanted images.
        labels: from ``label.txt`` (:mod:`tinygan.formats.retinaface`): faces with landmarks; they belong to the face
            with the same box.
    """
    found = []
    for name in names:
        truth = truths[name]
        sized = (truth.boxes[:, 2:] > truth.boxes[:, :2]).all(axis=1)
        boxes = truth.boxes[sized]
        points = np.full((len(boxes), POINTS, 2), np.nan)
        if labels is not None and name in labels:
            known = labels[name]
            at = {tuple(np.rint(box)): row for row, box in enumerate(known.boxes)}
            for row, box in enumerate(boxes):
                if tuple(np.rint(box)) in at:
                    points[row] = known.fields[LANDMARKS][at[tuple(np.rint(box))]]
        found.append(Photograph(root / name, boxes, truth.invalid[sized], points))
    return found


def with_teachers(
    photos: Sequence[Photograph], taught: Sequence[Detections], config: TeacherConfig
) -> list[Photograph]:
    """Add the faces that nobody labelled and other detectors found.

    Args:
        photos: the photographs.
        taught: the boxes that all those detectors found in each of them.
        config: which boxes are faces, and which are ignored.

    Returns:
        The photographs; faces that were added have no landmarks.
    """
    return [_with_boxes(photo, found, config) for photo, found in zip(photos, taught, strict=True)]


def _with_boxes(photo: Photograph, found: Detections, config: TeacherConfig) -> Photograph:
    likely = found[found.scores >= config.ignored_score].sorted()
    boxes, scores = torch.from_numpy(likely.boxes), torch.from_numpy(likely.scores)
    new = likely[nms(boxes, scores, config.same_face_iou).numpy()]
    new = new[area(new.boxes) > 0]
    if len(photo.boxes):
        new = new[iou(new.boxes, photo.boxes).max(axis=1) < config.same_face_iou]
    return photo._replace(
        boxes=np.concatenate([photo.boxes, new.boxes]),
        invalid=np.concatenate([photo.invalid, new.scores < config.face_score]),
        landmarks=np.concatenate([photo.landmarks, np.full((len(new), POINTS, 2), np.nan)]),
    )


class PictureSource:
    """Draws batches: each a pure function of the seed, the step and the process.

    Args:
        photos: the photographs to draw from, at least one.
        recipe: sizes and, where they are made from the faces alone, the targets.
        batch_size: number of pictures per batch and process.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self, photos: Sequence[Photograph], recipe: DetectorRecipe, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._photos, self._recipe, self._batch_size = photos, recipe, batch_size
        self._mined = [photo for photo in photos if len(photo.mined)]
        self._rank, self._world_size = rank, world_size
        self._matchers = {size: recipe.matcher(size) for size in recipe.pictures.all_sizes}
        self.unreadable: dict[str, None] = {}

    def draw(self, step: int) -> PictureBatch:
        """The batch of a step; may be called from several threads.

        Raises:
            DataError: if image after image cannot be read.
        """
        config = self._recipe.pictures.of_step(self._recipe.seed, step)
        match = self._matchers[config.size]
        rows = [self._draw(step * self._batch_size + at, config) for at in range(self._batch_size)]
        pictures, faces = torch.stack([picture for picture, _ in rows]), [faces for _, faces in rows]
        if match is None:
            return PictureBatch(pictures, faces, None)
        targets = zip(*map(match, faces), strict=True)
        return PictureBatch(pictures, faces, Targets(*(torch.stack(parts) for parts in targets)))

    def _draw(self, number: int, config: PictureConfig) -> tuple[Tensor, Faces]:
        number = number * self._world_size + self._rank
        rng = np.random.default_rng([self._recipe.seed, 1, number])
        around_mined = bool(self._mined) and rng.random() < config.mined_share
        image, photo = self._photo(number, self._mined if around_mined else self._photos)
        picture, faces = cut_picture(image, photo, config, rng, around_mined)
        return torch.from_numpy(picture).permute(2, 0, 1).contiguous(), faces

    def _photo(self, number: int, photos: Sequence[Photograph]) -> tuple[Image.Image, Photograph]:
        """The photograph of a draw; each is drawn once in every ``len(photos)`` draws."""
        turn, at = divmod(number, len(photos))
        order = np.random.default_rng([self._recipe.seed, 2, turn]).permutation(len(photos))
        in_turn = np.roll(order, -at)[:_TRIES]  # the next ones replace one that cannot be read
        for photo in (photos[int(row)] for row in in_turn):
            try:
                return read_image(photo.path), photo
            except DataError as error:
                if str(error) not in self.unreadable:
                    log.warning("unreadable: %s", error)
                self.unreadable[str(error)] = None
        raise DataError(f"{len(in_turn)} images in a row cannot be read, the last: {next(reversed(self.unreadable))}")


def cut_picture(
    image: Image.Image, photo: Photograph, config: PictureConfig, rng: np.random.Generator, around_mined: bool = False
) -> tuple[npt.NDArray[np.uint8], Faces]:
    """A square picture of part of a photograph.

    Args:
        image: the photograph.
        photo: the photograph's faces.
        config: sizes and shares.
        rng: draws place, scale and colours.
        around_mined: whether the picture is placed around one of the photograph's hard negatives.

    Returns:
        uint8 RGB [S, S, 3] and the faces that it shows; those whose centre is outside it are ignored.
    """
    if config.mode == "patches":
        corner, side = place_patch(image.size, config, rng)
        scale = config.size / side
    else:
        scale = float(np.exp(rng.uniform(np.log(config.smallest_scale), np.log(config.largest_scale))))
        side = config.size / scale
        corner = _place(image.size, photo.boxes[~photo.invalid], side, config.face_share, rng)
    if around_mined:
        corner = _place(image.size, photo.mined, side, 1.0, rng)
    canvas = _colours(_window(image, corner, side, config.size), config, rng)
    shift = np.tile(corner, 2)
    boxes, mined = (photo.boxes - shift) * scale, (photo.mined - shift) * scale
    points = (photo.landmarks - corner) * scale
    if rng.random() < config.mirror:
        canvas = ImageOps.mirror(canvas)
        boxes, mined = _mirrored(boxes, config.size), _mirrored(mined, config.size)
        points = np.stack([config.size - points[..., 0], points[..., 1]], axis=-1)[:, MIRRORED_POINTS]
    return np.array(canvas), _faces_inside(boxes, points, photo.invalid, mined, config)


def _mirrored(boxes: FloatArray, width_px: int) -> FloatArray:
    return np.stack([width_px - boxes[:, 2], boxes[:, 1], width_px - boxes[:, 0], boxes[:, 3]], axis=1)


def _place(size: tuple[int, int], boxes: FloatArray, side: float, share: float, rng: np.random.Generator) -> FloatArray:
    """Upper left corner of the window in the photograph; a window larger than the photograph contains all of it.

    Args:
        size: width and height of the photograph in pixels.
        boxes: float64 [N, 4], boxes one of which the window is placed around, if there are any.
        side: side of the window in pixels of the photograph.
        share: the probability of that; else it is placed at random.
        rng: draws the place.
    """
    spare = np.array(size) - side
    low, high = np.minimum(spare, 0.0), np.maximum(spare, 0.0)
    if len(boxes) and rng.random() < share:
        box = boxes[rng.choice(len(boxes))]
        centre = (box[:2] + box[2:]) / 2
        wished = centre - rng.uniform(0.1, 0.9, 2) * side
    else:
        wished = rng.uniform(low, high)
    beyond = rng.uniform(low, 0.0)  # where the window is larger than the photograph
    placed: FloatArray = np.where(spare < 0, beyond, np.clip(wished, 0.0, high))
    return placed


def place_patch(size: tuple[int, int], config: PictureConfig, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """A square of a photograph that was surrounded by plain colour (Zhang et al. 2019, section 4.1).

    Args:
        size: width and height of the photograph in pixels.
        config: how much the photograph grows at most, and how large the square is.
        rng: draws both, and the places.

    Returns:
        Upper left corner ``x, y`` in the photograph and side, in pixels. The square may lie outside the photograph.
    """
    # Differs from the paper: colours are changed last, so that the plain colour changes too.
    enlarge = rng.uniform(1, config.largest_growth)
    share = 1.0 if rng.random() < config.whole_share else rng.uniform(config.smallest_share, 1)
    side = patch_side(size, enlarge, share)
    around = np.array(size) * enlarge
    photograph = rng.uniform(0, around - size)  # its corner in what surrounds it
    return rng.uniform(0, around - side) - photograph, side


def patch_side(size: tuple[int, int], enlarge: float, share: float) -> float:
    """Side of a square of ``share`` of the shorter side of a photograph of some size that was enlarged."""
    # The paper does not say whether the shorter side is that of the photograph or that of what surrounds it.
    return min(size) * enlarge * share


def _window(image: Image.Image, corner: FloatArray, side: float, size: int) -> Image.Image:
    """The window resized to ``size``; outside the photograph it has one plain colour."""
    low = np.maximum(corner, 0.0)
    high = np.minimum(corner + side, image.size)
    canvas = Image.new("RGB", (size, size), MEAN_RGB)
    if (high <= low).any():  # no part of the photograph is in the window
        return canvas
    start, stop = np.rint((low - corner) * size / side).astype(int), np.rint((high - corner) * size / side).astype(int)
    wide, tall = (int(value) for value in np.maximum(stop - start, 1))
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    part = image.resize((wide, tall), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    canvas.paste(part, (int(start[0]), int(start[1])))
    return canvas


def _colours(picture: Image.Image, config: PictureConfig, rng: np.random.Generator) -> Image.Image:
    if rng.random() < config.grey:
        return picture.convert("L").convert("RGB")
    if rng.random() >= config.colour:
        return picture
    contrast, saturation = rng.uniform(0.6, 1.4, 2)
    light = rng.uniform(0.92, 1.08, 3)
    levels = (117 + contrast * (np.arange(256) - 117) + rng.uniform(-32, 32)) * light[:, None]
    table = np.clip(np.rint(levels), 0, 255).astype(int)
    return ImageEnhance.Color(picture).enhance(float(saturation)).point(table.ravel().tolist())


def _faces_inside(
    boxes: FloatArray, points: FloatArray, invalid: BoolArray, mined: FloatArray, config: PictureConfig
) -> Faces:
    clipped, inside, visible = _clipped(boxes, config.size)
    boxes, points = clipped[visible], points[visible].reshape(-1, 2 * POINTS)
    ignored = (invalid | ~inside)[visible] | (longer_side(boxes) < config.min_face_px)
    negatives, inside, visible = _clipped(mined, config.size)
    negatives = negatives[inside & visible]
    found, marked, mistaken = (torch.from_numpy(values).float() for values in (boxes, points, negatives))
    return Faces(found, torch.from_numpy(ignored), marked, mistaken)


def _clipped(boxes: FloatArray, size: int) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Boxes cut to the picture, which of them have their centre in it, and of which at least a pixel is seen."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.asarray(((centre >= 0) & (centre < size)).all(axis=1))
    clipped = np.clip(boxes, 0, size)
    visible = np.asarray((clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1))
    return clipped, inside, visible

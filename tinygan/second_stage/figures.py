"""Figures of faces in pictures of one's own, as those of Bai et al. 2018 (Figures 1, 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tinygan.boxes import iou, square_crops
from tinygan.data.cutting import SCALE, cut_patch
from tinygan.detections import BoolArray, ByteArray, Detections, FloatArray, GroundTruth
from tinygan.pictures import FALSE, HIT, draw_boxes, load_font
from tinygan.second_stage.upscaling import SuperResolver

CONTEXT = 2.0  # side of a crop, as a factor on the longer side of the box
SMALL_PX = 96  # longest side of a crop that is enlarged: a face of 48 px
MATCH_IOU = 0.5
_LEAST_CONTRAST = 0.1  # 3 % of WIDER FACE's small faces have less
_WIDTH_PX, _TILE_PX, _GAP_PX, _TILES = 1024, 96, 6, 10


class Face(NamedTuple):
    """A face in a picture.

    Attributes:
        name: name of the picture.
        pixels: uint8 [S, S, 3], its crop as it is.
    """

    name: str
    pixels: ByteArray


def cut_faces(name: str, image: Image.Image, boxes: FloatArray | None) -> list[Face]:
    """The square crops around boxes, float64 [N, 4], in the picture's own pixels; without boxes its middle square."""
    if boxes is None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return [Face(name, np.array(image.crop((left, top, left + side, top + side))))]
    pixels, faces = np.asarray(image), []
    for square in square_crops(boxes, CONTEXT):
        side = int(np.clip(round(square[2] - square[0]), 1, min(image.size)))
        left = int(np.clip(round(square[0]), 0, image.width - side))  # moved inside: a mirrored face looks like two
        top = int(np.clip(round(square[1]), 0, image.height - side))
        faces.append(Face(name, pixels[top : top + side, left : left + side].copy()))
    return faces


class Enlargement(NamedTuple):
    """A face 4 times as large; all uint8 RGB, square.

    Attributes:
        lr: its crop as it is, shrunk to 96 px if it is larger.
        bicubic: by bicubic interpolation.
        resolved: by a generator.
    """

    lr: ByteArray
    bicubic: ByteArray
    resolved: ByteArray


def enlarge_face(image: Image.Image, box: FloatArray, resolver: SuperResolver) -> Enlargement:
    """Cut out a face, box float64 [4], and enlarge it; the generator is for small ones, so large ones are shrunk."""
    (face,) = cut_faces("", image, box[None])
    small = Image.fromarray(face.pixels)
    if small.width > SMALL_PX:
        small = small.resize((SMALL_PX, SMALL_PX), Image.Resampling.BICUBIC)
    size = (small.width * SCALE, small.height * SCALE)
    bicubic = np.asarray(small.resize(size, Image.Resampling.BICUBIC))
    return Enlargement(np.asarray(small), bicubic, np.asarray(resolver.upscale(small)))


def blur(pixels: ByteArray) -> float:
    """How little of its detail the middle of a picture would lose if it were blurred, in [0, 1]; larger is blurrier.

    -1 where it shows nothing but a slope of brightness, as an arm that is annotated as a face.
    """
    from skimage.measure import blur_effect  # a second to import

    middle = _middle(np.asarray(Image.fromarray(pixels).convert("L"), np.float64))
    if min(middle.shape) < 4 or _contrast(middle) < _LEAST_CONTRAST:
        return -1.0
    return float(blur_effect(middle, h_size=5))


def bad_light(pixels: ByteArray) -> float:
    """How far the mean brightness of the middle is from a well exposed face's; larger is darker or brighter."""
    return float(abs(_middle(pixels).mean() / 255 - 0.5))


def smallness(pixels: ByteArray) -> float:
    """Minus the side in pixels."""
    return -float(len(pixels))


def _middle(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Where the face is in its crop: half the height and width."""
    height, width = pixels.shape[:2]
    return pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _contrast(grey: FloatArray) -> float:
    """Standard deviation of what a plane does not explain, as a share of the mean brightness."""
    rows, columns = np.indices(grey.shape).reshape(2, -1)
    planes = np.stack([rows, columns, np.ones(grey.size)], axis=1)
    slope = planes @ np.linalg.lstsq(planes, grey.ravel(), rcond=None)[0]
    return float((grey.ravel() - slope).std() / (grey.mean() + 16))  # 16: noise in the dark is no contrast


HARDNESS: Mapping[str, Callable[[ByteArray], float]] = {"blur": blur, "light": bad_light, "size": smallness}


def shrunk_row(face: Face, lr_size: int, resolvers: Mapping[str, SuperResolver]) -> dict[str, ByteArray | None]:
    """Figure 1: a face made small, enlarged again in every way, and as it was."""
    size = SCALE * lr_size
    hr = np.asarray(Image.fromarray(face.pixels).resize((size, size), Image.Resampling.BICUBIC))
    lr = np.asarray(Image.fromarray(hr).resize((lr_size, lr_size), Image.Resampling.BICUBIC))
    return {**_enlarged(lr, resolvers), "HR": hr}


def hard_row(face: Face, resolvers: Mapping[str, SuperResolver]) -> dict[str, ByteArray | None]:
    """Figure 4: a small face as it is, and enlarged in every way."""
    return _enlarged(face.pixels, resolvers)


def _enlarged(lr: ByteArray, resolvers: Mapping[str, SuperResolver]) -> dict[str, ByteArray | None]:
    size = (lr.shape[1] * SCALE, lr.shape[0] * SCALE)
    row: dict[str, ByteArray | None] = {
        "LR": lr,
        "bilinear": np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BILINEAR)),
    }
    for name, resolver in resolvers.items():
        row |= {f"{name} {stage}".strip(): picture for stage, picture in resolver.stages(lr).items()}
    return row


class Judged(NamedTuple):
    """Detections of one picture against its true faces.

    Attributes:
        wrong: bool [N], detections that are no face.
        missed: bool [M], valid faces that no detection found.
    """

    wrong: BoolArray
    missed: BoolArray


def compare(found: Detections, truth: GroundTruth) -> Judged:
    """Which detections are no face and which faces are missed; at IoU 0.5, each face once, invalid faces ignored."""
    overlaps = iou(found.boxes, truth.boxes)
    taken = np.zeros(len(truth), np.bool_)
    wrong = np.zeros(len(found), np.bool_)
    for row in np.argsort(-found.scores, kind="stable"):
        best = int(overlaps[row].argmax()) if len(truth) else -1
        hit = best >= 0 and overlaps[row, best] >= MATCH_IOU
        if hit and truth.usable[best] and not taken[best]:
            taken[best] = True
        elif not hit or truth.usable[best]:
            wrong[row] = True
    return Judged(wrong, truth.usable & ~taken)


def found_picture(name: str, image: Image.Image, found: Detections, truth: GroundTruth) -> ByteArray:
    """Figure 5: true faces green, ours red, and below them the failures: faces missed, and boxes on no annotated face.

    Returns:
        uint8 RGB [H, 1024, 3].
    """
    judged = compare(found, truth)
    scale = _WIDTH_PX / image.width
    shown = np.asarray(image.resize((_WIDTH_PX, round(image.height * scale)), Image.Resampling.BICUBIC))
    shown = draw_boxes(shown, truth.boxes[truth.usable] * scale, HIT)
    shown = draw_boxes(shown, found.boxes * scale, FALSE)
    faces = int(truth.usable.sum())
    head = f"{name}: {faces - int(judged.missed.sum())} of {faces} faces found, {int(judged.wrong.sum())} boxes on none"
    order = np.flatnonzero(judged.wrong)
    order = order[np.argsort(-found.scores[order], kind="stable")]
    strips = [
        _strip(image, "missed:", truth.boxes[judged.missed], HIT),
        _strip(image, "on no annotated face:", found.boxes[order], FALSE),
    ]
    return np.concatenate(
        [_line(f"{head}   (green: true, red: ours)"), shown, *(one for one in strips if one is not None)]
    )


def _line(text: str) -> ByteArray:
    strip = Image.new("RGB", (_WIDTH_PX, 28), (20, 20, 20))
    ImageDraw.Draw(strip).text((8, 14), text, fill=(255, 255, 255), font=load_font(15), anchor="lm")
    return np.asarray(strip)


def _strip(image: Image.Image, title: str, boxes: FloatArray, colour: tuple[int, int, int]) -> ByteArray | None:
    """Crops of the first boxes, each box drawn in its crop; ``None`` without boxes."""
    if not len(boxes):
        return None
    strip = Image.new("RGB", (_WIDTH_PX, _TILE_PX + 28 + _GAP_PX), (20, 20, 20))
    more = f" (the first {_TILES} of {len(boxes)})" if len(boxes) > _TILES else ""
    ImageDraw.Draw(strip).text((8, 14), f"{title}{more}", fill=colour, font=load_font(14), anchor="lm")
    for number, (box, square) in enumerate(zip(boxes[:_TILES], square_crops(boxes[:_TILES], CONTEXT), strict=True)):
        tile = cut_patch(image, square, _TILE_PX)
        factor = _TILE_PX / (square[2] - square[0])
        own = (box - np.tile(square[:2], 2)) * factor
        drawn = draw_boxes(tile, own[None], colour, width_px=1)
        strip.paste(Image.fromarray(drawn), (_GAP_PX + number * (_TILE_PX + _GAP_PX), 28))
    return np.asarray(strip)


def most_failures(judged: Mapping[str, Judged], count: int) -> Sequence[str]:
    """Names of the pictures with the most failures, the worst first."""
    failures = {name: int(one.wrong.sum() + one.missed.sum()) for name, one in judged.items()}
    return sorted(failures, key=lambda name: (-failures[name], name))[:count]

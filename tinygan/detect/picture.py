"""What ``tinygan-detect`` shows: boxes by what the second stage did to them, and the super-resolved faces below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinygan.boxes import intersection, longer_side
from tinygan.detections import ByteArray, Detections, FloatArray
from tinygan.pictures import Colour, draw_boxes, fit_font, load_font

OUTCOMES = ("kept", "raised", "lowered", "moved")  # of :func:`tinygan.detect.detector.outcomes`
COLOURS: Mapping[str, Colour] = {  # of different brightness, so that most differ in grey too
    "kept": (0, 130, 255),
    "raised": (90, 240, 110),
    "lowered": (255, 110, 0),
    "moved": (130, 30, 170),
    "found": (255, 245, 0),
}
DROPPED: Colour = (255, 70, 70)

_PAPER: Colour = (24, 24, 24)
_INK: Colour = (240, 240, 240)
_FAINT: Colour = (170, 170, 170)
_SMALLEST_PX, _LARGEST_PX, _MOST_TIMES = 640, 4096, 16  # longer side of the picture shown; largest magnification
_NARROWEST_PX, _TILE_PX, _GAP_PX = 480, 64, 8  # of the whole; least side of a small face; between them
_SCORED_PX = 36  # boxes of at least this size show their score


class Tile(NamedTuple):
    """A small face, as it is and super-resolved.

    Attributes:
        row: which of the detections.
        lr: uint8 RGB [s, s, 3].
        refined: uint8 RGB [S, S, 3].
    """

    row: int
    lr: ByteArray
    refined: ByteArray


def mark_faces(
    image: ByteArray, found: Detections, dropped: FloatArray, labels: Mapping[int, str] | None = None
) -> ByteArray:
    """Draw boxes, coloured by outcome (:data:`COLOURS`); dropped ones are thin and red.

    Args:
        image: uint8 RGB [H, W, 3].
        found: with column ``outcome``.
        dropped: float64 [M, 4], boxes that the second stage lowered below the threshold.
        labels: ``{row: text}``, written beside a box where there is room.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        ValueError: if the image is not uint8 [H, W, 3].
    """
    width_px = max(2, round(max(image.shape[:2]) / 500))
    drawn = draw_boxes(image, dropped, DROPPED, width_px=max(1, width_px // 2))
    by_outcome = [COLOURS[outcome] for outcome in found.fields["outcome"]][::-1]
    drawn = draw_boxes(drawn, found.boxes[::-1], (0, 0, 0), width_px=width_px + 1)
    drawn = draw_boxes(drawn, found.boxes[::-1], by_outcome, width_px=width_px)
    return _labelled(drawn, found.boxes, labels, width_px) if labels else drawn


def detection_picture(
    image: ByteArray, found: Detections, dropped: FloatArray, tiles: Sequence[Tile] = ()
) -> ByteArray:
    """A picture with its boxes, a legend above and its small faces below: as they are, and super-resolved.

    Small pictures are enlarged, so that boxes can be told apart; very large ones are shrunk.

    Args:
        image: uint8 RGB [H, W, 3].
        found: boxes in pixels of the image, with column ``outcome``.
        dropped: float64 [M, 4], boxes that the second stage lowered below the threshold.
        tiles: small faces, the best first; as many are shown as one line holds.

    Returns:
        uint8 RGB [H', W', 3].

    Raises:
        ValueError: if the image is not uint8 [H, W, 3].
    """
    shown, scale = resize_to_show(image)
    width = max(_NARROWEST_PX, shown.shape[1])
    columns = min(len(tiles), (width - _GAP_PX) // (_TILE_PX + _GAP_PX))
    scaled = Detections(found.boxes * scale, found.scores, found.fields)
    labels = {tile.row: str(number) for number, tile in enumerate(tiles[:columns], start=1)}
    for row in np.flatnonzero(longer_side(scaled.boxes) >= _SCORED_PX):
        labels.setdefault(int(row), f"{found.scores[row]:.2f}")
    photo = mark_faces(shown, scaled, dropped * scale, labels)
    strip = _strip(width, tiles[:columns], found.scores)
    return np.concatenate([_legend(width, found, len(dropped)), _centred(photo, width), strip])


def resize_to_show(image: ByteArray) -> tuple[ByteArray, FloatArray]:
    """Enlarge a small picture, so that boxes can be told apart; shrink a very large one.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        uint8 RGB [H', W', 3], and the factors, float64 [4], on ``x, y, x, y``.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    factor = min(_MOST_TIMES, math.ceil(_SMALLEST_PX / longer)) if longer < _SMALLEST_PX else 1.0
    factor = min(factor, _LARGEST_PX / longer)
    if factor == 1:
        return image, np.ones(4)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return resized, np.tile([size[0] / width, size[1] / height], 2)


def _centred(photo: ByteArray, width: int) -> ByteArray:
    left = (width - photo.shape[1]) // 2
    canvas = np.full((photo.shape[0], width, 3), _PAPER, dtype=np.uint8)
    canvas[:, left : left + photo.shape[1]] = photo
    return canvas


def _legend(width: int, found: Detections, dropped: int) -> ByteArray:
    """One line: how many faces, and how many of each colour."""
    outcomes = found.fields["outcome"].tolist()
    named = [name for name in COLOURS if name in OUTCOMES or name in outcomes]
    entries = [(COLOURS[name], f"{outcomes.count(name)} {name}") for name in named]
    entries.append((DROPPED, f"{dropped} dropped"))
    title = f"{len(found)} face{'' if len(found) == 1 else 's'}"
    largest = load_font(min(80, max(15, width // 42)))
    wide = title + "".join(f"   MM{text}" for _, text in entries)
    font = fit_font(largest, wide, width - 2 * _GAP_PX)
    height = round(2 * font.size)
    bar = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(bar)
    x, side, space = float(_GAP_PX), round(0.7 * font.size), font.getlength("   ")
    draw.text((x, height / 2), title, fill=_INK, font=font, anchor="lm")
    x += font.getlength(title) + space
    for colour, text in entries:
        top = (height - side) // 2
        thin = 1 + side // 12
        draw.rectangle((x, top, x + side, top + side), outline=colour, width=thin if colour == DROPPED else 2 + thin)
        draw.text((x + 1.4 * side, height / 2), text, fill=_INK, font=font, anchor="lm")
        x += 1.4 * side + font.getlength(text) + space
    return np.asarray(bar, dtype=np.uint8)


def _strip(width: int, tiles: Sequence[Tile], scores: FloatArray) -> ByteArray:
    """Two rows of faces, their numbers and scores below; one line of text if there are none."""
    side = min(max(112, width // 13), (width - _GAP_PX) // max(1, len(tiles)) - _GAP_PX)
    font = load_font(max(13, side // 6))
    title = "small faces: as they are (above), super-resolved 4x (below)"
    title = title if tiles else "no face is small enough to be super-resolved"
    head, foot = round(1.9 * font.size), round(1.7 * font.size)
    strip = Image.new("RGB", (width, head + bool(tiles) * (2 * side + _GAP_PX // 2 + foot)), _PAPER)
    draw = ImageDraw.Draw(strip)
    fitting = fit_font(font, title, width - 2 * _GAP_PX)
    draw.text((_GAP_PX, head / 2), title, fill=_FAINT, font=fitting, anchor="lm")
    for number, tile in enumerate(tiles, start=1):
        x = _GAP_PX + (number - 1) * (side + _GAP_PX)
        lower = head + side + _GAP_PX // 2
        strip.paste(Image.fromarray(tile.lr).resize((side, side), Image.Resampling.NEAREST), (x, head))
        strip.paste(Image.fromarray(tile.refined).resize((side, side), Image.Resampling.BICUBIC), (x, lower))
        at = (x + side / 2, lower + side + foot / 2)
        draw.text(at, f"{number}:  {scores[tile.row]:.2f}", fill=_INK, font=font, anchor="mm")
    return np.asarray(strip, dtype=np.uint8)


def _labelled(image: ByteArray, boxes: FloatArray, labels: Mapping[int, str], width_px: int) -> ByteArray:
    """Write texts beside boxes, each where it covers neither a box nor another text; else it is left out."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = load_font(max(12, 6 * width_px))
    taken = [box + np.array([-1, -1, 1, 1]) * (width_px + 1) for box in boxes]
    for row, text in labels.items():
        for place in _places(draw, font, text, taken[row]):
            free = not (intersection(place[None], np.array(taken)) > 0).any()
            if free and place.min() >= 0 and place[2] <= picture.width and place[3] <= picture.height:
                draw.rectangle(place.tolist(), fill=(0, 0, 0))
                middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
                draw.text(middle, text, fill=_INK, font=font, anchor="mm")
                taken.append(place)
                break
    return np.asarray(picture, dtype=np.uint8)


def _places(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str, box: FloatArray
) -> Iterator[FloatArray]:
    """Where a text could stand: above, right of, left of and below a box; float64 [4] each."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    width, height = right - left + 4, bottom - top + 4
    x1, y1, x2, y2 = box
    for x, y in ((x1, y1 - height), (x2, y1), (x1 - width, y1), (x1, y2), (x2, y2 - height), (x2 - width, y1 - height)):
        yield np.array([x, y, x + width, y + height])

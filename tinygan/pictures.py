"""Pictures for people to look at: boxes on images, sheets of super-resolved patches, training curves."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinygan import boxes as box_maths
from tinygan.detections import BoolArray, ByteArray, Detections, FloatArray, GroundTruth
from tinygan.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Colour = tuple[int, int, int]

HIT: Colour = (50, 225, 80)
FALSE: Colour = (240, 45, 45)
MISSED: Colour = (255, 225, 0)
IGNORED: Colour = (165, 165, 165)
UNJUDGED: Colour = (0, 190, 255)

_PAPER: Colour = (250, 250, 250)
_TILE: Colour = (225, 225, 225)
_INK: Colour = (30, 30, 30)
_MATCH_IOU, _GAP_PX = 0.5, 8
_NOT_PLOTTED = ("step", "epoch", "seconds")
_CURVE_COLUMNS, _SMOOTHING_WINDOWS = 3, 25


def draw_boxes(
    image: ByteArray,
    boxes: FloatArray,
    colours: Colour | Sequence[Colour],
    labels: Sequence[str] | None = None,
    width_px: int = 2,
) -> ByteArray:
    """Draw box outlines on a copy of an image, just outside each box, so that a tiny face stays visible.

    Args:
        image: uint8 RGB [H, W, 3].
        boxes: float64 [N, 4], ``x1, y1, x2, y2`` in pixels of the image.
        colours: RGB colour, 0-255, one for all boxes or one per box.
        labels: N short texts, which are written above the boxes.
        width_px: thickness of the outline in pixels.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        ValueError: if the image is not uint8 [H, W, 3], or there are not N colours or labels.
    """
    picture = Image.fromarray(_checked(image))
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"got {len(boxes)} boxes but {len(labels)} labels")
    draw = ImageDraw.Draw(picture)
    palette = _palette(colours, len(boxes))
    for box, colour in zip(boxes, palette, strict=True):
        draw.rectangle(_outer(box, width_px), outline=colour, width=width_px)
    if labels is not None:
        font = load_font(max(10, 5 * width_px))
        for box, colour, label in zip(boxes, palette, labels, strict=True):
            height = draw.textbbox((0, 0), label, font)[3]
            at = (float(box[0]) - width_px, max(0.0, float(box[1]) - width_px - height - 2))
            draw.rectangle(draw.textbbox(at, label, font), fill=(0, 0, 0))
            draw.text(at, label, fill=colour, font=font)
    return np.asarray(picture, dtype=np.uint8)


def before_after(
    image: ByteArray, before: Detections, after: Detections, truth: GroundTruth | None, top: int
) -> ByteArray:
    """Two rankings of an image's detections side by side, each showing its ``top`` best-scored boxes.

    Green boxes match a true face (IoU >= 0.5, each face once), red ones do not, dashed yellow boxes are faces that no
    box in the panel matches, grey boxes are *ignored*. Without truth all boxes are blue.

    Args:
        image: uint8 RGB [H, W, 3].
        before: detections as the first stage ranked them.
        after: detections in the same image as the second stage ranked them.
        truth: the true faces, if they are known.
        top: number of boxes in each panel.

    Returns:
        uint8 RGB [H + caption, 2 W + gap, 3].

    Raises:
        ValueError: if the image is not uint8 [H, W, 3].
    """
    rankings = (("before", before), ("after", after))
    panels = [_panel(_checked(image), name, ranked.sorted()[:top], truth) for name, ranked in rankings]
    gap = np.full((len(panels[0]), _GAP_PX, 3), _PAPER, dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def sr_sheet(
    rows: Sequence[Mapping[str, ByteArray | None]], tile_px: int = 96, labels: Sequence[str] | None = None
) -> ByteArray:
    """A table of patches with titles: one row per patch, one column per method.

    Args:
        rows: ``{column title: uint8 RGB [h, w, 3], or None}``, one mapping per row; columns are in the order in which
            they are first named. ``LR`` is enlarged by nearest neighbour, all others by bicubic interpolation.
        tile_px: side of a patch on the sheet, in pixels.
        labels: one text per row, which is written to the left of it.

    Returns:
        uint8 RGB [H, W, 3]; one tile that says "no patches" if there are no rows.

    Raises:
        ValueError: if a patch is not uint8 [h, w, 3], or there are more or fewer labels than rows.
    """
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"got {len(rows)} rows but {len(labels)} labels")
    titles = list(dict.fromkeys(title for row in rows for title in row)) or ["no patches"]
    font = load_font(max(11, tile_px // 7))
    left = max((math.ceil(font.getlength(label)) + _GAP_PX for label in labels or ()), default=0)
    step, top = tile_px + _GAP_PX // 2, round(tile_px / 4) + 6
    size = (left + step * len(titles) + _GAP_PX // 2, top + step * max(1, len(rows)) + _GAP_PX // 2)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        x = left + _GAP_PX // 2 + column * step
        draw.text((x + tile_px / 2, top / 2), title, fill=_INK, font=fit_font(font, title, tile_px), anchor="mm")
        for row, patches in enumerate(rows or [{}]):
            sheet.paste(_tile(patches.get(title), title, tile_px), (x, top + row * step))
    for row, label in enumerate(labels or ()):
        draw.text((_GAP_PX // 2, top + row * step + tile_px / 2), label, fill=_INK, font=font, anchor="lm")
    return np.asarray(sheet, dtype=np.uint8)


def loss_curves(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a PNG with one panel per logged term: the values faint, their running mean on top.

    Args:
        metrics: rows of ``metrics.jsonl``: ``step`` and named terms; a term may be absent from some rows.
        path: the PNG file, which is written atomically; its folder is made if absent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    named = {name: None for row in metrics for name in row if name not in _NOT_PLOTTED}
    columns = max(1, min(_CURVE_COLUMNS, len(named)))
    lines = max(1, math.ceil(len(named) / columns))
    figure = Figure(figsize=(4.2 * columns, 2.5 * lines), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    if not named:
        figure.text(0.5, 0.5, "nothing logged yet", ha="center", va="center")
    for position, name in enumerate(named):
        points = [(row["step"], row[name]) for row in metrics if name in row and "step" in row]
        _plot(figure.add_subplot(lines, columns, position + 1), name, np.array(points, dtype=np.float64).reshape(-1, 2))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def save_png(image: ByteArray, path: Path) -> None:
    """Write an image as a PNG atomically; the folder is made if absent.

    Args:
        image: uint8 RGB [H, W, 3].
        path: the PNG file.

    Raises:
        ValueError: if the image is not uint8 [H, W, 3].
    """
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(_checked(image))).save(content, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _panel(image: ByteArray, name: str, shown: Detections, truth: GroundTruth | None) -> ByteArray:
    """An image with its boxes, and a caption strip above it."""
    width_px = max(2, round(image.shape[1] / 500))
    if truth is None:
        drawn = draw_boxes(image, shown.boxes, UNJUDGED, width_px=width_px)
        return _captioned(drawn, f"{name}: the {len(shown)} best boxes", "")
    hit, false, found = _match(shown, truth)
    ignored = ~(hit | false)
    drawn = draw_boxes(image, truth.boxes[~truth.usable], IGNORED, width_px=1)
    for rows, colour in ((ignored, IGNORED), (false, FALSE), (hit, HIT)):
        drawn = draw_boxes(drawn, shown.boxes[rows], colour, width_px=width_px)
    drawn = _dashed(drawn, truth.boxes[truth.usable & ~found], width_px)
    counts = f"{name}: {found.sum()} of {truth.usable.sum()} faces, {false.sum()} false"
    return _captioned(drawn, counts, "green: face   red: false   yellow: missed")


def _match(shown: Detections, truth: GroundTruth) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Which detections (in order of falling score) match a face, which are false, and which faces are found."""
    overlaps = box_maths.iou(shown.boxes, truth.boxes)
    hit, false = np.zeros(len(shown), dtype=np.bool_), np.zeros(len(shown), dtype=np.bool_)
    found = np.zeros(len(truth), dtype=np.bool_)
    for row, overlap in enumerate(overlaps):
        face = int(overlap.argmax()) if len(overlap) else -1
        if face < 0 or overlap[face] < _MATCH_IOU or found[face]:
            false[row] = True
        elif truth.usable[face]:
            hit[row] = found[face] = True
    return hit, false, found


def _dashed(image: ByteArray, boxes: FloatArray, width_px: int) -> ByteArray:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    dash = 3 * width_px + 1
    for box in boxes:
        x1, y1, x2, y2 = _outer(box, width_px)
        for x in range(x1, x2 + 1, 2 * dash):
            end = min(x + dash - 1, x2)
            draw.rectangle((x, y1, end, y1 + width_px - 1), fill=MISSED)
            draw.rectangle((x, y2 - width_px + 1, end, y2), fill=MISSED)
        for y in range(y1, y2 + 1, 2 * dash):
            end = min(y + dash - 1, y2)
            draw.rectangle((x1, y, x1 + width_px - 1, end), fill=MISSED)
            draw.rectangle((x2 - width_px + 1, y, x2, end), fill=MISSED)
    return np.asarray(picture, dtype=np.uint8)


def _captioned(image: ByteArray, text: str, legend: str) -> ByteArray:
    height, width = image.shape[:2]
    largest = load_font(min(48, max(14, width // 32)))
    strip_px = round(1.7 * largest.size)
    font = fit_font(largest, text, width - 2 * _GAP_PX)
    whole = Image.new("RGB", (width, height + strip_px), (20, 20, 20))
    draw = ImageDraw.Draw(whole)
    draw.text((_GAP_PX, strip_px / 2), text, fill=(255, 255, 255), font=font, anchor="lm")
    small = load_font(max(10, round(0.6 * font.size)))
    if font.getlength(text) + small.getlength(legend) + 4 * _GAP_PX < width:
        draw.text((width - _GAP_PX, strip_px / 2), legend, fill=(190, 190, 190), font=small, anchor="rm")
    whole.paste(Image.fromarray(image), (0, strip_px))
    return np.asarray(whole, dtype=np.uint8)


def _tile(patch: ByteArray | None, title: str, tile_px: int) -> Image.Image:
    if patch is not None:
        method = Image.Resampling.NEAREST if title == "LR" else Image.Resampling.BICUBIC
        return Image.fromarray(_checked(patch)).resize((tile_px, tile_px), method)
    tile = Image.new("RGB", (tile_px, tile_px), _TILE)
    dash = [(tile_px * 0.42, tile_px / 2), (tile_px * 0.58, tile_px / 2)]
    ImageDraw.Draw(tile).line(dash, fill=_INK, width=max(1, tile_px // 32))
    return tile


def _plot(axes: Axes, name: str, points: FloatArray) -> None:
    steps, values = points.T
    marker = "o" if len(points) <= _SMOOTHING_WINDOWS else ""
    axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.8, marker=marker, markersize=3)
    window = 1 + 2 * (len(points) // (2 * _SMOOTHING_WINDOWS))
    if len(points):
        kernel = np.ones(window)
        mean = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
        axes.plot(steps, mean, color="tab:blue", linewidth=1.6)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step", fontsize=8)


def _palette(colours: Colour | Sequence[Colour], count: int) -> list[Colour]:
    given = np.asarray(colours, dtype=np.int64)
    rows = np.tile(given, (count, 1)) if given.shape == (3,) else given.reshape(-1, 3)
    if len(rows) != count:
        raise ValueError(f"got {count} boxes but {len(rows)} colours")
    return [(int(red), int(green), int(blue)) for red, green, blue in rows]


def _outer(box: FloatArray, width_px: int) -> tuple[int, int, int, int]:
    """Corners, in inclusive pixels, of an outline just outside a box."""
    x1, y1 = (math.floor(value) - width_px for value in box[:2])
    x2, y2 = (math.ceil(value) - 1 + width_px for value in box[2:])
    return x1, y1, max(x1, x2), max(y1, y2)


def load_font(size_px: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, at least 6 px high."""
    font = ImageFont.load_default(max(6, size_px))
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels hold a scalable font"
    return font


def fit_font(font: ImageFont.FreeTypeFont, text: str, width_px: int) -> ImageFont.FreeTypeFont:
    """The font, smaller if the text is wider than ``width_px``."""
    too_wide = font.getlength(text) / max(1, width_px)
    return font if too_wide <= 1 else load_font(math.floor(font.size / too_wide))


def _checked(image: ByteArray) -> ByteArray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 RGB image [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image

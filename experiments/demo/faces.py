"""Draws people: a face painted on a shaded ellipsoid, with hair, hat, glasses, beard, neck and shoulders.

Lengths are in face heights (hair line to chin is about 1), with the origin at the face's middle and y
down. On the head, ``p`` and ``q`` are the face's own right and down directions, -1 to 1 from edge to
edge: turning the head moves everything painted at (p, q) as on a real head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from experiments.demo.features import Head, paint_skin
from experiments.demo.people import Colour, Person

FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_HEAD_MIDDLE, _HEAD_HALF = -0.08, 0.58
_FACE_HEIGHT = 0.93  # from an average hair line to the chin
_SHARPEST_PX = 64


@dataclass(frozen=True)
class Sprite:
    """Something to paste into a scene.

    Attributes:
        rgb: float32 [h, w, 3] in [0, 1], already multiplied by ``alpha``.
        alpha: float32 [h, w] in [0, 1].
        core: bool [h, w]: the face proper (or the whole of what is no face), the pixels that must stay visible.
        box: ``x1, y1, x2, y2`` of the core in the sprite's pixels, x2/y2 exclusive.
        is_face: whether it is one.
        attributes: WIDER FACE's flags that are known from the drawing: ``expression``, ``pose``.
    """

    rgb: FloatImage
    alpha: FloatImage
    core: Mask
    box: tuple[float, float, float, float]
    is_face: bool
    attributes: dict[str, int] = field(default_factory=dict)


def draw_person(person: Person, height_px: float, rng: np.random.Generator) -> Sprite:
    """Draw someone, head and shoulders, at several times the size and average it down.

    Args:
        person: how they look.
        height_px: pixels from hair line to chin, about.
        rng: for the texture of hair and the position within a pixel.

    Returns:
        A sprite about twice as wide and high as the face; its core is the face without hair and hat.
    """
    canvas, times = _blank_canvas(height_px / _FACE_HEIGHT, rng.random(2))
    _draw_body(canvas, person)
    core = np.zeros(canvas.alpha.shape, dtype=np.bool_)
    window = canvas.head_window()
    core[window] = _draw_head(canvas.part(*window), person, rng)
    if not core.any():  # the back of a head shows no skin: its box is the head's
        core = canvas.alpha * (canvas.y < 0.5) > 0.5
    x1, y1, x2, y2 = (edge / times for edge in bounds(core))
    flags = {
        "expression": int(person.mouth_open > 0.5),
        "pose": int(abs(person.yaw) > 0.6 or abs(person.roll) > 0.4),
    }
    visible = average(core.astype(np.float32), times) >= 0.5
    is_face = person.features > 0 and person.hairline < 0.5
    alpha = average(canvas.alpha, times)
    rgb = np.minimum(average(canvas.rgb, times), alpha[..., None])
    return Sprite(rgb, alpha, visible, (x1, y1, x2, y2), is_face, flags)


def add_shoulders(head: Sprite, person: Person) -> Sprite:
    """Set a photographed head on drawn shoulders.

    Args:
        head: a face; its box gives the size.
        person: whose neck and clothes.

    Returns:
        A sprite about twice as wide and high as the head's box.
    """
    x1, y1, x2, y2 = head.box
    canvas, times = _blank_canvas((y2 - y1) / _FACE_HEIGHT, np.zeros(2))
    _draw_body(canvas, person)
    rgb, alpha = average(canvas.rgb, times), average(canvas.alpha, times)
    rgb = np.minimum(rgb, alpha[..., None])
    left = round(alpha.shape[1] / 2 - (x1 + x2) / 2)
    top = max(0, round((y2 - y1) - (y1 + y2) / 2))
    rows, columns = head.alpha.shape
    window = np.s_[top : top + rows, left : left + columns]
    rgb[window] = rgb[window] * (1 - head.alpha[..., None]) + head.rgb
    alpha[window] += (1 - alpha[window]) * head.alpha
    core = np.zeros(alpha.shape, dtype=np.bool_)
    core[window] = head.core
    return replace(head, rgb=rgb, alpha=alpha, core=core, box=(x1 + left, y1 + top, x2 + left, y2 + top))


class _Canvas:
    """Premultiplied colours over a grid of coordinates in face heights."""

    def __init__(self, x: FloatImage, y: FloatImage, alpha: FloatImage, rgb: FloatImage) -> None:
        self.x, self.y = x, y
        self.alpha, self.rgb = alpha, rgb

    def part(self, rows: slice, columns: slice) -> _Canvas:
        """A window that shares this canvas's pixels."""
        window = (rows, columns)
        return _Canvas(self.x[window], self.y[window], self.alpha[window], self.rgb[window])

    def head_window(self) -> tuple[slice, slice]:
        """Rows and columns that hold any head, however it is turned."""
        left, right = np.searchsorted(self.x[0], (-0.75, 0.75))
        return slice(0, int(np.searchsorted(self.y[:, 0], 0.65))), slice(int(left), int(right))

    def paint(self, where: Mask, colours: FloatImage | Colour) -> None:
        """Lay colours ([n, 3] or one) over the n pixels of a mask."""
        self.rgb[where] = colours
        self.alpha[where] = 1


def _blank_canvas(height_px: float, shift_px: npt.NDArray[np.float64]) -> tuple[_Canvas, int]:
    """Room for head and shoulders of a face ``height_px`` high, and how many times finer it is than a pixel."""
    times = int(np.clip(np.ceil(_SHARPEST_PX / height_px), 2, 6))
    width, height = (int(np.ceil(side * height_px)) + 1 for side in (2.0, 2.1))
    x = ((np.arange(width * times) + 0.5) / times - height_px - shift_px[0]) / height_px
    y = ((np.arange(height * times) + 0.5) / times - 0.95 * height_px - shift_px[1]) / height_px
    across, down = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    return _Canvas(across, down, np.zeros_like(across), np.zeros((*across.shape, 3), dtype=np.float32)), times


def _draw_body(canvas: _Canvas, person: Person) -> None:
    x, y = canvas.x, canvas.y
    shoulders = np.abs(x / 0.95) ** 2.4 + ((y - 1.3) / 0.66) ** 2 < 1
    lit = 0.75 + 0.3 * person.light[0] * x[shoulders] - 0.25 * (y[shoulders] - 0.8)
    canvas.paint(shoulders, _shaded(lit, person.cloth))
    fade = np.clip((1.13 - y) / 0.16, 0, 1)
    canvas.rgb *= fade[..., None]
    canvas.alpha *= fade
    if person.hair_length > 0:
        reach = person.half_width + 0.06 + person.hair_volume
        middle = -0.12 + person.hair_length / 2
        behind = (x / reach) ** 2 + ((y - middle) / (0.62 + person.hair_length / 2)) ** 2 < 1
        canvas.paint(behind, _darker(person.hair, 0.75))
    half = person.half_width * (0.55 + 0.35 * np.clip(y - 0.55, 0, 1) ** 1.5)
    neck = (np.abs(x) < half) & (y > 0.2) & (y < 0.78 - 0.35 * np.abs(x))
    shadow = 0.45 + 0.4 * np.clip((y[neck] - 0.5) / 0.25, 0, 1) + 0.15 * person.light[0] * x[neck]
    canvas.paint(neck, _shaded(shadow, person.skin))


def _draw_head(canvas: _Canvas, person: Person, rng: np.random.Generator) -> Mask:
    """Paint the head; returns where the face is."""
    cos, sin = np.cos(person.roll), np.sin(person.roll)
    x, y = canvas.x * cos + canvas.y * sin, canvas.y * cos - canvas.x * sin
    half = person.half_width * (1 - person.jaw * np.clip((y - 0.05) / 0.47, 0, 1) ** 2)
    side = np.sign(person.yaw) if person.yaw else 1.0
    for ear in (-1.0, 1.0):
        if abs(person.yaw) < 0.35 or ear == side:
            at = ear * person.half_width * 0.99
            shell = ((x - at) / 0.055) ** 2 + ((y - 0.0) / 0.12) ** 2 < 1
            canvas.paint(shell, _darker(person.skin, 0.72))
    across, down = x / half, (y - _HEAD_MIDDLE) / _HEAD_HALF
    has_hair = person.hairline > -1
    if has_hair:
        reach = 1 + person.hair_volume / person.half_width
        tall = 0.57 + 0.7 * person.hair_volume
        volume = np.abs(x / (person.half_width * reach)) ** 2.5 + np.abs((y + 0.1) / tall) ** 2.5 < 1
        volume &= y < (0.05 if person.hair_length == 0 else 0.45)
        canvas.paint(volume, _hair_colours(x[volume], y[volume], person, rng))
    inside = across**2 + down**2 < 1
    head = Head(across[inside], down[inside], person)
    hairy = head.hair_cover(person) if has_hair else np.zeros(len(head.p), dtype=np.bool_)
    colours = paint_skin(head, person, rng)
    colours[hairy] = _hair_colours(x[inside][hairy], y[inside][hairy], person, rng)
    canvas.paint(inside, np.clip(colours, 0, 1))
    core: Mask = inside.copy()
    core[inside] = ~hairy & (head.q > max(person.hairline, -0.6))
    if person.hat is not None:
        core &= ~_draw_hat(canvas, x, y, person, person.hat)
    return core


def _draw_hat(canvas: _Canvas, x: FloatImage, y: FloatImage, person: Person, colour: Colour) -> Mask:
    reach = person.half_width + 0.06
    crown = ((x / reach) ** 2 + ((y + 0.2) / 0.62) ** 2 < 1) & (y < -0.34)
    shift = 0.25 * np.sin(person.yaw)
    brim = ((x - shift) / (reach * 1.12)) ** 2 + ((y + 0.33) / 0.07) ** 2 < 1
    for part, shade in ((crown, 0.85), (brim, 0.55)):
        lit = shade + 0.4 * person.light[0] * x[part]
        canvas.paint(part, _shaded(lit, colour))
    hat: Mask = crown | brim
    return hat


def _hair_colours(x: FloatImage, y: FloatImage, person: Person, rng: np.random.Generator) -> FloatImage:
    """Strands that fall from the crown, lit from the light's side."""
    angle = np.arctan2(x, y + 1.3)
    strands = sum(np.sin(angle * rate + rng.uniform(0, 6.3)) for rate in (31, 57, 93)) / 3
    sheen = np.exp(-(((y + 0.5 + 0.25 * x**2) / 0.09) ** 2))
    lit = 0.8 + 0.22 * strands + 0.9 * person.light[0] * x - 0.25 * y + 0.35 * sheen * (1 - person.ambient)
    return _shaded(np.clip(lit, 0.3, 1.8), person.hair)


def _shaded(lit: FloatImage, colour: Colour) -> FloatImage:
    """One colour under the light of n points: [n, 3]."""
    shaded: FloatImage = np.outer(lit, colour).astype(np.float32)
    return shaded


def _darker(colour: Colour, light: float) -> Colour:
    red, green, blue = colour
    return red * light, green * light, blue * light


def bounds(mask: Mask) -> tuple[int, int, int, int]:
    """The tight box ``x1, y1, x2, y2`` (exclusive) of a mask [H, W] that holds something."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def average(values: FloatImage, times: int) -> FloatImage:
    """Shrink [H, W, ...] by a whole factor: the mean of each block."""
    rows, columns = values.shape[0] // times, values.shape[1] // times
    total = np.zeros((rows, columns, *values.shape[2:]), dtype=np.float32)
    for row in range(times):
        for column in range(times):
            total += values[row : rows * times : times, column : columns * times : times]
    means: FloatImage = total / np.float32(times**2)
    return means

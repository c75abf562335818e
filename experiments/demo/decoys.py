"""Draws decoys, which detectors mistake for faces: blank masks, backs of heads, balls, clocks, hands, discs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from experiments.demo.faces import Sprite, average, bounds, draw_person
from experiments.demo.people import SKINS, random_person
from experiments.demo.photos import Photos, cat_face, empty_patch

_TIMES = 4


def random_decoy(photos: Photos, height_px: float, rng: np.random.Generator) -> Sprite:
    """One of the kinds at random, about ``height_px`` high."""
    kinds: dict[str, tuple[float, Callable[[], Sprite]]] = {
        "mask": (0.18, lambda: _blank_mask(height_px, rng)),
        "back": (0.18, lambda: _back_of_head(height_px, rng)),
        "ball": (0.12, lambda: _ball(height_px, rng)),
        "clock": (0.08, lambda: _clock(height_px, rng)),
        "hand": (0.12, lambda: _hand(height_px, rng)),
        "disc": (0.10, lambda: _disc(height_px, rng)),
        "cat": (0.06, lambda: cat_face(photos, height_px, rng)),
        "patch": (0.16, lambda: empty_patch(photos, height_px, rng)),
    }
    chosen = rng.choice(list(kinds), p=[share for share, _ in kinds.values()])
    return kinds[chosen][1]()


def _blank_mask(height_px: float, rng: np.random.Generator) -> Sprite:
    return draw_person(replace(random_person(rng), features=0.0, glasses="none"), height_px, rng)


def _back_of_head(height_px: float, rng: np.random.Generator) -> Sprite:
    person = random_person(rng)
    return draw_person(replace(person, features=0.0, glasses="none", hairline=2.0), height_px, rng)


def _ball(height_px: float, rng: np.random.Generator) -> Sprite:
    side = max(6, round(height_px)) * _TIMES
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    inside = x**2 + y**2 < 1
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    turn = rng.uniform(0, 3.2)
    stripes = np.sin((x * np.cos(turn) + y * np.sin(turn)) * rng.uniform(3, 12) + z * rng.uniform(-5, 5)) > 0
    first, second = np.array(SKINS[rng.integers(len(SKINS))]), rng.random(3)
    light = rng.normal(0, 0.5), -0.6, 0.8
    lit = 0.35 + 0.65 * np.clip((x * light[0] + y * light[1] + z * light[2]) / np.linalg.norm(light), 0, 1)
    plain = rng.random() < 0.4
    colours = np.where((stripes & (not plain))[..., None], second, first) * lit[..., None]
    return _shrink(colours * inside[..., None], inside.astype(np.float64))


def _clock(height_px: float, rng: np.random.Generator) -> Sprite:
    side = max(6, round(height_px)) * _TIMES
    picture = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(picture)
    frame = tuple(rng.integers(20, 120, 3).tolist())
    draw.ellipse((0, 0, side - 1, side - 1), fill=(*rng.integers(190, 250, 3).tolist(), 255))
    draw.ellipse((0, 0, side - 1, side - 1), outline=(*frame, 255), width=max(1, side // 14))
    hands = [(rng.uniform(0, 6.3), 0.0, reach) for reach in (0.5, 0.75)]
    for turn, start, end in [*((hour * np.pi / 6, 0.72, 0.84) for hour in range(12)), *hands]:
        ends = [(side / 2 * (1 + r * np.sin(turn)), side / 2 * (1 - r * np.cos(turn))) for r in (start, end)]
        draw.line(ends, fill=(30, 30, 35, 255), width=max(1, side // 28))
    return _from_picture(picture)


def _hand(height_px: float, rng: np.random.Generator) -> Sprite:
    side = max(6, round(height_px)) * _TIMES
    picture = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(picture)
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * 255 * rng.uniform(0.7, 1.0)
    colour = (*skin.astype(int).tolist(), 255)
    edge = (*(skin * 0.72).astype(int).tolist(), 255)
    spread = rng.uniform(0.12, 0.3)
    for finger, length in zip(range(-2, 3), (0.62, 0.8, 0.86, 0.8, 0.6), strict=True):
        turn = finger * spread
        tip = (side * (0.5 + 0.55 * length * np.sin(turn)), side * (0.62 - 0.7 * length * np.cos(turn)))
        width = side // 9
        draw.line([(side * 0.5, side * 0.64), tip], fill=edge, width=width + 2)
        draw.line([(side * 0.5, side * 0.64), tip], fill=colour, width=width)
        draw.circle(tip, width / 2, fill=colour)
    draw.rectangle((side * 0.38, side * 0.75, side * 0.62, side), fill=edge)
    draw.ellipse((side * 0.26, side * 0.44, side * 0.74, side * 0.9), fill=colour)
    return _from_picture(picture.rotate(rng.normal(0, 20), Image.Resampling.BILINEAR))


def _disc(height_px: float, rng: np.random.Generator) -> Sprite:
    side = max(6, round(height_px)) * _TIMES
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    radius, rate = np.hypot(x, y), rng.uniform(4, 14)
    pattern = rng.choice([np.sin(radius * rate), np.sin(x * rate) * np.sin(y * rate), np.sin(np.arctan2(y, x) * 5)])
    colours = np.where((pattern > 0)[..., None], SKINS[rng.integers(len(SKINS))], rng.random(3))
    inside = radius < 1
    return _shrink(colours * inside[..., None], inside.astype(np.float64))


def _from_picture(picture: Image.Image) -> Sprite:
    pixels = np.asarray(picture, dtype=np.float64) / 255
    return _shrink(pixels[..., :3] * pixels[..., 3:], pixels[..., 3])


def _shrink(rgb: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]) -> Sprite:
    small = average(alpha.astype(np.float32), _TIMES)
    core = small > 0.5
    return Sprite(average(rgb.astype(np.float32), _TIMES), small, core, bounds(core), is_face=False)

"""Paints skin, eyes, brows, nose, mouth, beard and glasses on a head's surface.

``p`` and ``q`` are the face's own right and down directions, -1 to 1 from edge to edge, so that turning
the head moves what is painted there as on a real one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from experiments.demo.people import Person

FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

EYE_P, EYE_Q, EYE_HALF_P, EYE_HALF_Q = 0.38, 0.05, 0.2, 0.085
MOUTH_Q, MOUTH_HALF_P = 0.64, 0.34
NOSE_TIP_Q = 0.37
WHITE, DARK, TEETH = (0.90, 0.89, 0.87), (0.07, 0.05, 0.05), (0.90, 0.88, 0.82)


def paint_skin(head: Head, person: Person, rng: np.random.Generator) -> FloatImage:
    """Colours of the head's n visible points, with all features and light.

    Args:
        head: the points.
        person: how they look; ``features`` 0 leaves blank skin.
        rng: for the beard's texture.

    Returns:
        float32 [n, 3], about 0 to 1.
    """
    albedo = np.tile(np.asarray(person.skin, dtype=np.float32), (len(head.p), 1))
    strength = person.features
    if strength > 0:
        _paint_beard(albedo, head, person, rng)
        _paint_mouth(albedo, head, person)
        for side in (-1.0, 1.0):
            _paint_eye(albedo, head.p * side, head, person)
        nostrils = _bump((np.abs(head.p) - 0.09) / 0.05) * _bump((head.q - NOSE_TIP_Q - 0.05) / 0.022)
        _blend(albedo, nostrils * 0.75, DARK)
        under = _bump(head.p / 0.2) * _bump((head.q - NOSE_TIP_Q - 0.08) / 0.05)
        albedo *= 1 - 0.22 * under[:, None]
        cheeks = _bump((np.abs(head.p) - 0.5) / 0.22) * _bump((head.q - 0.36) / 0.16)
        _blend(albedo, 0.12 * cheeks, (0.85, 0.35, 0.32))
    albedo *= rng.normal(1, 0.025, (len(albedo), 1)).astype(np.float32)
    lit = _light(head, person)
    colours = albedo * lit[:, None]
    colours += 0.12 * (1 - person.ambient) * np.clip(lit - 0.75, 0, 1)[:, None]
    if strength > 0 and person.glasses != "none":
        _paint_glasses(colours, head, dark=person.glasses == "dark")
    return colours.astype(np.float32)


class Head:
    """Points of the visible half of the head: normals towards the viewer, and the face's own (p, q, depth)."""

    def __init__(self, across: FloatImage, down: FloatImage, person: Person) -> None:
        towards = np.sqrt(np.clip(1 - across**2 - down**2, 0, 1))
        self.normal = np.stack([across, down, towards], axis=1)
        self.p = across * np.cos(person.yaw) - towards * np.sin(person.yaw)
        turned = across * np.sin(person.yaw) + towards * np.cos(person.yaw)
        self.q = down * np.cos(person.pitch) - turned * np.sin(person.pitch)
        self.depth = down * np.sin(person.pitch) + turned * np.cos(person.pitch)

    def hair_cover(self, person: Person) -> Mask:
        """Where hair grows on the head itself."""
        line = person.hairline + person.fringe * (self.p + 0.15) ** 2
        low = 0.15 if person.hair_length == 0 else 0.7
        sides = (np.abs(self.p) > 0.86) & (self.q < low) & (self.depth < 0.5)
        hair: Mask = (self.q < line) | sides | ((self.depth < 0) & (self.q < low))
        return hair


def _light(head: Head, person: Person) -> FloatImage:
    """Shading of the ellipsoid, with the nose as a ridge on it."""
    normal = head.normal.copy()
    ridge = np.clip((head.q + 0.1) / (NOSE_TIP_Q + 0.1), 0, 1) * (head.q < NOSE_TIP_Q + 0.06) * person.features
    normal[:, 0] += 1.3 * ridge * (head.p / 0.11) * _bump(head.p / 0.11)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    towards = normal @ np.asarray(person.light, dtype=np.float32)
    lit: FloatImage = person.ambient + (1.15 - person.ambient) * np.clip(0.25 + 0.75 * towards, 0, 1)
    return lit


def _paint_eye(albedo: FloatImage, outward: FloatImage, head: Head, person: Person) -> None:
    """One eye with its socket and brow; ``outward`` is p, mirrored for the left one."""
    across = (outward - EYE_P) / EYE_HALF_P
    down = (head.q - EYE_Q) / (EYE_HALF_Q * person.eye_open)
    down = down + 0.25 * np.clip(across, -1, 1) ** 2
    socket = _bump(across / 1.5) * _bump((head.q - EYE_Q + 0.02) / 0.14)
    albedo *= 1 - 0.3 * socket[:, None]
    radius = across**2 + down**2
    _blend(albedo, _step(1 - radius, 0.25), WHITE)
    circle = np.hypot((outward - EYE_P + 0.01) / 0.085, (head.q - EYE_Q) / 0.06)
    within = _step(1 - radius, 0.25)
    _blend(albedo, within * _step(1 - circle, 0.2), person.iris)
    _blend(albedo, within * _step(0.5 - circle, 0.2), DARK)
    glint = np.hypot((outward - EYE_P - 0.02) / 0.02, (head.q - EYE_Q + 0.025) / 0.014)
    _blend(albedo, within * (glint < 1), (1.0, 1.0, 1.0))
    _blend(albedo, 0.85 * _bump((radius - 1.15) / 0.35) * (down < 0.1) * _step(1.3 - np.abs(across), 0.2), DARK)
    _blend(albedo, 0.25 * _bump((radius - 1.15) / 0.3) * (down >= 0.1), np.multiply(person.skin, 0.5))
    arch = EYE_Q - 0.19 - 0.05 * person.brow + 0.06 * (across - 0.2) ** 2
    brow = _bump((head.q - arch) / 0.035) * _step(1.25 - np.abs(across), 0.3)
    _blend(albedo, person.brow * 0.9 * brow, np.multiply(person.hair, 0.7))


def _paint_mouth(albedo: FloatImage, head: Head, person: Person) -> None:
    half = MOUTH_HALF_P * (1 + 0.2 * person.smile)
    across = head.p / half
    line = MOUTH_Q + 0.07 * person.smile * (0.4 - across**2)
    ends = _step(1 - np.abs(across), 0.12)
    thick = (0.055 + 0.07 * person.mouth_open) * np.sqrt(np.clip(1 - across**2, 0.02, 1))
    _blend(albedo, 0.75 * _bump((head.q - line) / thick) * ends, person.lips)
    _blend(albedo, 0.8 * _bump((head.q - line) / 0.014) * ends, DARK)
    _blend(albedo, 0.3 * _bump((head.q - line - 0.14) / 0.035) * _bump(across / 0.5), np.multiply(person.skin, 0.55))
    if person.mouth_open > 0.05:
        gap = 0.1 * person.mouth_open
        inner = (across / 0.85) ** 2 + ((head.q - line) / gap) ** 2
        opening = _step(1 - inner, 0.3)
        _blend(albedo, opening, (0.25, 0.06, 0.06))
        _blend(albedo, opening * (head.q < line + 0.25 * gap) * (np.abs(across) < 0.75), TEETH)


def _paint_beard(albedo: FloatImage, head: Head, person: Person, rng: np.random.Generator) -> None:
    if person.beard == 0 and person.moustache == 0:
        return
    grain = rng.uniform(0.75, 1, len(head.p)).astype(np.float32)
    chin = _step(head.q - 0.36 - 0.18 * (1 - np.abs(head.p)) - 0.1 * _bump(head.p / 0.3), 0.12)
    _blend(albedo, person.beard * chin * grain, person.hair)
    lip = _bump((head.q - MOUTH_Q + 0.11 - 0.1 * head.p**2) / 0.05) * _step(0.42 - np.abs(head.p), 0.1)
    _blend(albedo, person.moustache * lip * grain, person.hair)


def _paint_glasses(colours: FloatImage, head: Head, *, dark: bool) -> None:
    frame = np.zeros(len(head.p), dtype=np.float32)
    for side in (-1.0, 1.0):
        lens = ((head.p * side - EYE_P) / 0.3) ** 4 + ((head.q - EYE_Q - 0.03) / 0.17) ** 4
        frame = np.maximum(frame, _bump((lens - 1) / 0.35))
        _blend(colours, _step(1 - lens, 0.2) * (0.92 if dark else 0.08), (0.06, 0.06, 0.07) if dark else (0.9, 0.95, 1))
    bridge = (np.abs(head.p) < 0.09) | (np.abs(head.p) > 0.66)
    frame = np.maximum(frame, _bump((head.q - EYE_Q + 0.03) / 0.02) * bridge)
    _blend(colours, 0.9 * frame, DARK)


def _blend(colours: FloatImage, cover: FloatImage, colour: object) -> None:
    """Lay a colour over rows of [n, 3] with a cover of [n] in [0, 1], in place."""
    colours += (np.asarray(colour, dtype=np.float32) - colours) * cover[:, None].astype(np.float32)


def _bump(values: FloatImage) -> FloatImage:
    """1 at 0, falling off like a bell."""
    bell: FloatImage = np.exp(-(values**2))
    return bell


def _step(values: FloatImage, softness: float) -> FloatImage:
    """0 below 0, 1 above ``softness``."""
    rise: FloatImage = np.clip(values / softness, 0, 1)
    return rise

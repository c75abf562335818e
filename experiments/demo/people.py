"""The people of the crowd: their looks are drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKINS: tuple[Colour, ...] = (
    (0.96, 0.82, 0.73), (0.92, 0.74, 0.62), (0.86, 0.66, 0.52), (0.78, 0.57, 0.43), (0.66, 0.46, 0.33),
    (0.52, 0.35, 0.25), (0.40, 0.26, 0.18),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.05), (0.17, 0.11, 0.07), (0.30, 0.19, 0.11), (0.45, 0.29, 0.15), (0.74, 0.58, 0.34),
    (0.50, 0.20, 0.09), (0.62, 0.61, 0.60),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Person:
    """How someone looks; see :func:`random_person`. Angles in radians, lengths in face heights or (p, q).

    Attributes:
        skin, hair, cloth, lips, iris: RGB in [0, 1].
        yaw, pitch, roll: turn of the head.
        light: direction towards the light, unit length.
        ambient: share of light from everywhere.
        half_width, jaw: head's half width; how much it narrows towards the chin.
        hairline: q where the hair begins; above -1 is bald, 1 and more the back of a head.
        fringe, hair_length, hair_volume: form of the hair.
        eye_open, smile, mouth_open, brow: expression; ``smile`` -1 to 1.
        beard, moustache: cover in [0, 1].
        glasses: ``none``, ``clear`` or ``dark``.
        hat: RGB, or ``None``.
        features: strength of eyes, nose, mouth and brows; 0 is a blank mask.
    """

    skin: Colour
    hair: Colour
    cloth: Colour
    lips: Colour
    iris: Colour
    yaw: float
    pitch: float
    roll: float
    light: Colour
    ambient: float
    half_width: float
    jaw: float
    hairline: float
    fringe: float
    hair_length: float
    hair_volume: float
    eye_open: float
    smile: float
    mouth_open: float
    brow: float
    beard: float
    moustache: float
    glasses: str
    hat: Colour | None
    features: float = 1.0


def random_person(rng: np.random.Generator) -> Person:
    """Someone at random: every age of hair, skin, light, pose and mood."""
    skin = _vary(SKINS[rng.integers(len(SKINS))], 0.04, rng)
    hair = _vary(HAIRS[rng.integers(len(HAIRS))], 0.03, rng)
    light = np.array([rng.normal(0, 0.7), rng.normal(-0.5, 0.4), rng.uniform(0.5, 1.2)])
    laughing = rng.random() < 0.2
    bald = rng.random() < 0.08
    bearded = rng.random() < 0.2
    return Person(
        skin=skin,
        hair=hair,
        cloth=_vary((rng.random() * 0.8, rng.random() * 0.8, rng.random() * 0.8), 0.05, rng),
        lips=(skin[0] * 0.80, skin[1] * rng.uniform(0.5, 0.7), skin[2] * rng.uniform(0.55, 0.75)),
        iris=((0.20, 0.12, 0.07), (0.15, 0.10, 0.07), (0.30, 0.42, 0.50), (0.30, 0.38, 0.25))[rng.integers(4)],
        yaw=float(np.clip(rng.normal(0, 0.38), -0.95, 0.95)),
        pitch=float(np.clip(rng.normal(0, 0.14), -0.35, 0.35)),
        roll=float(np.clip(rng.normal(0, 0.14), -0.5, 0.5)),
        light=tuple((light / np.linalg.norm(light)).tolist()),
        ambient=rng.uniform(0.3, 0.62),
        half_width=rng.uniform(0.37, 0.44),
        jaw=rng.uniform(0.1, 0.3),
        hairline=-1.2 if bald else rng.uniform(-0.66, -0.48),
        fringe=rng.uniform(-0.1, 0.3),
        hair_length=0.0 if bald else rng.choice([0.0, 0.0, rng.uniform(0.1, 0.5)]),
        hair_volume=rng.uniform(0.02, 0.1),
        eye_open=0.25 if rng.random() < 0.05 else rng.uniform(0.55, 0.95),
        smile=rng.uniform(0.5, 1.1) if laughing else rng.normal(0.35, 0.35),
        mouth_open=rng.uniform(0.5, 1.0) if laughing else max(0.0, rng.normal(-0.1, 0.25)),
        brow=rng.uniform(0.4, 1.0),
        beard=rng.uniform(0.4, 0.9) if bearded else 0.0,
        moustache=rng.uniform(0.4, 0.9) if bearded or rng.random() < 0.05 else 0.0,
        glasses=rng.choice(["none", "clear", "dark"], p=[0.8, 0.14, 0.06]),
        hat=(rng.random(), rng.random(), rng.random()) if rng.random() < 0.1 else None,
    )


def _vary(colour: Colour, spread: float, rng: np.random.Generator) -> Colour:
    shift = rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(np.add(colour, shift), 0.02, 0.98).tolist()
    return red, green, blue

"""WIDER FACE's attributes as groups of faces: by height, blur, occlusion, pose and illumination.

A group has the form of a subset: one mask per image. Faces marked invalid or of no area are in none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from tinygan.detections import BoolArray, FloatArray, GroundTruth

Masks = Mapping[str, BoolArray]  # {image: bool [M]}
Groups = Mapping[str, Mapping[str, Masks]]  # {attribute: {value: masks}}

HEIGHTS_PX = (0, 8, 16, 32, 64)  # lower ends
VALUES = {
    "blur": ("clear", "normal", "heavy"),
    "occlusion": ("none", "partial", "heavy"),
    "pose": ("typical", "atypical"),
    "illumination": ("normal", "extreme"),
}


def group_faces(faces: Mapping[str, FloatArray], attributes: Mapping[str, GroundTruth]) -> Groups:
    """Divide faces by height and by each attribute.

    Args:
        faces: ``{image: float64 [M, 4]}`` of an evaluation.
        attributes: the same faces with the columns ``blur``, ``occlusion``, ``pose`` and ``illumination``, from
            :func:`tinygan.formats.truths.load_faces`. Where an image has no face there, none of ``faces`` is in a
            group.

    Returns:
        ``{attribute: {value: {image: bool [M]}}}``, the attribute ``height`` first.

    Raises:
        ValueError: if an image is absent, or has another number of faces.
    """
    for name, boxes in faces.items():
        if name not in attributes or len(attributes[name]) not in (0, len(boxes)):
            got = len(attributes[name]) if name in attributes else "no"
            raise ValueError(f"'{name}' has {got} attribute rows for {len(boxes)} faces")

    def masks(chosen: Callable[[GroundTruth], BoolArray]) -> Masks:
        return {
            name: truth.usable & chosen(truth) if len(truth) else np.zeros(len(boxes), dtype=np.bool_)
            for name, boxes in faces.items()
            for truth in [attributes[name]]
        }

    groups = {"height": {label: masks(_of_height(low, high)) for label, low, high in _height_ranges()}}
    for attribute, values in VALUES.items():
        groups[attribute] = {value: masks(_of_value(attribute, code)) for code, value in enumerate(values)}
    return groups


def _height_ranges() -> list[tuple[str, float, float]]:
    """Labels with ends: ``<8``, ``8-16``, …, ``64+``; the lower end belongs to the range."""
    ends = [*HEIGHTS_PX, np.inf]
    ranges = [(f"{low}-{high}", float(low), float(high)) for low, high in pairwise(ends)]
    ranges[0] = (f"<{ends[1]}", *ranges[0][1:])
    ranges[-1] = (f"{ends[-2]}+", *ranges[-1][1:])
    return ranges


def _of_height(low: float, high: float) -> Callable[[GroundTruth], BoolArray]:
    def chosen(truth: GroundTruth) -> BoolArray:
        height = truth.boxes[:, 3] - truth.boxes[:, 1]
        within: BoolArray = (height >= low) & (height < high)
        return within

    return chosen


def _of_value(attribute: str, code: int) -> Callable[[GroundTruth], BoolArray]:
    return lambda truth: np.asarray(truth.fields[attribute] == code, dtype=np.bool_)

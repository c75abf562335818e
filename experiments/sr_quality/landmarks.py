"""What an independent detector reads off a picture of one face: whether a face is there, and its five landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from tinygan.boxes import iou
from tinygan.detections import BoolArray, ByteArray, Detections, FloatArray
from tinygan.proposers import Proposer, choose_proposer
from tinygan.runtime import Runtime, RuntimeOptions

SHOWN_PX = 160  # side at which the detector sees every picture, true or made
SURE, LEAST = 0.5, 0.05  # scores of a face that counts as found, and of one whose landmarks are compared
SAME_IOU = 0.5


class Reading(NamedTuple):
    """What is read off N pictures of which the true ones show a face to the detector.

    Attributes:
        found: bool [N], whether it finds that face.
        error: float64 [N], mean distance of the five landmarks to those in the true picture, as a share of the face's
            size; NaN where no box is on the face.
    """

    found: BoolArray
    error: FloatArray


def open_detector() -> Proposer:
    """The YuNet that ships."""
    return choose_proposer("yunet").build(Runtime(RuntimeOptions(device="cpu").exact()))


def read_faces(
    detector: Proposer, truth: ByteArray, made: Mapping[str, ByteArray]
) -> tuple[BoolArray, dict[str, Reading]]:
    """Compare pictures with the true ones.

    Args:
        detector: with landmarks.
        truth: uint8 [N, S, S, 3], each with a face in its middle.
        made: pictures of the same by name.

    Returns:
        bool [N], in which true pictures the detector is sure of the face; and the readings of these.
    """
    middle = np.array([0.25, 0.25, 0.75, 0.75]) * SHOWN_PX
    faces = [_on(middle, found, 0.2) for found in _detect(detector, truth)]
    usable = np.array([face is not None and face.scores[0] >= SURE for face in faces], np.bool_)
    known = [face for face, use in zip(faces, usable, strict=True) if use and face is not None]
    readings = {}
    for name, pictures in made.items():
        pairs = list(zip(known, _detect(detector, pictures[usable]), strict=True))
        same = [_on(true.boxes[0], found, SAME_IOU) for true, found in pairs]
        readings[name] = Reading(
            np.array([face is not None and face.scores[0] >= SURE for face in same], np.bool_),
            np.array([_error(true, face) for true, face in zip(known, same, strict=True)], np.float64),
        )
    return usable, readings


def _detect(detector: Proposer, pictures: ByteArray) -> list[Detections]:
    size = (SHOWN_PX, SHOWN_PX)
    shown = [np.array(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in pictures]
    tensors = [torch.from_numpy(one).permute(2, 0, 1) for one in shown]
    return [found for at in range(0, len(tensors), 32) for found in detector.propose(tensors[at : at + 32])]


def _on(place: FloatArray, found: Detections, least_iou: float) -> Detections | None:
    """The surest of the boxes on a place that are sure enough at all."""
    if not len(found):
        return None
    on = np.flatnonzero((iou(found.boxes, place[None])[:, 0] >= least_iou) & (found.scores >= LEAST))
    return found[on[[found.scores[on].argmax()]]] if len(on) else None


def _error(true: Detections, face: Detections | None) -> float:
    if face is None:
        return float("nan")
    size = float(np.sqrt(np.prod(true.boxes[0, 2:] - true.boxes[0, :2])))
    points = [np.asarray(one.fields["landmarks"][0], np.float64).reshape(5, 2) for one in (true, face)]
    return float(np.linalg.norm(points[0] - points[1], axis=1).mean() / size)

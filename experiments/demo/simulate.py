"""Simulates a first stage: jittered faces, decoys and background, with scores that overlap."""

from __future__ import annotations

import numpy as np

from tinygan.boxes import clip, iou
from tinygan.detections import Detections, FloatArray

MISSED_SHARE, DUPLICATE_SHARE, DECOY_SHARE = 0.06, 0.2, 0.85
LOWEST_IOU, HIGHEST_IOU = 0.4, 0.95
# Mean and spread of the score's logit.
_FACE, _DECOY, _BACKGROUND = (1.0, 1.1), (0.1, 1.2), (-1.6, 1.1)
_LOGIT_PER_OCTAVE, _LOGIT_PER_IOU, _DUPLICATE_LOGIT = 0.35, 2.0, -0.8
_BACKGROUND_BOXES = 14


def simulate_proposals(
    faces: FloatArray, decoys: FloatArray, size: tuple[int, int], rng: np.random.Generator
) -> Detections:
    """What a fair but imperfect detector might say about an image.

    Args:
        faces: float64 [M, 4], true boxes ``x1, y1, x2, y2`` in pixels.
        decoys: float64 [K, 4], boxes of what resembles a face.
        size: the image's width and height in pixels.
        rng: everything random.

    Returns:
        Boxes inside the image, with scores in (0.02, 1): most faces (IoU 0.4 to 0.95, larger and
        better placed ones surer), some of them twice, most decoys, and random background.
    """
    boxes: list[FloatArray] = []
    logits: list[float] = []
    for face in faces[rng.random(len(faces)) >= MISSED_SHARE]:
        octaves = np.log2((face[3] - face[1]) / 16)
        for copy in range(1 + int(rng.random() < DUPLICATE_SHARE)):
            box = jitter(face, rng)
            overlap = float(iou(box[None], face[None])[0, 0])
            shift = _LOGIT_PER_OCTAVE * octaves + _LOGIT_PER_IOU * (overlap - 0.75) + _DUPLICATE_LOGIT * copy
            boxes.append(box)
            logits.append(rng.normal(*_FACE) + shift)
    for decoy in decoys[rng.random(len(decoys)) < DECOY_SHARE]:
        boxes.append(jitter(decoy, rng))
        logits.append(rng.normal(*_DECOY))
    for _ in range(rng.poisson(_BACKGROUND_BOXES)):
        boxes.append(_anywhere(size, rng))
        logits.append(rng.normal(*_BACKGROUND))
    scores = 0.02 + 0.979 / (1 + np.exp(-np.array(logits)))
    inside = clip(np.array(boxes).reshape(-1, 4), *size)
    return Detections(np.round(inside, 2), np.round(scores, 4)).sorted()


def jitter(box: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A box [4] moved and resized at random, with an IoU of 0.4 to 0.95 to where it was; most are near."""
    side = np.tile(box[2:] - box[:2], 2)
    while True:
        moved: FloatArray = box + rng.normal(0, rng.uniform(0.01, 0.16), 4) * side
        if (moved[2:] > moved[:2]).all() and LOWEST_IOU <= iou(moved[None], box[None])[0, 0] <= HIGHEST_IOU:
            return moved


def _anywhere(size: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    height_px = np.exp(rng.uniform(np.log(8), np.log(100)))
    sides = np.array([height_px * rng.uniform(0.65, 1.0), height_px])
    corner = rng.random(2) * (np.array(size) - sides)
    return np.concatenate([corner, corner + sides])

"""Which faces changed most and which boxes cost most, and the pictures of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.boxes import iou
from tinygan.detections import BoolArray, ByteArray, Detections, FloatArray, IntArray
from tinygan.errors import DataError
from tinygan.evaluate.claims import Claims
from tinygan.evaluate.truth import EvaluationTruth
from tinygan.evaluate.wider import IOU_THRESHOLD, WiderResult
from tinygan.formats.images import Orientation, read_image
from tinygan.second_stage.figures import enlarge_face
from tinygan.second_stage.upscaling import SuperResolver

Found = Mapping[str, Detections]  # {image: detections}


@dataclass(frozen=True, eq=False)
class Change:
    """A face or box with its score before and after.

    Attributes:
        image: name of its image.
        box: float64 [4], ``x1, y1, x2, y2`` in pixels.
        before: the first stage's score; ``None`` if it has no such box.
        after: the score of both stages; ``None`` if no such box is left.
        kind: what it is, in words.
    """

    image: str
    box: FloatArray
    before: float | None
    after: float | None
    kind: str

    @property
    def height_px(self) -> float:
        """Height of the box."""
        return float(self.box[3] - self.box[1])


class Scale:
    """What makes two lists of scores comparable: each is mapped to [0, 1] if it reaches beyond.

    That is done as by the WIDER FACE protocol, by the smallest and the largest score of a list.

    Args:
        found: the list.
    """

    def __init__(self, found: Found) -> None:
        scores = np.concatenate([np.zeros(0), *(one.scores for one in found.values())])
        low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
        self.is_mapped = low < 0 or high > 1
        self._low, self._span = (low, (high - low) or 1.0) if self.is_mapped else (0.0, 1.0)

    def __call__(self, score: float) -> float:
        """A score in [0, 1]."""
        return (score - self._low) / self._span


def changes_of_faces(before: WiderResult, after: WiderResult, truth: EvaluationTruth) -> list[Change]:
    """The faces of any subset that a box of either list finds, with the highest score of such a box in each."""
    counts = [np.any([members[name] for members in truth.subsets.values()], axis=0) for name in after.names]
    counted = np.concatenate([np.zeros(0, np.bool_), *counts])
    images = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(len(flags), number) for number, flags in enumerate(counts))]
    )
    boxes = np.concatenate([np.zeros((0, 4)), *(truth.faces[name] for name in after.names)])
    old, new = _best_scores(before.claims, len(boxes)), _best_scores(after.claims, len(boxes))
    found = np.flatnonzero(counted & np.isfinite(np.fmax(old, new)))
    return [
        Change(after.names[images[row]], boxes[row], _known(old[row]), _known(new[row]), "face")
        for row in found.tolist()
    ]


def changes_of_boxes(before: Found, after: Found) -> list[Change]:
    """Every box that is left, with the score of the box before that it overlaps most, if by an IoU of 0.5 or more."""
    changes = []
    for image, now in after.items():
        then = before.get(image, Detections.empty()).sorted()
        old = _scores_at(now.boxes, then)
        changes += [
            Change(image, box, _known(score), float(new), "box")
            for box, score, new in zip(now.boxes, old.tolist(), now.scores, strict=True)
        ]
    return changes


def most_changed(changes: list[Change], before: Scale, after: Scale) -> tuple[list[Change], list[Change]]:
    """Of those with both scores, the ones that rose and the ones that fell, by falling size of the change of score."""
    gains = [
        (after(one.after) - before(one.before), one)
        for one in changes
        if one.before is not None and one.after is not None
    ]
    rose = sorted((gain for gain in gains if gain[0] > 0), key=lambda gain: -gain[0])
    fell = sorted((gain for gain in gains if gain[0] < 0), key=lambda gain: gain[0])
    return [one for _, one in rose], [one for _, one in fell]


def only_once(changes: list[Change]) -> tuple[list[Change], list[Change]]:
    """Those with a score after alone, and those with one before alone, both by falling score."""
    new = [(one.after, one) for one in changes if one.after is not None and one.before is None]
    lost = [(one.before, one) for one in changes if one.before is not None and one.after is None]
    new, lost = (sorted(some, key=lambda pair: -pair[0]) for some in (new, lost))
    return [one for _, one in new], [one for _, one in lost]


def costliest(result: WiderResult, before: Found, after: Found, most: int) -> list[Change]:
    """The false positives of the highest scores, among all the faces of the last subset.

    Args:
        result: the evaluation of ``after``.
        before: detections of the first stage.
        after: detections of both stages.
        most: how many.
    """
    outcomes = list(result.subsets.values())[-1].outcomes
    false = np.flatnonzero(outcomes.counted & ~outcomes.hits)[:most]
    changes = []
    for row in false.tolist():
        image = result.names[outcomes.images[row]]
        # Claims keep the order of an image's detections by score, so the n-th claim of an image is its n-th box.
        rank = int(np.sum(outcomes.images[:row] == outcomes.images[row]))
        one = after[image].sorted()[np.array([rank])]
        again = result.claims.overlaps[row] >= IOU_THRESHOLD
        kind = "a second box on one face" if again else "on no annotated face"
        (old,) = _scores_at(one.boxes, before.get(image, Detections.empty()).sorted()).tolist()
        changes.append(Change(image, one.boxes[0], _known(old), float(one.scores[0]), kind))
    return changes


class Pictures:
    """Cuts faces out of their images and enlarges them.

    Args:
        images: ``{image: file}``.
        resolver: the generator.
        orientation: how the files are read.
    """

    def __init__(self, images: Mapping[str, Path], resolver: SuperResolver, orientation: Orientation) -> None:
        self._images, self._resolver, self._orientation = images, resolver, orientation
        self._skipped: dict[str, str] = {}

    @property
    def skipped(self) -> list[str]:
        """A line for every image that was needed and could not be read."""
        return list(self._skipped.values())

    def enlarge(self, change: Change) -> tuple[ByteArray, ByteArray] | None:
        """A face 4 times as large, by bicubic interpolation and super-resolved; both uint8 [S, S, 3].

        Crops of more than 96 px are shrunk to that first: the generator is for small faces. ``None`` if there is no
        such image, or it cannot be read.
        """
        if change.image in self._skipped:
            return None
        if change.image not in self._images:
            self._skipped[change.image] = f"{change.image}: no such image"
            return None
        try:
            image = read_image(self._images[change.image], self._orientation)
        except DataError as error:
            self._skipped[change.image] = str(error)
            return None
        enlarged = enlarge_face(image, change.box, self._resolver)
        return enlarged.bicubic, enlarged.resolved


def _best_scores(claims: Claims, faces: int) -> FloatArray:
    """The highest score [faces] of a box that finds each face; NaN where none does."""
    rows: IntArray = np.flatnonzero(claims.overlaps >= IOU_THRESHOLD)
    found, first = np.unique(claims.faces[rows], return_index=True)
    scores = np.full(faces, np.nan)
    scores[found] = claims.scores[rows[first]]
    return scores


def _scores_at(boxes: FloatArray, then: Detections) -> FloatArray:
    """The score [N] of the box that each one overlaps most, by 0.5 or more; NaN where none does."""
    if not len(then):
        return np.full(len(boxes), np.nan)
    overlaps = iou(boxes, then.boxes)
    matched: BoolArray = overlaps.max(axis=1, initial=0.0) >= IOU_THRESHOLD
    return np.where(matched, then.scores[overlaps.argmax(axis=1)], np.nan)


def _known(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None

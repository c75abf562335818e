"""The face that each detection claims: the one it overlaps most, as in the WIDER FACE and Pascal VOC protocols.

That face depends neither on the subset, nor on the threshold, nor on other detections, so it is found
once, image by image; every subset and IoU threshold is then scored from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinygan import boxes
from tinygan.detections import BoolArray, Detections, FloatArray, IntArray
from tinygan.evaluate.curves import Outcomes

_MAX_PAIRS = 1 << 20  # detection-face pairs compared at once: bounds memory on crowds


@dataclass(frozen=True, eq=False)
class Claims:
    """Detections of all images by falling score, with the face each one overlaps most.

    Attributes:
        scores: float64 [N], falling.
        faces: int64 [N], position among the faces of all images; the first of those overlapped equally.
        overlaps: float64 [N], IoU with that face; 0 where a detection overlaps none.
        images: int64 [N], position of the image among those evaluated.
        low: smallest score, also over images that are skipped; ``inf`` without detections.
        high: largest score; ``-inf`` without detections.
        boxes: number of detections, also in images that are skipped.
    """

    scores: FloatArray
    faces: IntArray
    overlaps: FloatArray
    images: IntArray
    low: float
    high: float
    boxes: int

    def with_scores(self, scores: FloatArray) -> Claims:
        """The same detections with other scores, float64 [N], which need not fall."""
        order = np.argsort(-scores, kind="stable")
        low, high = (float(scores.min()), float(scores.max())) if len(scores) else (np.inf, -np.inf)
        return Claims(scores[order], self.faces[order], self.overlaps[order], self.images[order], low, high, self.boxes)


def claim_faces(
    detections: Mapping[str, Detections], faces: Mapping[str, FloatArray], names: Sequence[str], extra_px: float = 0.0
) -> Claims:
    """Find each detection's face.

    Args:
        detections: ``{image name: detections}``, in any order; an image may be absent or empty.
        faces: ``{image name: float64 [M, 4]}``. The detections of an image without rows are skipped.
        names: images to evaluate.
        extra_px: added to both sides of every box before IoU; 1 where a protocol counts x2 and y2 as inclusive.

    Returns:
        The detections of those images; equal scores in the order of ``names``.
    """
    scores, claimed, overlaps, images = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0, np.int64)]
    low, high, count, first_face = np.inf, -np.inf, 0, 0
    for number, name in enumerate(names):
        found, truth = detections.get(name), faces[name]
        if found is not None and len(found):
            low, high = min(low, float(found.scores.min())), max(high, float(found.scores.max()))
            count += len(found)
            if len(truth):
                best, overlap = _most_overlapped(found.boxes, truth, extra_px)
                scores.append(found.scores)
                claimed.append(best + first_face)
                overlaps.append(overlap)
                images.append(np.full(len(found), number))
        first_face += len(truth)
    pooled = np.concatenate(scores)
    order = np.argsort(-pooled, kind="stable")
    return Claims(
        scores=pooled[order],
        faces=np.concatenate(claimed)[order],
        overlaps=np.concatenate(overlaps)[order],
        images=np.concatenate(images)[order],
        low=low,
        high=high,
        boxes=count,
    )


def score_claims(claims: Claims, members: Sequence[BoolArray], iou_threshold: float) -> Outcomes:
    """Decide for each detection whether it is a hit, a false positive or ignored.

    A detection that overlaps no face by ``iou_threshold`` or more is a false positive. Of those that claim a face
    that counts, the one with the highest score is a hit, the others are false positives. One that claims a face that
    does not count is ignored.

    Args:
        claims: the detections and the faces they claim.
        members: for each image, in their order, bool [M]: the faces that count.
        iou_threshold: smallest IoU of a hit, above 0.

    Returns:
        The outcomes, in the order of ``claims``.
    """
    counts = np.concatenate([np.zeros(0, np.bool_), *members])
    on_face = claims.overlaps >= iou_threshold
    counted = ~on_face
    counted[on_face] = counts[claims.faces[on_face]]
    rows = np.flatnonzero(on_face & counted)
    _, first = np.unique(claims.faces[rows], return_index=True)
    hits = np.zeros(len(claims.scores), dtype=np.bool_)
    hits[rows[first]] = True
    per_image = np.array([member.sum() for member in members], dtype=np.int64)
    return Outcomes(claims.scores, hits, counted, claims.images, per_image)


def _most_overlapped(found: FloatArray, faces: FloatArray, extra_px: float) -> tuple[IntArray, FloatArray]:
    """The face [N] that each detection [N, 4] overlaps most, the first of equals, and by which IoU [N]."""
    extra = np.array([0.0, 0.0, extra_px, extra_px])
    rows = max(1, _MAX_PAIRS // len(faces))
    best, overlaps = [], []
    for start in range(0, len(found), rows):
        overlap = boxes.iou(found[start : start + rows] + extra, faces + extra)
        best.append(overlap.argmax(axis=1))
        overlaps.append(overlap.max(axis=1))
    return np.concatenate(best), np.concatenate(overlaps)

"""The WIDER FACE protocol (official MATLAB evaluation), with an exact AP beside the official binned one.

In score order every detection takes the face it overlaps most, if by IoU >= 0.5: a face outside the
subset makes it ignored, a free face makes it a hit, a taken face a false positive. Which face that is
depends neither on the subset nor on other detections, so it is found once, image by image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygan import boxes
from tinygan.detections import BoolArray, Detections, FloatArray
from tinygan.evaluate.curves import (
    Curve,
    IntArray,
    Outcomes,
    average_precision,
    binned_curve,
    bootstrap_weights,
    exact_curve,
    resampled_ap,
)
from tinygan.formats.wider_mat import EvaluationTruth

IOU_THRESHOLD = 0.5
_MAX_PAIRS = 1 << 20  # detection-face pairs compared at once: bounds memory on crowds


@dataclass(frozen=True, eq=False)
class SubsetResult:
    """One subset of the ground truth.

    Attributes:
        outcomes: every judged detection.
        exact: the curve with one point a distinct score.
        binned: the official curve of 1,000 thresholds on min-max normalised scores.
        ap_exact: AP of ``exact``, in [0, 1]; NaN if the subset has no face.
        ap_binned: AP of ``binned``, the official figure.
    """

    outcomes: Outcomes
    exact: Curve
    binned: Curve
    ap_exact: float = field(init=False)
    ap_binned: float = field(init=False)

    def __post_init__(self) -> None:
        known = self.faces > 0
        object.__setattr__(self, "ap_exact", average_precision(self.exact) if known else float("nan"))
        object.__setattr__(self, "ap_binned", average_precision(self.binned) if known else float("nan"))

    @property
    def faces(self) -> int:
        """Number of faces to find."""
        return self.outcomes.positives


@dataclass(frozen=True, eq=False)
class WiderResult:
    """An evaluation.

    Attributes:
        names: the images evaluated.
        boxes: number of detections in them.
        subsets: ``{subset: result}``.
    """

    names: tuple[str, ...]
    boxes: int
    subsets: Mapping[str, SubsetResult]


@dataclass(frozen=True)
class Difference:
    """Exact AP before and after, in [0, 1], with a bootstrap interval of the difference.

    Attributes:
        before: AP of the baseline.
        after: AP of the other detections.
        low: lower end of the interval of ``after - before``.
        high: upper end.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """``after - before``."""
        return self.after - self.before


def evaluate_wider(
    detections: Mapping[str, Detections],
    truth: EvaluationTruth,
    names: Sequence[str] | None = None,
    iou_threshold: float = IOU_THRESHOLD,
) -> WiderResult:
    """Judge detections by the official WIDER FACE protocol.

    Scores are normalised over the evaluated images alone. Faces count in every one of them;
    detections count unless the image has no ground-truth box at all. Neither the order of an image's
    detections nor that of equal scores changes a figure.

    Args:
        detections: ``{image name: detections}``, scores on any scale; an image may be absent or empty.
        truth: faces and subsets.
        names: images to evaluate; all of ``truth`` by default.
        iou_threshold: smallest IoU of a hit; the official one is 0.5.

    Returns:
        Curves and AP of every subset.

    Raises:
        ValueError: if ``names`` holds an image twice or one that ``truth`` lacks.
    """
    chosen = tuple(truth.names if names is None else names)
    unknown = [name for name in chosen if name not in truth.faces]
    if unknown or len(set(chosen)) != len(chosen):
        raise ValueError(f"names must be distinct images of the ground truth; unknown: {unknown[:3]}")
    pool = _claim_all(detections, truth, chosen, iou_threshold)
    subsets = {s: _judge(pool, [members[n] for n in chosen]) for s, members in truth.subsets.items()}
    return WiderResult(chosen, sum(len(detections[n]) for n in chosen if n in detections), subsets)


def compare_wider(
    before: WiderResult, after: WiderResult, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Difference]:
    """Paired bootstrap over images of the difference in exact AP.

    Both evaluations are resampled with the same images, so what they share cancels out. Exact AP
    does not change with normalisation: no detection is matched again.

    Args:
        before: the baseline.
        after: other detections on the same images.
        resamples: how often the images are drawn with replacement.
        seed: of the draws.
        level: coverage of the interval (percentiles of the resampled differences).

    Returns:
        ``{subset: difference}``; NaN where there is no face to find.

    Raises:
        ValueError: if the two were not evaluated on the same images and subsets.
    """
    if before.names != after.names or before.subsets.keys() != after.subsets.keys():
        raise ValueError("both evaluations must be of the same images and subsets")
    weights = bootstrap_weights(len(after.names), resamples, seed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    differences = {}
    for subset, result in after.subsets.items():
        baseline = before.subsets[subset]
        drawn = resampled_ap(result.outcomes, weights) - resampled_ap(baseline.outcomes, weights)
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, tails).tolist() if len(drawn) else (float("nan"), float("nan"))
        differences[subset] = Difference(baseline.ap_exact, result.ap_exact, low, high)
    return differences


@dataclass(frozen=True, eq=False)
class _Pool:
    """Detections of all images by falling score, with the face each one overlaps most.

    Attributes:
        scores: float64 [N].
        claimed: int64 [N], position among the faces of all images, -1 for none.
        images: int64 [N].
        low: smallest score, also over images without ground-truth boxes.
        high: largest score.
    """

    scores: FloatArray
    claimed: IntArray
    images: IntArray
    low: float
    high: float


def _claim_all(
    detections: Mapping[str, Detections], truth: EvaluationTruth, names: Sequence[str], iou_threshold: float
) -> _Pool:
    scores, claimed, images = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    low, high, first_face = np.inf, -np.inf, 0
    for number, name in enumerate(names):
        found, faces = detections.get(name), truth.faces[name]
        if found is not None and len(found):
            low, high = min(low, float(found.scores.min())), max(high, float(found.scores.max()))
            if len(faces):  # images without boxes are skipped, but count for normalisation
                best = _claimed_faces(found.boxes, faces, iou_threshold)
                scores.append(found.scores)
                claimed.append(np.where(best >= 0, best + first_face, -1))
                images.append(np.full(len(found), number))
        first_face += len(faces)
    pooled = np.concatenate(scores)
    order = np.argsort(-pooled, kind="stable")
    return _Pool(pooled[order], np.concatenate(claimed)[order], np.concatenate(images)[order], low, high)


def _claimed_faces(found: FloatArray, faces: FloatArray, iou_threshold: float) -> IntArray:
    """The face [N] that each detection [N, 4] overlaps most, -1 below the threshold; the first of equals."""
    # The official IoU treats x2, y2 as inclusive: +1 on both sides of every box.
    one_more = np.array([0.0, 0.0, 1.0, 1.0])
    faces = faces + one_more
    rows = max(1, _MAX_PAIRS // len(faces))
    parts = []
    for start in range(0, len(found), rows):
        overlap = boxes.iou(found[start : start + rows] + one_more, faces)
        best = overlap.argmax(axis=1)
        parts.append(np.where(overlap[np.arange(len(best)), best] >= iou_threshold, best, -1))
    return np.concatenate(parts)


def _judge(pool: _Pool, members: Sequence[BoolArray]) -> SubsetResult:
    """What each detection is for one subset, given which faces it has: bool [M] an image."""
    in_subset = np.concatenate([np.zeros(0, np.bool_), *members])
    on_face = pool.claimed >= 0
    counted = ~on_face
    counted[on_face] = in_subset[pool.claimed[on_face]]
    hits = np.zeros(len(pool.scores), dtype=np.bool_)
    _, first = np.unique(pool.claimed, return_index=True)
    hits[first] = True
    hits &= on_face & counted
    per_image = np.array([member.sum() for member in members], dtype=np.int64)
    outcomes = Outcomes(pool.scores, hits, counted, pool.images, per_image)
    return SubsetResult(outcomes, exact_curve(outcomes), binned_curve(outcomes, pool.low, pool.high))

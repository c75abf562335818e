"""Precision-recall maths: curves from judged detections, average precision, and its bootstrap over images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinygan.detections import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_CHUNK = 8  # resamples worked on at once: they stay in the cache


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The detections of all images by falling score, each judged against the ground truth.

    Attributes:
        scores: float64 [N], falling.
        hits: bool [N]; whether a detection is the first one of a face that counts.
        counted: bool [N]; whether it is a hit or a false positive. A detection of an ignored face is neither.
        images: int64 [N], position of each detection's image.
        faces: int64 [I], number of faces that count in each image.
    """

    scores: FloatArray
    hits: BoolArray
    counted: BoolArray
    images: IntArray
    faces: IntArray

    def __post_init__(self) -> None:
        lengths = {len(self.scores), len(self.hits), len(self.counted), len(self.images)}
        if len(lengths) > 1:
            raise ValueError(f"scores, hits, counted and images must be of one length, got {sorted(lengths)}")
        if (np.diff(self.scores) > 0).any():
            raise ValueError("scores must fall")
        if (self.hits & ~self.counted).any():
            raise ValueError("a hit must be counted")

    @property
    def positives(self) -> int:
        """Number of faces that count."""
        return int(self.faces.sum())


@dataclass(frozen=True, eq=False)
class Curve:
    """A precision-recall curve.

    Attributes:
        thresholds: float64 [K], falling; point k keeps the scores >= ``thresholds[k]``.
        precision: float64 [K] in [0, 1]; 0 where nothing is counted.
        recall: float64 [K] in [0, 1], rising; NaN where there is no face to find.
    """

    thresholds: FloatArray
    precision: FloatArray
    recall: FloatArray


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


def exact_curve(outcomes: Outcomes) -> Curve:
    """The curve with one point for each distinct score, so that the order of equal scores does not matter."""
    ends = ends_of_ties(outcomes.scores)
    return _curve(outcomes, outcomes.scores[ends], ends + 1)


def binned_curve(outcomes: Outcomes, low: float, high: float, bins: int = 1000) -> Curve:
    """The official WIDER FACE curve: scores mapped to [0, 1], thresholds ``1 - t / bins``, t = 1..bins.

    Args:
        outcomes: the judged detections, with raw scores.
        low: smallest score of the evaluation, also over images that are skipped; becomes 0.
        high: largest score; becomes 1. If ``high == low``, every score becomes 0.
        bins: number of thresholds.

    Returns:
        The curve of ``bins`` points, on mapped scores.
    """
    span = high - low
    mapped = (outcomes.scores - low) / (span if span > 0 else 1.0)
    thresholds = 1.0 - np.arange(1, bins + 1) / bins
    kept = len(mapped) - np.searchsorted(mapped[::-1], thresholds, side="left")
    return _curve(outcomes, thresholds, kept)


def average_precision(curve: Curve) -> float:
    """All-point AP: the area under the curve's envelope, the largest precision at this recall or a higher one.

    Returns:
        AP in [0, 1]; 0 for a curve without points; NaN if its recall is NaN.
    """
    increments = np.diff(curve.recall, prepend=0.0)
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(increments * envelope))


def exact_ap(outcomes: Outcomes) -> float:
    """All-point AP of the exact curve; NaN where there is no face to find."""
    return average_precision(exact_curve(outcomes)) if outcomes.positives else float("nan")


def eleven_point_ap(curve: Curve) -> float:
    """AP of Pascal VOC 2007: the mean of the envelope at recall 0, 0.1, …, 1 (Everingham et al. 2010, Eq. 1).

    Returns:
        AP in [0, 1]; 0 for a curve without points; NaN if its recall is NaN.
    """
    if np.isnan(curve.recall).any():
        return float("nan")
    # Recall is compared with tenths as they are in floating point; a shade of tolerance keeps 3 of 10 faces at 0.3.
    reached = [curve.precision[curve.recall >= tenth / 10 - 1e-12] for tenth in range(11)]
    return float(np.mean([points.max() if len(points) else 0.0 for points in reached]))


def final_recall(outcomes: Outcomes) -> float:
    """Share of the faces that any detection finds, whatever its score; NaN where there is no face to find."""
    faces = outcomes.positives
    return float(outcomes.hits.sum()) / faces if faces else float("nan")


def false_positives_at(outcomes: Outcomes, recalls: Sequence[float]) -> list[int | None]:
    """How many false positives score at least the highest threshold that reaches each recall.

    Args:
        outcomes: the judged detections; equal scores are kept or left out together.
        recalls: the recalls to reach, in (0, 1].

    Returns:
        One count per recall; None where it is never reached, or there is no face to find.
    """
    ends = ends_of_ties(outcomes.scores)
    hits = np.cumsum(outcomes.hits)[ends]
    false: IntArray = np.cumsum(outcomes.counted)[ends] - hits
    # 0.3 of 10 faces is 3, though 0.3 * 10 is a shade more in floating point.
    wanted = [np.ceil(recall * outcomes.positives - 1e-9) for recall in recalls]
    at = [int(np.searchsorted(hits, faces)) for faces in wanted]
    return [int(false[k]) if k < len(ends) and outcomes.positives else None for k in at]


def bootstrap_weights(images: int, resamples: int, seed: int) -> FloatArray:
    """How often each image is drawn when ``images`` of them are drawn with replacement.

    Returns:
        float64 [images, resamples]; every column sums to ``images``.
    """
    generator = np.random.default_rng(seed)
    weights = np.empty((images, resamples), dtype=np.float64)
    for column in range(resamples):
        drawn = generator.integers(0, images, size=images)
        weights[:, column] = np.bincount(drawn, minlength=images)
    return weights


def resampled_ap(outcomes: Outcomes, weights: FloatArray) -> FloatArray:
    """Exact AP for images drawn ``weights`` times.

    The envelope needs precision only where recall rises. So detections are summed by image between
    one score with a hit and the next, once; every resample is then a product with its weights.

    Args:
        outcomes: the judged detections of I images.
        weights: float64 [I, R], see :func:`bootstrap_weights`.

    Returns:
        float64 [R]; NaN where a resample has no face to find.
    """
    if len(weights) != len(outcomes.faces):
        raise ValueError(f"expected weights for {len(outcomes.faces)} images, got {len(weights)}")
    hits, counted = _steps_by_image(outcomes)
    values = [_ap_of_steps(hits @ part, counted @ part, outcomes.faces @ part) for part in _columns(weights)]
    return np.concatenate([np.zeros(0), *values])


def paired_difference(before: Outcomes, after: Outcomes, weights: FloatArray, level: float = 0.95) -> Difference:
    """The difference in exact AP, with the interval that resampling the images of both alike gives.

    What the two share cancels out.

    Args:
        before: the outcomes of the baseline.
        after: the outcomes of other detections of the same I images.
        weights: float64 [I, R], see :func:`bootstrap_weights`.
        level: coverage of the interval (percentiles of the resampled differences).

    Returns:
        The difference; NaN where there is no face to find.
    """
    drawn = resampled_ap(after, weights) - resampled_ap(before, weights)
    drawn = drawn[np.isfinite(drawn)]
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, tails).tolist() if len(drawn) else (float("nan"), float("nan"))
    return Difference(exact_ap(before), exact_ap(after), low, high)


def kept_at_precision(outcomes: Outcomes, weights: FloatArray, precision: float) -> IntArray:
    """How many detections, the best ones, may be kept at a precision, for images drawn ``weights`` times.

    The threshold is the lowest score with a hit down to which the precision is reached: that with the largest recall.

    Args:
        outcomes: the judged detections of I images.
        weights: float64 [I, R], see :func:`bootstrap_weights`.
        precision: to reach, in (0, 1].

    Returns:
        int64 [R]; 0 where no threshold reaches it.
    """
    hits, counted = _steps_by_image(outcomes)
    ends = np.concatenate([[0], _ends_with_hits(outcomes) + 1])
    kept = [np.zeros(0, np.int64)]
    for part in _columns(weights):
        right, judged = np.cumsum(hits @ part, axis=0), np.cumsum(counted @ part, axis=0)
        reached = (right >= precision * judged - 1e-9) & (right > 0)  # 0.9 * 10 may be a shade more than 9
        last = np.where(reached.any(axis=0), len(reached) - reached[::-1].argmax(axis=0), 0) if len(reached) else 0
        kept.append(ends[np.broadcast_to(last, part.shape[1])])
    return np.concatenate(kept)


def resampled_recall(outcomes: Outcomes, weights: FloatArray, kept: IntArray) -> FloatArray:
    """Recall of the best ``kept`` detections, for images drawn ``weights`` times.

    Args:
        outcomes: the judged detections of I images.
        weights: float64 [I, R], see :func:`bootstrap_weights`.
        kept: int64 [R], how many detections count in each resample, see :func:`kept_at_precision`.

    Returns:
        float64 [R]; NaN where a resample has no face to find.
    """
    rows = np.flatnonzero(outcomes.hits)
    images, faces, found = outcomes.images[rows], outcomes.faces @ weights, np.zeros(weights.shape[1])
    for start in range(0, weights.shape[1], _CHUNK):
        part = np.s_[start : start + _CHUNK]
        found[part] = np.where(rows[:, None] < kept[part], weights[images, part], 0.0).sum(axis=0)
    values: FloatArray = np.divide(found, faces, out=np.full(len(faces), np.nan), where=faces > 0)
    return values


def ends_of_ties(scores: FloatArray) -> IntArray:
    """Positions of the last of each run of equal scores.

    Args:
        scores: float64 [N], falling.

    Returns:
        int64, one position per distinct score.
    """
    changes = np.flatnonzero(np.diff(scores) != 0)
    return np.append(changes, len(scores) - 1) if len(scores) else np.zeros(0, dtype=np.int64)


def _curve(outcomes: Outcomes, thresholds: FloatArray, kept: IntArray) -> Curve:
    """The curve whose point k counts the first ``kept[k]`` detections."""
    hits = np.concatenate([[0], np.cumsum(outcomes.hits)])[kept].astype(np.float64)
    counted = np.concatenate([[0], np.cumsum(outcomes.counted)])[kept]
    precision = np.divide(hits, counted, out=np.zeros(len(kept)), where=counted > 0)
    faces = outcomes.positives
    recall = hits / faces if faces else np.full(len(kept), np.nan)
    return Curve(thresholds, precision, recall)


def _steps_by_image(outcomes: Outcomes) -> tuple[csr_matrix, csr_matrix]:
    """Hits and counted detections, [H, I], from one score with a hit (excluded) to the next (included)."""
    from scipy.sparse import csr_matrix

    ends = _ends_with_hits(outcomes)
    shape = (len(ends), len(outcomes.faces))
    step = np.searchsorted(ends, np.arange(len(outcomes.scores)), side="left")

    def summed(chosen: BoolArray) -> csr_matrix:
        rows = np.flatnonzero(chosen & (step < len(ends)))
        return csr_matrix((np.ones(len(rows)), (step[rows], outcomes.images[rows])), shape=shape)

    return summed(outcomes.hits), summed(outcomes.counted)


def _ends_with_hits(outcomes: Outcomes) -> IntArray:
    """Positions of the last of each run of equal scores that holds a hit."""
    ends = ends_of_ties(outcomes.scores)
    hits_up_to = np.cumsum(outcomes.hits)[ends]
    rising: IntArray = ends[np.diff(hits_up_to, prepend=0) > 0]
    return rising


def _columns(weights: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, weights.shape[1], _CHUNK):
        yield np.ascontiguousarray(weights[:, start : start + _CHUNK])


def _ap_of_steps(hits: FloatArray, counted: FloatArray, faces: FloatArray) -> FloatArray:
    """AP [R] from hits and counted detections at each step [H, R] and faces [R]."""
    counted = np.cumsum(counted, axis=0)
    precision = np.divide(np.cumsum(hits, axis=0), counted, out=np.zeros_like(counted), where=counted > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    found = np.einsum("hr,hr->r", hits, envelope)
    values: FloatArray = np.divide(found, faces, out=np.full(len(faces), np.nan), where=faces > 0)
    return values

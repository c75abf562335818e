"""Score calibration without labels: what an unknown detector's scores mean, and what face logits to expect.

RetinaFace gives a sure face 0.999, YOLO 0.92, and 0.05 may be one face in ten proposals or one in a thousand, so
weights fitted on one detector's scores do not suit another's. What detectors have in common is how precision falls with
*rank*: of as many best proposals as there are faces most are faces, of twenty times as many hardly any of the last. So
a score is read by its rank among all proposals of the detector, divided by the number of faces that the judge sees in
them; a :class:`RankCurve`, fitted on labelled hold-out proposals of other detectors, gives the log-odds of a face at
that rank. Any scale of scores, any floor, and a flood of low scores come out right, and proposals that repeat a face
are left out before.

A calibration also holds the face logit that a proposal of a given score and size is *expected* to get, a regression
over the same proposals. What fusion adds to the detector's score is the surprise, the logit minus this expectation: it
re-orders proposals of about equal score and size, and leaves the detector's own balance of small and large faces
alone. (The face logit itself lifts small boxes, and easy faces pay for it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit

from tinygan.detections import FloatArray
from tinygan.formats.plausible import score_logit

MIN_PROPOSALS = 500
RANK_KNOTS = (-4.5, -3.5, -2.5, -1.5, -0.75, -0.25, 0.0, 0.25, 0.75, 1.5, 3.0, 5.0)
SCORE_KNOTS = 5  # segments of the map that is fitted on scores themselves
MAP_KNOTS = 64  # of a map that is read off a rank curve, at most
_SMOOTHNESS = 0.001
_RISE = (0.02, 15.0)  # of the log-odds over a segment


@dataclass(frozen=True, kw_only=True)
class ScoreMap:
    """A monotone piecewise-linear map in logit space.

    Attributes:
        knots: logits of scores, rising; beyond the first and last the map rises by the outer segment's slope, or by 1
            if that is steeper.
        values: log-odds of a face at the knots, rising.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.knots) != len(self.values) or len(self.knots) < 2:
            raise ValueError("a score map has as many values as knots, two or more")
        if min(np.diff(self.knots)) <= 0 or min(np.diff(self.values)) <= 0:
            raise ValueError("knots and values of a score map must rise")

    def log_odds(self, scores: FloatArray) -> FloatArray:
        """Log-odds of a face, float64 [N], of a detector's scores, float64 [N] in [0, 1]."""
        knots, values = np.array(self.knots), np.array(self.values)
        logits = score_logit(scores)
        slopes = np.minimum((np.diff(values) / np.diff(knots))[[0, -1]], 1.0)
        below, above = np.minimum(logits - knots[0], 0.0), np.maximum(logits - knots[-1], 0.0)
        mapped: FloatArray = np.interp(logits, knots, values) + slopes[0] * below + slopes[1] * above
        return mapped


IDENTITY = ScoreMap(knots=(-1.0, 1.0), values=(-1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How one detector's proposals are read.

    Attributes:
        score_map: from scores to log-odds of a face.
        expected: weights of the expected face logit on 1, m, z, m z, m^2, z^2, with m the mapped score and
            z the size feature; all 0: the face logit is used as it is.
    """

    score_map: ScoreMap = IDENTITY
    expected: tuple[float, ...] = (0.0,) * 6

    def expected_logits(self, log_odds: FloatArray, size: FloatArray) -> FloatArray:
        """The face logits that proposals of these mapped scores and sizes usually get, float64 [N]."""
        logits: FloatArray = _expectation_features(log_odds, size) @ np.array(self.expected)
        return logits


PLAIN = Calibration()


@dataclass(frozen=True, kw_only=True)
class RankCurve:
    """How often proposals of usual detectors are faces, by rank.

    Attributes:
        knots: -log(rank / number of faces that the judge sees), rising: the last are the best proposals.
        values: log-odds of a face at the knots, rising.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]


def size_feature(sides_px: FloatArray) -> FloatArray:
    """log2 of a box's longer side over 16 px, kept within [-3, 6]."""
    feature: FloatArray = np.clip(np.log2(np.maximum(sides_px, 1e-3) / 16.0), -3.0, 6.0)
    return feature


def fit_calibration(
    scores: FloatArray,
    face_logits: FloatArray,
    size: FloatArray,
    curve: RankCurve,
    weights: FloatArray | None = None,
) -> Calibration | None:
    """The calibration of one detector, from judged proposals without labels.

    Args:
        scores: float64 [N], in [0, 1], of proposals of which no two are of the same face.
        face_logits: float64 [N].
        size: float64 [N], see :func:`size_feature`.
        curve: how often usual proposals are faces.
        weights: float64 [N], how many proposals each one stands for; default: for itself.

    Returns:
        The calibration; ``None`` for fewer than 500 proposals or a single score, from which none can be found.
    """
    levels = np.unique(score_logit(scores))
    if len(scores) < MIN_PROPOSALS or len(levels) < 2 or levels[-1] - levels[0] < 1e-3:
        return None
    feature = rank_feature(scores, face_logits, weights)
    score_map = _read_off(score_logit(scores), np.interp(feature, curve.knots, curve.values))
    return Calibration(score_map=score_map, expected=fit_expectation(score_map, scores, face_logits, size, weights))


def fit_usual_calibration(detectors: Sequence[tuple[FloatArray, FloatArray, FloatArray, FloatArray]]) -> Calibration:
    """The calibration of detectors in general, from labelled proposals, for too few proposals to find their own.

    Args:
        detectors: scores, face logits, size features and labels (0 or 1) of each detector's proposals, float64 [N].
    """
    scores, face_logits, size, is_face = (np.concatenate(column) for column in zip(*detectors, strict=True))
    weights = _equal_weights([len(one[0]) for one in detectors])
    logits = score_logit(scores)
    low, high = np.quantile(logits, [0.02, 0.995])
    knots = np.linspace(low, max(high, low + 1.0), SCORE_KNOTS + 1)
    values = fit_monotone(logits, is_face, weights, knots)
    score_map = ScoreMap(knots=tuple(knots.tolist()), values=tuple(values.tolist()))
    return Calibration(score_map=score_map, expected=fit_expectation(score_map, scores, face_logits, size, weights))


def fit_rank_curve(detectors: Sequence[tuple[FloatArray, FloatArray, FloatArray]]) -> RankCurve:
    """How often proposals are faces by rank, from labelled proposals; every detector counts the same.

    Args:
        detectors: scores, face logits and labels (0 or 1, NaN for ignored) of each detector's proposals, float64 [N],
            no two of the same face.
    """
    ranks, labels = [], []
    for scores, face_logits, is_face in detectors:
        counts = np.isfinite(is_face)
        ranks.append(rank_feature(scores, face_logits)[counts])
        labels.append(is_face[counts])
    weights = _equal_weights([len(one) for one in labels])
    values = fit_monotone(np.concatenate(ranks), np.concatenate(labels), weights, np.array(RANK_KNOTS))
    return RankCurve(knots=RANK_KNOTS, values=tuple(values.tolist()))


def rank_feature(scores: FloatArray, face_logits: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """-log(rank / number of faces that the judge sees), float64 [N]; equal scores share the mean of their ranks.

    Args:
        scores: float64 [N].
        face_logits: float64 [N].
        weights: float64 [N], how many proposals each one stands for; default: for itself.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    levels, level = np.unique(-scores, return_inverse=True)
    count = np.bincount(level, weights, len(levels))
    rank = np.cumsum(count) - (count - 1) / 2
    feature: FloatArray = -np.log(rank[level] / max(1.0, float(weights[face_logits > 0].sum())))
    return feature


def fit_expectation(
    score_map: ScoreMap,
    scores: FloatArray,
    face_logits: FloatArray,
    size: FloatArray,
    weights: FloatArray | None = None,
) -> tuple[float, ...]:
    """Weights of the expected face logit (see :class:`Calibration`), by least squares.

    Args:
        score_map: the detector's score map.
        scores: float64 [N].
        face_logits: float64 [N].
        size: float64 [N].
        weights: float64 [N], of the proposals; default: all the same.
    """
    root = np.ones(len(scores)) if weights is None else np.sqrt(weights)
    features = _expectation_features(score_map.log_odds(scores), size)
    found = np.linalg.lstsq(features * root[:, None], face_logits * root, rcond=None)[0]
    return tuple(found.tolist())


def fit_monotone(positions: FloatArray, is_face: FloatArray, weights: FloatArray, knots: FloatArray) -> FloatArray:
    """Log-odds at the knots of a rising piecewise-linear function, by logistic regression.

    Args:
        positions: float64 [N].
        is_face: float64 [N], 0 or 1.
        weights: float64 [N], which sum up to 1.
        knots: float64 [K], rising; beyond the outer ones the function goes straight on.

    Returns:
        float64 [K], strictly rising.
    """
    from scipy.optimize import minimize  # only where something is fitted: importing it takes long

    features = _segment_features(positions, knots)

    def cost(weighted: FloatArray) -> tuple[float, FloatArray]:
        odds, bends = features @ weighted, np.diff(weighted[1:])
        loss = -(weights * (is_face * log_expit(odds) + (1 - is_face) * log_expit(-odds))).sum()
        gradient = features.T @ (weights * (expit(odds) - is_face))
        gradient[2:] += 2 * _SMOOTHNESS * bends
        gradient[1:-1] -= 2 * _SMOOTHNESS * bends
        return float(loss + _SMOOTHNESS * (bends**2).sum()), gradient

    start = np.concatenate([[-5.0], np.ones(len(knots) - 1)])
    bounds = [(None, None), *[_RISE] * (len(knots) - 1)]
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    values: FloatArray = found[0] + np.concatenate([[0.0], np.cumsum(found[1:])])
    return values


def _read_off(logits: FloatArray, log_odds: FloatArray) -> ScoreMap:
    """The map that goes through these points, thinned out to :data:`MAP_KNOTS` evenly spread over the log-odds."""
    knots, rows = np.unique(logits, return_index=True)
    values = log_odds[rows]
    wanted = np.linspace(values[0], values[-1], MAP_KNOTS)
    chosen = np.unique(np.searchsorted(values, wanted).clip(0, len(values) - 1))
    kept = [int(chosen[0])]
    for at in chosen[1:]:
        if values[at] > values[kept[-1]] + 1e-9 and knots[at] > knots[kept[-1]] + 1e-9:
            kept.append(int(at))
    if len(kept) < 2:
        return ScoreMap(knots=(knots[0], knots[-1]), values=(values[0], values[0] + 1e-3))
    return ScoreMap(knots=tuple(knots[kept].tolist()), values=tuple(values[kept].tolist()))


def _equal_weights(counts: Sequence[int]) -> FloatArray:
    """Weights with which every detector counts the same, float64 [sum of counts]; they sum up to 1."""
    weights: FloatArray = np.repeat([1.0 / max(count, 1) / len(counts) for count in counts], counts)
    return weights


def _expectation_features(log_odds: FloatArray, size: FloatArray) -> FloatArray:
    ones = np.ones(len(size))
    return np.stack([ones, log_odds, size, log_odds * size, log_odds**2, size**2], axis=1)


def _segment_features(positions: FloatArray, knots: FloatArray) -> FloatArray:
    """A constant, and the share of each segment below each position; the outer ones are open: float64 [N, K]."""
    low = np.concatenate([[-np.inf], knots[1:-1]])
    high = np.concatenate([knots[1:-1], [np.inf]])
    reach = (np.clip(positions[:, None], low, high) - knots[:-1]) / np.diff(knots)
    return np.concatenate([np.ones((len(positions), 1)), reach], axis=1)

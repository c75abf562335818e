"""How a detector's proposals look to the judge: one scale for all detectors' scores, and what to expect of them.

RetinaFace gives a sure face 0.999, YOLO 0.92, so weights fitted on one do not suit the other. The map of an
unknown detector is found without labels: the judge's logits of the very proposals that are to be rescored say how
many of a score's proposals are faces. With P(s) the share of faces at score s, and L(c) the likelihood ratio of
face logit c (how much likelier a face than a non-face is to get it; fitted on labelled hold-out proposals of
other detectors), the proposals' likelihood is

    prod_i  P(s_i) L(c_i) + 1 - P(s_i)

which is maximised over monotone piecewise-linear log-odds of P. Labels are the special case L = 0 or infinity.

A calibration also holds the face logit that a proposal of a given score and size is *expected* to get, a regression
over the same proposals. What fusion adds to the detector's score is the surprise, the logit minus this expectation: it
re-orders proposals of about equal score and size, and leaves the detector's own balance of small and large faces
alone. (The face logit itself lifts small boxes, and easy faces pay for it.)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logit

from tinygan.detections import FloatArray, IntArray
from tinygan.errors import DataError
from tinygan.formats.plausible import explain_scores

EPSILON = 1e-6
MIN_PROPOSALS = 500
_SEGMENTS, _SMOOTHNESS = 5, 0.01
_RISE = (0.05, 15.0)  # of the log-odds over a segment
_CERTAIN = 30.0


@dataclass(frozen=True, kw_only=True)
class ScoreMap:
    """A monotone piecewise-linear map in logit space.

    Attributes:
        knots: logits of scores, rising; beyond the first and last the map goes on straight.
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
        segment = np.clip(np.searchsorted(knots, logits) - 1, 0, len(knots) - 2)
        slope = (np.diff(values) / np.diff(knots))[segment]
        mapped: FloatArray = values[segment] + slope * (logits - knots[segment])
        return mapped


IDENTITY = ScoreMap(knots=(-1.0, 1.0), values=(-1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How one detector's proposals look to the judge.

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
class Evidence:
    """What a face logit is worth: its log likelihood ratio, faces over non-faces, at a given size.

    Attributes:
        judge: weight of the face logit c.
        judge_by_size: weight of c x size feature.
        sizes: size features, rising.
        offsets: the constant at each of them.
    """

    judge: float
    judge_by_size: float
    sizes: tuple[float, ...]
    offsets: tuple[float, ...]

    def log_ratio(self, face_logits: FloatArray, size: FloatArray) -> FloatArray:
        """log p(c | face, size) / p(c | non-face, size), float64 [N]."""
        slope = self.judge + self.judge_by_size * size
        ratio: FloatArray = slope * face_logits + np.interp(size, self.sizes, self.offsets)
        return ratio


def score_logit(scores: FloatArray) -> FloatArray:
    """Detector scores in logit space; scores are clipped to [1e-6, 1 - 1e-6] first.

    Args:
        scores: float64 [N], in [0, 1].

    Raises:
        DataError: if scores lie outside [0, 1], e.g. because they are logits.
    """
    if problem := explain_scores(scores):
        raise DataError(problem)
    clipped: FloatArray = logit(np.clip(scores, EPSILON, 1 - EPSILON))
    return clipped


def size_feature(sides_px: FloatArray) -> FloatArray:
    """log2 of a box's longer side over 16 px, kept within [-3, 6]."""
    feature: FloatArray = np.clip(np.log2(np.maximum(sides_px, 1e-3) / 16.0), -3.0, 6.0)
    return feature


def fit_calibration(
    scores: FloatArray, face_logits: FloatArray, size: FloatArray, evidence: Evidence
) -> Calibration | None:
    """The calibration of one detector, from judged proposals without labels.

    Args:
        scores: float64 [N], in [0, 1].
        face_logits: float64 [N].
        size: float64 [N], see :func:`size_feature`.
        evidence: what a face logit is worth.

    Returns:
        The calibration; ``None`` for fewer than 500 proposals or a single score, from which none can be found.
    """
    score_map = fit_score_map(scores, evidence.log_ratio(face_logits, size))
    if score_map is None:
        return None
    features = _expectation_features(score_map.log_odds(scores), size)
    weights = np.linalg.lstsq(features, face_logits, rcond=None)[0]
    return Calibration(score_map=score_map, expected=tuple(weights.tolist()))


def fit_score_map(scores: FloatArray, log_ratios: FloatArray) -> ScoreMap | None:
    """The map of one detector, by maximum likelihood (see the module's head).

    Args:
        scores: float64 [N], in [0, 1].
        log_ratios: float64 [N], the judge's :meth:`Evidence.log_ratio`; for labels see :func:`certain`.

    Returns:
        The map; ``None`` for fewer than 500 proposals or a single score, from which none can be found.
    """
    logits = score_logit(scores)
    if len(logits) < MIN_PROPOSALS:
        return None
    low, high = np.quantile(logits, [0.02, 0.995])
    if high - low < 1e-3:
        return None
    knots = np.linspace(low, high, _SEGMENTS + 1)
    from scipy.optimize import minimize  # takes longer to import than all else that rescoring needs of SciPy

    features = _segment_features(logits, knots)

    def cost(weights: FloatArray) -> tuple[float, FloatArray]:
        odds = features @ weights
        likelihood = np.logaddexp(log_expit(-odds), log_expit(odds) + log_ratios).mean()
        bends = np.diff(weights[1:])
        gradient = -features.T @ (expit(odds + log_ratios) - expit(odds)) / len(odds)
        gradient[2:] += 2 * _SMOOTHNESS * bends
        gradient[1:-1] -= 2 * _SMOOTHNESS * bends
        return float(_SMOOTHNESS * (bends**2).sum() - likelihood), gradient

    start = np.concatenate([[-1.0], np.ones(_SEGMENTS)])
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(None, None), *[_RISE] * _SEGMENTS]).x
    values = found[0] + np.concatenate([[0.0], np.cumsum(found[1:])])
    return ScoreMap(knots=tuple(knots.tolist()), values=tuple(values.tolist()))


def certain(is_face: FloatArray) -> FloatArray:
    """Labels as log likelihood ratios: so large that nothing else matters."""
    return np.where(is_face > 0.5, _CERTAIN, -_CERTAIN)


def fit_evidence(face_logits: FloatArray, size: FloatArray, is_face: FloatArray, detector: IntArray) -> Evidence:
    """Likelihood ratios of the judge's logits, from labelled proposals.

    A logistic regression of the label on c and c x size, with a constant and a size weight for every detector, as
    their shares of faces differ; then the constants that make ``E[ratio] = 1`` over the non-faces of a size.

    Args:
        face_logits: float64 [N].
        size: float64 [N], see :func:`size_feature`.
        is_face: float64 [N], 0 or 1.
        detector: int [N], the detector of each proposal.
    """
    from scipy.optimize import minimize

    own = [(detector == number).astype(np.float64) for number in np.unique(detector)]
    columns = [face_logits, face_logits * size, *own, *(mask * size for mask in own)]
    features = np.stack(columns, axis=1)
    weight = sum(mask / max(mask.sum(), 1.0) for mask in own) / len(own)

    def cost(weights: FloatArray) -> tuple[float, FloatArray]:
        odds = features @ weights
        loss = -(weight * (is_face * log_expit(odds) + (1 - is_face) * log_expit(-odds))).sum()
        gradient = features.T @ (weight * (expit(odds) - is_face))
        return float(loss + 1e-4 * (weights**2).sum()), gradient + 2e-4 * weights

    found = minimize(cost, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B").x
    ratio = found[0] * face_logits + found[1] * face_logits * size
    others = is_face < 0.5
    edges = np.unique(np.quantile(size[others], np.linspace(0, 1, 9)))
    sizes, offsets = [], []
    for low, high in itertools.pairwise(edges if len(edges) > 1 else np.repeat(edges, 2)):
        members = others & (size >= low) & (size <= high)
        sizes.append(float(size[members].mean()))
        offsets.append(float(-np.log(np.mean(np.exp(ratio[members])))))
    return Evidence(judge=float(found[0]), judge_by_size=float(found[1]), sizes=tuple(sizes), offsets=tuple(offsets))


def _expectation_features(log_odds: FloatArray, size: FloatArray) -> FloatArray:
    ones = np.ones(len(size))
    return np.stack([ones, log_odds, size, log_odds * size, log_odds**2, size**2], axis=1)


def _segment_features(logits: FloatArray, knots: FloatArray) -> FloatArray:
    """A constant, and the share of each segment below each logit; the outer ones are open: float64 [N, K]."""
    low = np.concatenate([[-np.inf], knots[1:-1]])
    high = np.concatenate([knots[1:-1], [np.inf]])
    reach = (np.clip(logits[:, None], low, high) - knots[:-1]) / np.diff(knots)
    return np.concatenate([np.ones((len(logits), 1)), reach], axis=1)

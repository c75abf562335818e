"""The detector's score and the judge's face logit become one score.

Measured on real proposals, replacing the score by the face logit loses precision and adding the
two in logit space gains it; hence ``logit`` is the default and its weights are fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from tinygan.detections import FloatArray
from tinygan.errors import DataError

Method = Literal["replace", "product", "logit"]
METHODS: tuple[Method, ...] = ("replace", "product", "logit")
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How fusion weights are fitted.

    Attributes:
        ridge: penalty on the squared weights, which keeps fits on few proposals sane.
        use_size: let the fit use the logarithm of the face's size.
    """

    ridge: float = 1e-3
    use_size: bool = True


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Weights of logit fusion: detector x logit(s) + judge x c + size x log2(side / 16 px) + bias.

    Attributes:
        detector: weight of the detector's score in logit space.
        judge: weight of the face logit c.
        size: weight of the logarithm of the box's longer side.
        bias: constant; shifts scores, never ranks.
        fitted: whether the weights were fitted on labelled proposals.
    """

    detector: float = 1.0
    judge: float = 0.5
    size: float = 0.0
    bias: float = 0.0
    fitted: bool = False

    def to_facts(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Fusion:
        """Read back from a checkpoint."""
        return cls(**facts)


def score_logit(scores: FloatArray) -> FloatArray:
    """Detector scores in logit space; scores are clipped to [1e-6, 1 - 1e-6] first.

    Args:
        scores: float64 [N], in [0, 1].

    Raises:
        DataError: if scores lie outside [0, 1], e.g. because they are logits.
    """
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        raise DataError(
            f"detector scores must lie in [0, 1], got {scores.min():g} to {scores.max():g}; "
            "map them there first, e.g. by a sigmoid"
        )
    clipped: FloatArray = logit(np.clip(scores, EPSILON, 1 - EPSILON))
    return clipped


def size_feature(sides_px: FloatArray) -> FloatArray:
    """log2 of a box's longer side over 16 px, kept within [-3, 6]."""
    feature: FloatArray = np.clip(np.log2(np.maximum(sides_px, 1e-3) / 16.0), -3.0, 6.0)
    return feature


def fuse(
    method: Method, fusion: Fusion, scores: FloatArray, face_logits: FloatArray, sides_px: FloatArray
) -> FloatArray:
    """Final scores of judged proposals.

    Args:
        method: ``replace`` (sigmoid of the face logit), ``product`` (of both probabilities) or ``logit``.
        fusion: weights of ``logit``; unused by the others.
        scores: float64 [N], the detector's, in [0, 1].
        face_logits: float64 [N].
        sides_px: float64 [N], longer side of each box.

    Returns:
        float64 [N] in (0, 1). ``logit`` with judge and size 0 and detector 1 returns ``scores`` itself.
    """
    if method == "replace":
        replaced: FloatArray = expit(face_logits)
        return replaced
    if method == "product":
        product: FloatArray = scores * expit(face_logits)
        return product
    if (fusion.detector, fusion.judge, fusion.size, fusion.bias) == (1.0, 0.0, 0.0, 0.0):
        same: FloatArray = scores.copy()
        return same
    fused: FloatArray = expit(_combine(fusion, score_logit(scores), face_logits, size_feature(sides_px)))
    return fused


def fit_fusion(
    scores: FloatArray, face_logits: FloatArray, sides_px: FloatArray, is_face: FloatArray, config: FusionConfig
) -> Fusion:
    """Fit the weights of logit fusion by logistic regression on labelled proposals.

    Args:
        scores: float64 [N], the detector's, in [0, 1].
        face_logits: float64 [N].
        sides_px: float64 [N], longer side of each box.
        is_face: float64 [N], 1 where IoU >= 0.5 to a face, else 0.
        config: regularisation.

    Returns:
        Fitted weights; a negative judge weight is not excluded, as it would show a useless judge.

    Raises:
        DataError: if there are not both faces and non-faces.
    """
    if not 0 < is_face.sum() < len(is_face):
        raise DataError(
            f"fusion needs both faces and non-faces among the hold-out proposals, got {int(is_face.sum())} faces "
            f"in {len(is_face)} proposals; give more images"
        )
    size = size_feature(sides_px) if config.use_size else np.zeros(len(scores))
    features = np.stack([score_logit(scores), face_logits, size, np.ones(len(scores))])
    ridge = config.ridge * np.array([1.0, 1.0, 1.0, 0.0])

    def cost(weights: FloatArray) -> tuple[float, FloatArray]:
        logits = weights @ features
        loss = -np.mean(is_face * log_expit(logits) + (1 - is_face) * log_expit(-logits))
        gradient = features @ (expit(logits) - is_face) / len(is_face)
        return float(loss + (ridge * weights**2).sum()), gradient + 2 * ridge * weights

    found = minimize(cost, np.array([1.0, 0.5, 0.0, 0.0]), jac=True, method="L-BFGS-B")
    detector, judge, side, bias = (float(value) for value in found.x)
    return Fusion(detector=detector, judge=judge, size=side, bias=bias, fitted=True)


def impute_face_logits(scores: FloatArray, judged_scores: FloatArray, judged_logits: FloatArray) -> FloatArray:
    """Face logits of boxes that were not judged, from the detector's score.

    A straight line in logit space through the judged boxes of the same image; without enough of them
    the detector's own logit. So an unjudged box does not outrank judged ones merely for not being judged.

    Args:
        scores: float64 [M], of boxes not judged.
        judged_scores: float64 [N].
        judged_logits: float64 [N].

    Returns:
        float64 [M].
    """
    own = score_logit(scores)
    known = score_logit(judged_scores)
    if len(known) < 8 or np.ptp(known) < 1e-3:
        return own
    slope, offset = np.polyfit(known, judged_logits, 1)
    imputed: FloatArray = np.minimum(max(slope, 0.0) * own + offset, judged_logits.max())
    return imputed


def _combine(fusion: Fusion, score: FloatArray, face: FloatArray, size: FloatArray) -> FloatArray:
    combined: FloatArray = fusion.detector * score + fusion.judge * face + fusion.size * size + fusion.bias
    return combined

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
from scipy.special import expit, log_expit

from tinygan.config import build_config
from tinygan.detections import FloatArray
from tinygan.errors import DataError
from tinygan.score_map import IDENTITY, Evidence, ScoreMap, fit_score_map, score_logit, size_feature

Method = Literal["replace", "product", "logit"]
METHODS: tuple[Method, ...] = ("replace", "product", "logit")
_SAME = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How fusion weights are fitted.

    Attributes:
        ridge: penalty on the squared weights, which keeps fits on few proposals sane.
        use_size: let the fit use the logarithm of the face's size, alone and times score and face logit.
        score_map: ``judge``: every detector's scores are first brought to one scale by what the judge says
            of its proposals (see :mod:`tinygan.score_map`), here and when rescoring; ``none``: used as they are.
    """

    ridge: float = 1e-3
    use_size: bool = True
    score_map: Literal["judge", "none"] = "judge"


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Weights of logit fusion.

    With m the detector's score as log-odds (its logit, or mapped by a score map), c the face logit and
    z = log2(longer side / 16 px):

        (detector + detector_by_size z) m + (judge + judge_by_size z) c + size z + bias

    Attributes:
        detector: weight of m.
        judge: weight of c.
        size: weight of z.
        detector_by_size: how the weight of m grows with z.
        judge_by_size: how the weight of c grows with z.
        bias: constant; shifts scores, never ranks.
        fitted: whether the weights were fitted on labelled proposals.
        evidence: what c is worth, by which an unknown detector's scores are mapped; ``None``: no map.
        usual_map: the map of all detectors together that the fit saw, for proposals too few to find their own.
    """

    detector: float = 1.0
    judge: float = 0.5
    size: float = 0.0
    detector_by_size: float = 0.0
    judge_by_size: float = 0.0
    bias: float = 0.0
    fitted: bool = False
    evidence: Evidence | None = None
    usual_map: ScoreMap = IDENTITY

    def to_facts(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Fusion:
        """Read back from a checkpoint."""
        return build_config(cls, facts)

    @property
    def weights(self) -> FloatArray:
        """All weights, in the order of :func:`fusion_features`, float64 [6]."""
        return np.array([self.detector, self.judge, self.size, self.detector_by_size, self.judge_by_size, self.bias])


def fusion_features(log_odds: FloatArray, face_logits: FloatArray, size: FloatArray) -> FloatArray:
    """What logit fusion weighs, float64 [N, 6]: m, c, z, m z, c z, 1."""
    return np.stack([log_odds, face_logits, size, log_odds * size, face_logits * size, np.ones(len(size))], axis=1)


def fuse(
    method: Method,
    fusion: Fusion,
    scores: FloatArray,
    face_logits: FloatArray,
    sides_px: FloatArray,
    score_map: ScoreMap | None = None,
) -> FloatArray:
    """Final scores of judged proposals.

    Args:
        method: ``replace`` (sigmoid of the face logit), ``product`` (of both probabilities) or ``logit``.
        fusion: weights of ``logit``; unused by the others.
        scores: float64 [N], the detector's, in [0, 1].
        face_logits: float64 [N].
        sides_px: float64 [N], longer side of each box.
        score_map: brings the detector's scores to the scale ``fusion`` was fitted on; default: its usual map.

    Returns:
        float64 [N] in (0, 1). ``logit`` with detector 1, all else 0 and no map returns ``scores`` itself.
    """
    if method == "replace":
        replaced: FloatArray = expit(face_logits)
        return replaced
    if method == "product":
        product: FloatArray = scores * expit(face_logits)
        return product
    mapping = fusion.usual_map if score_map is None else score_map
    if tuple(fusion.weights) == _SAME and mapping == IDENTITY:
        same: FloatArray = scores.copy()
        return same
    features = fusion_features(mapping.log_odds(scores), face_logits, size_feature(sides_px))
    fused: FloatArray = expit(features @ fusion.weights)
    return fused


def fit_fusion(
    log_odds: FloatArray,
    face_logits: FloatArray,
    sides_px: FloatArray,
    is_face: FloatArray,
    config: FusionConfig,
    importance: FloatArray | None = None,
) -> Fusion:
    """Fit the weights of logit fusion by logistic regression on labelled proposals.

    Args:
        log_odds: float64 [N], the detector's score in logit space, mapped if there is a map.
        face_logits: float64 [N].
        sides_px: float64 [N], longer side of each box.
        is_face: float64 [N], 1 where IoU >= 0.5 to a face, else 0.
        config: regularisation.
        importance: float64 [N], how much each proposal counts; default: all the same.

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
    size = size_feature(sides_px) if config.use_size else np.zeros(len(log_odds))
    features = fusion_features(log_odds, face_logits, size)
    ridge = config.ridge * np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    counts = np.ones(len(is_face)) if importance is None else importance
    share = counts / counts.sum()

    def cost(weights: FloatArray) -> tuple[float, FloatArray]:
        odds = features @ weights
        loss = -(share * (is_face * log_expit(odds) + (1 - is_face) * log_expit(-odds))).sum()
        gradient = features.T @ (share * (expit(odds) - is_face))
        return float(loss + (ridge * weights**2).sum()), gradient + 2 * ridge * weights

    start = np.array([1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    found = minimize(cost, start, jac=True, method="L-BFGS-B").x.tolist()
    detector, judge, side, detector_by_size, judge_by_size, bias = found
    return Fusion(
        detector=detector,
        judge=judge,
        size=side,
        detector_by_size=detector_by_size,
        judge_by_size=judge_by_size,
        bias=bias,
        fitted=True,
    )


def map_scores(fusion: Fusion, scores: FloatArray, face_logits: FloatArray, sides_px: FloatArray) -> ScoreMap | None:
    """The score map of one detector, from the judge's view of its proposals.

    Args:
        fusion: holds what face logits are worth.
        scores: float64 [N], in [0, 1].
        face_logits: float64 [N].
        sides_px: float64 [N], longer side of each box.

    Returns:
        The map; ``None`` if the fusion has no evidence or there are too few proposals to find one.
    """
    if fusion.evidence is None:
        return None
    return fit_score_map(scores, fusion.evidence.log_ratio(face_logits, size_feature(sides_px)))


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

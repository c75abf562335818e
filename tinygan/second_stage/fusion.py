"""The detector's score and the judge's face logit become one score.

Measured on real proposals, replacing the score by the face logit loses precision. Adding the two in logit
space gains it for small faces, at the cost of large ones; adding the *surprise*, the face logit minus what a
proposal of this score and size usually gets, gains it for both. Hence ``logit`` is the default.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import expit, log_expit

from tinygan.boxes import greedy_groups, interpolate, longer_side
from tinygan.config import build_config
from tinygan.detections import BoolArray, FloatArray, IntArray
from tinygan.formats.plausible import score_logit
from tinygan.second_stage.calibration import (
    IDENTITY,
    PLAIN,
    Calibration,
    RankCurve,
    size_feature,
)

if TYPE_CHECKING:
    from tinygan.checkpoint import Checkpoint

log = logging.getLogger(__name__)
Method = Literal["replace", "product", "logit"]
LEAST_LOG_ODDS = -5.0  # costs 0.01 points of AP at most; -4 costs RetinaFace-MobileNet0.25 0.3
METHODS: tuple[Method, ...] = ("replace", "product", "logit")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How fusion weights are fitted: by coordinate search, for the smallest mean log(1 - AP) on the hold-out.

    Attributes:
        heights_px: AP counts faces of at least these heights in turn, the others are ignored. Like the official
            subsets they nest, so that large faces count in all of them.
        ious: AP counts hits at each of these IoUs in turn, so that boxes are moved with care.
        sure: log-odds of the detector at which the judge's weight is halved, see :class:`Fusion`; not searched.
        judge: values of the judge's weight to try.
        judge_by_size: values of its slope over size to try.
        size: values of the size's weight to try. More than a little of it lifts large faces at the cost of small ones.
        move: values to try of the share of the way that a box's centre moves to that of the face the judge sees.
        resize: values to try of the same share for width and height.
        fade: values to try of how much both shares fade with size.
        merge_iou: values to try of the overlap at which two faces are one; ``None``: none are merged.
        looks: how often the judge looks, if it has the third head; not searched.
        sweeps: passes over all values to try.
    """

    heights_px: tuple[float, ...] = (0.0, 0.0, 24.0, 48.0)
    ious: tuple[float, ...] = (0.5, 0.7)
    sure: float = 2.0
    judge: tuple[float, ...] = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75)
    judge_by_size: tuple[float, ...] = (0.0, -0.1, -0.2, -0.3, -0.4)
    size: tuple[float, ...] = (0.0, 0.1)
    move: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    resize: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    fade: tuple[float, ...] = (0.3, 0.4, 0.5)
    merge_iou: tuple[float | None, ...] = (None, 0.45, 0.5, 0.55, 0.6)
    looks: int = 3
    sweeps: int = 2

    def values(self) -> dict[str, tuple[float | None, ...]]:
        """What to try of each of :class:`Fusion`'s weights, in this order."""
        names = ("judge", "judge_by_size", "move", "resize", "fade", "merge_iou", "size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Weights of logit fusion.

    With m the detector's score as log-odds, z = log2(longer side / 16 px), c the face logit and c' what a
    :class:`~tinygan.second_stage.calibration.Calibration` expects of m and z (0 without a calibration):

        detector m + max(judge + judge_by_size z, 0) / (1 + max(m, 0) / sure) (c - c') + size z + bias

    The judge's third head says where the face lies. A box's centre goes ``move clip(1 - fade z, 0, 1)`` of the way
    there, its width and height (their logarithms) ``resize`` as much; the judge knows better where a face is, the
    detector how large it is drawn. Of boxes whose faces, where the judge sees them, overlap by ``merge_iou`` the
    one that the detector is surest of stays, with the best of their scores.

    Attributes:
        detector: weight of m, the detector's score as log-odds.
        judge: weight of c - c' at 16 px: by how much the face logit is higher than expected.
        judge_by_size: how much the judge's weight grows when the box is twice as large.
        sure: log-odds at which the judge's weight is halved: it counts less where the detector is sure.
            ``None``: it counts the same everywhere.
        size: weight of z, log2(longer side / 16 px).
        bias: constant that is added; it shifts scores, never ranks.
        move: share of the way to the face that a box's centre goes, at 16 px and below.
        resize: the same share for width and height. With both 0 boxes stay where the detector put them, as in the
            paper.
        fade: part of both shares that is lost with every doubling of the box's longer side above 16 px.
        merge_iou: overlap of the faces the judge sees in two boxes from which one box alone stays; ``None``: all stay.
        looks: how often the judge looks; from the second time on, at where it found the face the time before, and a
            third time at tiny boxes alone.
        fitted: whether the weights were fitted on labelled proposals.
        curve: how often proposals are faces by rank, by which an unknown detector's calibration is found; ``None``: it
            is not, and the usual one is taken.
        usual_calibration: the calibration of all detectors together that the fit saw, for proposals too few to find
            their own.
        least_log_odds: proposals that are faces with lower log-odds, by the calibration, are not worth a look.
    """

    detector: float = 1.0
    judge: float = 0.5
    judge_by_size: float = 0.0
    sure: float | None = None
    size: float = 0.0
    bias: float = 0.0
    move: float = 0.0
    resize: float = 0.0
    fade: float = 0.0
    merge_iou: float | None = None
    looks: int = 1
    fitted: bool = False
    curve: RankCurve | None = None
    usual_calibration: Calibration = PLAIN
    least_log_odds: float = LEAST_LOG_ODDS

    def to_facts(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Fusion:
        """Read back from a checkpoint, also of an earlier version, whose way to read unknown detectors is gone."""
        renamed = {{"usual_view": "usual_calibration"}.get(key, key): value for key, value in facts.items()}
        if renamed.pop("evidence", None) is not None:
            log.warning(
                "the fusion is of an earlier version: it reads all detectors' scores alike; fit stage fusion again"
            )
        return build_config(cls, renamed)

    def __post_init__(self) -> None:
        if self.sure is not None and self.sure <= 0:
            raise ValueError(f"sure must be above 0, or null for none; got {self.sure}")
        if not (0 <= self.move <= 1 and 0 <= self.resize <= 1):
            raise ValueError(f"move and resize are shares in [0, 1], got {self.move} and {self.resize}")
        if self.looks < 1:
            raise ValueError(f"looks must be at least 1, got {self.looks}")
        if self.merge_iou is not None and not 0 < self.merge_iou <= 1:
            raise ValueError(f"merge_iou must lie in (0, 1], or be null for none; got {self.merge_iou}")

    @property
    def keeps_scores(self) -> bool:
        """Whether the final score is the detector's own, by these weights alone."""
        return (self.detector, self.judge, self.judge_by_size, self.size, self.bias) == (1.0, 0.0, 0.0, 0.0, 0.0)


def stored_fusion(checkpoint: Checkpoint) -> Fusion | None:
    """The fusion that was fitted for a checkpoint's networks; ``None`` if none was."""
    return None if checkpoint.fusion is None else Fusion.from_facts(checkpoint.fusion)


def fuse(
    method: Method,
    fusion: Fusion,
    scores: FloatArray,
    face_logits: FloatArray,
    sides_px: FloatArray,
    calibration: Calibration | None = None,
) -> FloatArray:
    """Final scores of judged proposals.

    Args:
        method: ``replace`` (sigmoid of the face logit), ``product`` (of both probabilities) or ``logit``.
        fusion: weights of ``logit``; unused by the others.
        scores: float64 [N], the detector's, in [0, 1].
        face_logits: float64 [N].
        sides_px: float64 [N], longer side of each box.
        calibration: of the detector; default: the fusion's usual one.

    Returns:
        float64 [N] in (0, 1). ``logit`` with detector 1, all else 0 and a plain calibration returns ``scores`` itself.
    """
    if method == "replace":
        replaced: FloatArray = expit(face_logits)
        return replaced
    if method == "product":
        product: FloatArray = scores * expit(face_logits)
        return product
    calibration = fusion.usual_calibration if calibration is None else calibration
    if fusion.keeps_scores and calibration.score_map == IDENTITY:
        same: FloatArray = scores.copy()
        return same
    fused: FloatArray = expit(fused_logits(fusion, scores, face_logits, sides_px, calibration))
    return fused


def fused_logits(
    fusion: Fusion, scores: FloatArray, face_logits: FloatArray, sides_px: FloatArray, calibration: Calibration
) -> FloatArray:
    """The formula of :class:`Fusion`; float64 [N]."""
    size = size_feature(sides_px)
    log_odds = calibration.score_map.log_odds(scores)
    surprise = face_logits - calibration.expected_logits(log_odds, size)
    judge = np.maximum(fusion.judge + fusion.judge_by_size * size, 0.0)
    if fusion.sure is not None:
        judge = judge / (1.0 + np.maximum(log_odds, 0.0) / fusion.sure)
    logits: FloatArray = fusion.detector * log_odds + judge * surprise + fusion.size * size + fusion.bias
    return logits


def move_boxes(fusion: Fusion, boxes: FloatArray, found: FloatArray) -> FloatArray:
    """Boxes on their way from where the detector put them to where the judge found the face.

    Args:
        fusion: how far.
        boxes: float64 [N, 4], the detector's.
        found: float64 [N, 4], the judge's; boxes with NaN stay.

    Returns:
        float64 [N, 4].
    """
    fading = np.clip(1.0 - fusion.fade * size_feature(longer_side(boxes)), 0.0, 1.0)
    return interpolate(boxes, found, fusion.move * fading, fusion.resize * fading)


def same_face(
    boxes: FloatArray,
    found: FloatArray,
    sureness: FloatArray,
    merge_iou: float | None,
    leads: BoolArray | None = None,
) -> IntArray:
    """Which box stays for each one, when the boxes that tell of the same face become one.

    Faces are told apart by where the judge sees them: boxes shifted to either side of one face may hardly overlap, but
    the judge finds the same face in both. It cannot say which of them is drawn better, as it sees them all from the
    middle; the detector can. So the one that the detector is surest of stays.

    Args:
        boxes: float64 [N, 4], as they will be written.
        found: float64 [N, 4], where the judge found the faces; NaN: at ``boxes``.
        sureness: float64 [N], the detector's scores.
        merge_iou: overlap from which two faces are one; ``None``: all boxes stay.
        leads: bool [N], boxes beside which others may go; default: all.

    Returns:
        int64 [N], the position of the box that stays for each; its own if it stays itself.
    """
    if merge_iou is None:
        return np.arange(len(boxes))
    faces = np.where(np.isfinite(found).all(axis=1, keepdims=True), found, boxes)
    return greedy_groups(faces, sureness, merge_iou, leads)


def best_of_face(scores: FloatArray, stays: IntArray) -> FloatArray:
    """The best score among the boxes of each face, float64 [N], at the boxes that stay; the others keep theirs.

    Args:
        scores: float64 [N], final.
        stays: int64 [N], of :func:`same_face`.
    """
    best: FloatArray = scores.copy()
    np.maximum.at(best, stays, scores)
    return best


def search_weights(quality: Callable[[Fusion], float], start: Fusion, config: FusionConfig) -> Fusion:
    """Coordinate search: the best of each weight's values in turn, the others kept; ties keep what was there.

    Args:
        quality: what to maximise.
        start: where to begin; its detector weight and bias stay.
        config: values to try.
    """
    best, highest = start, quality(start)
    for _ in range(config.sweeps):
        for name, values in config.values().items():
            for value in values:
                trial = replace(best, **{name: value})  # type: ignore[arg-type]  # as its own list says
                found = -np.inf if trial == best else quality(trial)
                if found > highest:
                    best, highest = trial, found
    return best


def calibrate(fusion: Fusion, logits: FloatArray, is_face: FloatArray) -> Fusion:
    """Stretch and shift all weights so that the final score is the share of faces; ranks stay.

    Args:
        fusion: weights with bias 0.
        logits: float64 [N], their :func:`fused_logits` on labelled proposals.
        is_face: float64 [N], 0 or 1.
    """
    from scipy.optimize import minimize

    def cost(weights: FloatArray) -> tuple[float, FloatArray]:
        odds = weights[0] * logits + weights[1]
        loss = -np.mean(is_face * log_expit(odds) + (1 - is_face) * log_expit(-odds))
        error = (expit(odds) - is_face) / len(odds)
        return float(loss), np.array([error @ logits, error.sum()])

    bounds = [(0.05, 5.0), (None, None)]
    found = minimize(cost, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    stretch, bias = float(found[0]), float(found[1])
    return replace(
        fusion,
        detector=stretch * fusion.detector,
        judge=stretch * fusion.judge,
        judge_by_size=stretch * fusion.judge_by_size,
        size=stretch * fusion.size,
        bias=bias,
    )


def impute_face_logits(
    scores: FloatArray,
    sides_px: FloatArray,
    judged_scores: FloatArray,
    judged_logits: FloatArray,
    calibration: Calibration | None = None,
) -> FloatArray:
    """Face logits of boxes that were not judged, so that they do not outrank judged ones merely for that.

    With a calibration, what it expects of them: no surprise, the score stays. Without, a straight line in logit space
    through the judged boxes of the same image; without enough of those the detector's own logit.

    Args:
        scores: float64 [M], of boxes not judged.
        sides_px: float64 [M], their longer sides.
        judged_scores: float64 [N].
        judged_logits: float64 [N].
        calibration: the detector's calibration.

    Returns:
        float64 [M].
    """
    own = score_logit(scores)
    if calibration is not None and any(calibration.expected):
        return calibration.expected_logits(calibration.score_map.log_odds(scores), size_feature(sides_px))
    known = score_logit(judged_scores)
    if len(known) < 8 or np.ptp(known) < 1e-3:
        return own
    slope, offset = np.polyfit(known, judged_logits, 1)
    imputed: FloatArray = np.minimum(max(slope, 0.0) * own + offset, judged_logits.max())
    return imputed

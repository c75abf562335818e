"""The fit of fusion: weights under which the share of the error that goes is largest, found on labelled proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinygan.boxes import iou
from tinygan.data.rois import RoiConfig
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth, IntArray
from tinygan.errors import DataError
from tinygan.evaluate.claims import Claims, score_claims
from tinygan.evaluate.curves import average_precision, exact_curve
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import claim_wider_faces
from tinygan.second_stage.calibration import Calibration, fit_rank_curve, fit_usual_calibration, size_feature
from tinygan.second_stage.fusion import (
    Fusion,
    FusionConfig,
    best_of_face,
    calibrate,
    fused_logits,
    move_boxes,
    search_weights,
)
from tinygan.second_stage.rescoring import (
    RescoreConfig,
    calibrate_detector,
    fuse_judged,
    judged_columns,
    one_per_face,
    place,
    rescore_judged,
)
from tinygan.training.holdout import ByImage

LEAST_ERROR = 1e-3
Truths = Mapping[str, GroundTruth]  # the faces of every image


def fit_fusion(detectors: Sequence[ByImage], truths: Truths, labels: RoiConfig, config: FusionConfig) -> Fusion:
    """Fit fusion on judged proposals of one detector or more, each of which counts the same.

    How precision falls with rank is fitted on the labels; every detector's calibration then without them, as an unknown
    detector's will be; the weights for the least :func:`mean_log_error`; last, the final scores are made shares of
    faces.

    Args:
        detectors: ``{image name: judged proposals}`` of each detector.
        truths: the faces of these images.
        labels: ``positive_iou``.
        config: values to try.

    Raises:
        DataError: if there are not both faces and non-faces.
    """
    if not any(np.isfinite(judged.boxes).any() for one in detectors for judged in one.values()):
        stay = (0.0,)  # a judge without the third head
        config = replace(config, move=stay, resize=stay, fade=stay, merge_iou=(None,))
    moving = Fusion(
        move=_middle(config.move), resize=_middle(config.resize), fade=_middle(config.fade), looks=config.looks
    )
    labelled = [_one_per_face(one, truths, labels, moving) for one in detectors]
    is_face = np.concatenate([one.is_face[np.isfinite(one.is_face)] for one in labelled])
    if not 0 < is_face.sum() < len(is_face):
        raise DataError(
            f"fusion needs both faces and non-faces among the hold-out proposals, got {int(is_face.sum())} faces in "
            f"{len(is_face)} proposals; give more images"
        )
    curve = fit_rank_curve([(one.scores, one.face_logits, one.is_face) for one in labelled])
    usual = fit_usual_calibration([one.counted() for one in labelled])
    basis = replace(moving, judge=0.5, sure=config.sure, fitted=True, curve=curve, usual_calibration=usual)
    trials = [_Trials(one, truths, calibration_of(one, basis), config) for one in detectors]

    def quality(trial: Fusion) -> float:
        return -mean_log_error([ap for one in trials for ap in one.average_precisions(trial)])

    best = search_weights(quality, basis, config)
    logits = np.concatenate(
        [
            fused_logits(best, one.scores, one.face_logits, one.sides_px, trial.calibration)[np.isfinite(one.is_face)]
            for one, trial in zip(labelled, trials, strict=True)
        ]
    )
    return calibrate(best, logits, is_face)


def mean_log_error(aps: Sequence[float]) -> float:
    """Mean logarithm of 1 - AP: what counts is the share of the error that goes.

    By mean AP, weak detectors and the smallest faces, where most points are to be had, would outvote the others, and
    the judge get a weight that costs good and unknown detectors their larger faces.

    Args:
        aps: average precisions, in [0, 1].
    """
    return float(np.log(np.maximum(1.0 - np.asarray(aps), LEAST_ERROR)).mean())


def calibration_of(judged: ByImage, fusion: Fusion) -> Calibration:
    """The calibration of one detector, found in these proposals; of too few, the fusion's usual one."""
    return calibrate_detector(judged.values(), fusion) or fusion.usual_calibration


def rescored(judged: ByImage, fusion: Fusion, calibration: Calibration) -> dict[str, Detections]:
    """What a user gets of one detector's proposals with this fusion, by image."""
    found = rescore_judged(list(judged.values()), RescoreConfig(fusion=fusion), calibration)
    return dict(zip(judged, found, strict=True))


def label_for_fusion(boxes: FloatArray, truth: GroundTruth, config: RoiConfig) -> tuple[FloatArray, BoolArray]:
    """Label proposals as the evaluation counts them.

    Args:
        boxes: float64 [N, 4].
        truth: faces of the image.
        config: ``positive_iou``.

    Returns:
        ``is_face`` float64 [N], and bool [N] of the proposals that count: those whose best face is an
        ignored one are left out.
    """
    overlaps = iou(boxes, truth.boxes)
    overlaps = np.concatenate([overlaps, np.zeros((len(boxes), 1))], axis=1)
    best = overlaps.argmax(axis=1)
    hit = overlaps.max(axis=1) >= config.positive_iou
    usable = np.append(truth.usable, True)[best]
    return (hit & usable).astype(np.float64), ~(hit & ~usable)


class _Labelled(NamedTuple):
    """Judged proposals of one detector, no two of one face; float64 [N] each.

    Attributes:
        scores: the detector's.
        face_logits: the judge's.
        sides_px: longer sides.
        is_face: 1 where the box, moved, is a face, 0 where it is none, NaN where it is an ignored one.
    """

    scores: FloatArray
    face_logits: FloatArray
    sides_px: FloatArray
    is_face: FloatArray

    def counted(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Scores, face logits, size features and labels of those that are not ignored."""
        counts = np.isfinite(self.is_face)
        size = size_feature(self.sides_px)
        return self.scores[counts], self.face_logits[counts], size[counts], self.is_face[counts]


def _one_per_face(judged: ByImage, truths: Truths, labels: RoiConfig, fusion: Fusion) -> _Labelled:
    """Judged proposals, one per face, with the labels of the boxes where this fusion moves them."""
    distinct = {name: one_per_face(one) for name, one in judged.items()}
    is_face = [np.zeros(0)]
    for name, one in distinct.items():
        moved = move_boxes(fusion, one.proposals.boxes, one.boxes)
        face, counts = label_for_fusion(moved, truths[name], labels)
        is_face.append(np.where(counts, face, np.nan))
    return _Labelled(*judged_columns(distinct.values()), np.concatenate(is_face))


class _Trials:
    """One detector's judged proposals under many fusions.

    Where boxes go does not depend on scores, so boxes, and the faces they claim, are found once for all fusions that
    move and merge them alike. The steps are those of :func:`tinygan.second_stage.rescoring.rescore_judged`; a test
    compares the two.

    Args:
        judged: by image.
        truths: the faces of these images.
        calibration: the detector's.
        config: heights of the faces that count, and the IoUs of a hit.
    """

    def __init__(self, judged: ByImage, truths: Truths, calibration: Calibration, config: FusionConfig) -> None:
        self.calibration = calibration
        self._judged, self._config = judged, config
        self._truth = truth_by_height({name: truths[name] for name in judged}, config.heights_px)
        self._face_logits = [one.face_logits for one in judged.values()]
        self._placed: tuple[object, IntArray, Claims] | None = None

    def average_precisions(self, fusion: Fusion) -> list[float]:
        """Exact AP at every height and IoU at which there is a face to find."""
        stays, claims = self._place(fusion)
        config = RescoreConfig(fusion=fusion)
        scores = fuse_judged(list(self._judged.values()), self._face_logits, config, self.calibration)
        best = best_of_face(scores, stays)[stays == np.arange(len(stays))]
        claims = claims.with_scores(best)
        found = []
        for members in self._truth.subsets.values():
            for iou_threshold in self._config.ious:
                outcomes = score_claims(claims, [members[name] for name in self._judged], iou_threshold)
                if outcomes.positives:
                    found.append(average_precision(exact_curve(outcomes)))
        return found

    def _place(self, fusion: Fusion) -> tuple[IntArray, Claims]:
        """For each proposal the one that stays, int64 [N], and the faces that those claim, in their order."""
        key = (fusion.move, fusion.resize, fusion.fade, fusion.merge_iou)
        if self._placed is None or self._placed[0] != key:
            stays, detections, first = [np.zeros(0, np.int64)], {}, 0
            for name, one in self._judged.items():
                placed = place(one, fusion)
                rows = placed.rows
                stays.append(placed.stays + first)
                falling = -np.arange(first, first + len(rows), dtype=np.float64)  # so that claims keep this order
                detections[name] = Detections(placed.boxes[rows], falling)
                first += len(placed.stays)
            claims = claim_wider_faces(detections, self._truth, list(self._judged))
            self._placed = key, np.concatenate(stays), claims
        return self._placed[1], self._placed[2]


def _middle(values: Sequence[float]) -> float:
    """Where a search begins."""
    return sorted(values)[len(values) // 2]

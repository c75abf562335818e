"""Judged proposals to detections.

:func:`rescore_judged` is the one function that does so, in the product, in the fit of fusion and in every figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from tinygan.boxes import longer_side
from tinygan.detections import Detections, FloatArray, IntArray
from tinygan.joining import confirm_detections
from tinygan.second_stage.calibration import PLAIN, Calibration, fit_calibration, size_feature
from tinygan.second_stage.fusion import (
    LEAST_LOG_ODDS,
    Fusion,
    Method,
    best_of_face,
    fuse,
    impute_face_logits,
    move_boxes,
    same_face,
)
from tinygan.second_stage.judging import LOOK_LOGIT, Judged, JudgingOptions

# Three quarters of the looks, which costs .1 points of hard AP in the mean of eight detectors, of a weak one .5
# (experiments/lite/looks.py), and half of those that a calibration takes.
QUICK: Mapping[str, Any] = {
    "least_log_odds": -4.0, "again_from": -1.5, "calibration_proposals": 10_000, "second_opinion": False
}  # fmt: skip
SAME_FACE_IOU = 0.55  # of the faces that the judge sees in two proposals, for a calibration


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """How proposals are rescored.

    Attributes:
        method: how the final score is made: ``logit`` (fitted weights), ``product`` (of both probabilities) or
            ``replace`` (the judge's alone). Not stated in the paper.
        fusion: weights of method ``logit``; those fitted in the checkpoint unless overridden.
        calibration: ``judge``: what the judge says of the proposals tells how to read this detector's scores (see
            :mod:`tinygan.second_stage.calibration`); ``none``: scores and face logits are added as they are.
        calibration_proposals: number of proposals from which the calibration is found, in images spread evenly over
            all.
        move_boxes: whether boxes may move and merge; without, each stays where the detector put it, as in the paper.
        max_rois: number of proposals judged per image, the best ones (the paper: 600).
        min_score: proposals of a lower score are not judged: they keep their place among the others.
        least_log_odds: proposals that are faces with lower log-odds, by the detector's calibration, are not judged
            either, once it is found; ``None``: all are (the paper).
        again_from: face logit from which the judge looks again at a proposal, where it looks more than once.
        second_opinion: whether a second detector searches images in which the judge leaves doubt, and what it finds
            counts where a box is (see :mod:`tinygan.second_stage.opinion`).
        batch_size: patches per forward pass.
        workers: threads that decode images and cut patches.
    """

    method: Method = "logit"
    fusion: Fusion = field(default_factory=Fusion)
    calibration: Literal["judge", "none"] = "judge"
    calibration_proposals: int = 20_000
    move_boxes: bool = True
    max_rois: int = 600
    min_score: float = 0.0
    least_log_odds: float | None = LEAST_LOG_ODDS  # Differs from the paper: None
    again_from: float = LOOK_LOGIT
    second_opinion: bool = True  # Differs from the paper: False
    batch_size: int = 64
    workers: int = 2

    @property
    def looks(self) -> int:
        """How often the judge looks; once at boxes that stay where they are."""
        return self.fusion.looks if self.move_boxes else 1

    @property
    def judging_options(self) -> JudgingOptions:
        """How proposals are judged."""
        return {
            "batch_size": self.batch_size,
            "workers": self.workers,
            "looks": self.looks,
            "again_from": self.again_from,
        }

    @property
    def asks(self) -> bool:
        """Whether there is a second opinion, which needs scores that are log-odds of a face, as fitted ones are."""
        return self.second_opinion and self.method == "logit" and self.calibration == "judge" and self.fusion.fitted

    def count_judged(self, proposals: Detections, calibration: Calibration | None) -> int:
        """How many proposals of an image are judged, the best ones.

        Args:
            proposals: by falling score.
            calibration: the detector's, if it is known.
        """
        count = min(self.max_rois, int((proposals.scores >= self.min_score).sum()))
        if calibration is None or self.least_log_odds is None:
            return count
        return min(count, int((calibration.score_map.log_odds(proposals.scores) >= self.least_log_odds).sum()))

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must lie in [0, 1], got {self.min_score}")
        if math.isnan(self.again_from):
            raise ValueError("again_from is a face logit, got nan")
        for name in ("calibration_proposals", "max_rois", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Placement(NamedTuple):
    """Where the boxes of one image go, whatever their scores.

    Attributes:
        boxes: float64 [N, 4], moved.
        stays: int64 [N], the position of the box that stays for each, see
            :func:`tinygan.second_stage.fusion.same_face`.
    """

    boxes: FloatArray
    stays: IntArray

    @property
    def rows(self) -> IntArray:
        """Positions of the boxes that stay, int64 [K]."""
        return np.flatnonzero(self.stays == np.arange(len(self.stays)))


def rescore_judged(
    judged: Sequence[Judged], config: RescoreConfig, calibration: Calibration | None = None
) -> list[Detections]:
    """Rescore judged proposals, move their boxes and keep one box per face.

    Args:
        judged: images, of one detector.
        config: how.
        calibration: the detector's; default: the fusion's usual one, or none if the config says so.

    Returns:
        One per image: the boxes, moved and merged, with fused scores and columns ``proposal_box`` (where the detector
        put the box), ``proposal_score`` and ``face_logit`` (imputed for proposals that were not judged). Of the boxes
        in which the judge sees the same face one stays; its columns are its own, its score is the best of theirs. What
        a second detector found in the image confirms them (:func:`tinygan.joining.confirm_detections`).
    """
    calibration = PLAIN if config.calibration == "none" else calibration or config.fusion.usual_calibration
    everywhere = calibration if config.method == "logit" else None
    face_logits = [_with_imputed(one, everywhere) for one in judged]
    scores = fuse_judged(judged, face_logits, config, calibration)
    parts = np.split(scores, np.cumsum([len(one.proposals) for one in judged]))
    return [_finished(*of_image, config) for of_image in zip(judged, face_logits, parts, strict=False)]


def fuse_judged(
    judged: Sequence[Judged], face_logits: Sequence[FloatArray], config: RescoreConfig, calibration: Calibration
) -> FloatArray:
    """Final scores of all proposals of these images, one after the other, before boxes of one face become one.

    Args:
        judged: images, of one detector.
        face_logits: float64 [N] of all proposals of each image.
        config: how.
        calibration: the detector's.
    """
    return fuse(
        config.method,
        config.fusion,
        np.concatenate([np.zeros(0), *(one.proposals.scores for one in judged)]),
        np.concatenate([np.zeros(0), *face_logits]),
        np.concatenate([np.zeros(0), *(longer_side(one.proposals.boxes) for one in judged)]),
        calibration,
    )


def place(judged: Judged, fusion: Fusion) -> Placement:
    """Move the boxes of one image to where the judge found the faces, and choose which stay."""
    boxes = judged.proposals.boxes
    found = np.full((len(boxes), 4), np.nan)
    found[: len(judged.boxes)] = judged.boxes
    moved = move_boxes(fusion, boxes, found)
    leads = np.arange(len(boxes)) < len(judged.boxes)
    return Placement(moved, same_face(moved, found, judged.proposals.scores, fusion.merge_iou, leads))


def calibrate_detector(judged: Iterable[Judged], fusion: Fusion) -> Calibration | None:
    """The calibration of one detector, found in its judged proposals without labels.

    Args:
        judged: images, of one detector.
        fusion: holds how often usual proposals are faces by rank.

    Returns:
        The calibration; ``None`` if the fusion has no rank curve or there are too few proposals to find one.
    """
    if fusion.curve is None:
        return None
    scores, face_logits, sides_px = judged_columns([one_per_face(one) for one in judged])
    return fit_calibration(scores, face_logits, size_feature(sides_px), fusion.curve)


def refine_calibration(
    rough: Calibration, whole: Iterable[Judged], partly: Iterable[Judged], config: RescoreConfig
) -> Calibration | None:
    """A calibration from more images, of which proposals that are hardly faces were not judged.

    Such proposals of the other images stand for them.

    Args:
        rough: said which proposals to judge.
        whole: images, of one detector, of which all proposals were judged.
        partly: further ones, of which those were judged that ``config`` counts by ``rough``.
        config: how; its fusion holds how often usual proposals are faces by rank.

    Returns:
        As :func:`calibrate_detector`.
    """
    if config.fusion.curve is None:
        return None
    whole, partly = ([one for one in images if one.error is None] for images in (whole, partly))
    unlikely = sum(len(one.best) - config.count_judged(one.proposals, rough) for one in whole)
    left_out = sum(config.count_judged(one.proposals, None) - len(one.best) for one in partly)
    scores, face_logits, sides_px = judged_columns([one_per_face(one) for one in (*whole, *partly)])
    weights = np.ones(len(scores))
    if config.least_log_odds is not None and unlikely:
        stands = rough.score_map.log_odds(scores) < config.least_log_odds
        weights[stands] += left_out / unlikely
    return fit_calibration(scores, face_logits, size_feature(sides_px), config.fusion.curve, weights)


def sample_step(judged: int, images: int, wanted: int, least_images: int = 1) -> int:
    """Of how many images one is taken for a sample that is spread evenly.

    Args:
        judged: how many proposals would be judged of all images.
        images: how many images there are.
        wanted: about how many proposals are to be judged.
        least_images: how many images to take at least, if there are.
    """
    return max(1, min(-(-judged // max(1, wanted)), images // least_images))


def one_per_face(judged: Judged) -> Judged:
    """The judged proposals without those that repeat a face: what a calibration is found from.

    A detector that proposes every face ten times, or floods its surroundings, would else seem to be right about low
    scores: the judge finds the face in all of these proposals.
    """
    best = judged.best
    stays = same_face(best.boxes, judged.boxes, best.scores, SAME_FACE_IOU) == np.arange(len(best))
    return Judged(judged.name, best[stays], judged.face_logits[stays], judged.boxes[stays])


def judged_columns(judged: Iterable[Judged]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores, face logits and longer sides in pixels of all judged proposals, float64 [N] each."""
    rows = [(one.best.scores, one.face_logits, longer_side(one.best.boxes)) for one in judged]
    empty = (np.zeros(0), np.zeros(0), np.zeros(0))
    scores, face_logits, sides_px = (np.concatenate(column) for column in zip(empty, *rows, strict=True))
    return scores, face_logits, sides_px


def _with_imputed(judged: Judged, calibration: Calibration | None) -> FloatArray:
    """Face logits of all proposals, float64 [N], imputed where the judge did not look."""
    best, rest = judged.best, judged.proposals[len(judged.face_logits) :]
    if not len(rest):
        return judged.face_logits
    imputed = impute_face_logits(rest.scores, longer_side(rest.boxes), best.scores, judged.face_logits, calibration)
    return np.concatenate([judged.face_logits, imputed])


def _finished(judged: Judged, face_logits: FloatArray, scores: FloatArray, config: RescoreConfig) -> Detections:
    """The boxes of one image where they belong, one per face."""
    proposals = judged.proposals
    columns = {
        **proposals.fields,
        "proposal_box": proposals.boxes,
        "proposal_score": proposals.scores,
        "face_logit": face_logits,
    }
    if config.move_boxes:
        placed = place(judged, config.fusion)
        final = Detections(placed.boxes, best_of_face(scores, placed.stays), columns)[placed.rows]
    else:
        final = Detections(proposals.boxes, scores, columns)
    return final if judged.opinion is None else confirm_detections(final, judged.opinion, config.move_boxes)

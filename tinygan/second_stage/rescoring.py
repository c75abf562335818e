"""Judged proposals to detections.

:func:`rescore_judged` is the one function that does so, in the product, in the fit of fusion and in every figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tinygan.boxes import longer_side
from tinygan.detections import Detections, FloatArray
from tinygan.second_stage.calibration import PLAIN, Calibration
from tinygan.second_stage.fusion import (
    Fusion,
    Method,
    fuse,
    impute_face_logits,
    merge_same_face,
    move_boxes,
)
from tinygan.second_stage.judging import Judged


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """How proposals are rescored.

    Attributes:
        method: how the final score is made: ``logit`` (fitted weights), ``product`` (of both probabilities) or
            ``replace`` (the judge's alone).
        fusion: weights of method ``logit``; those fitted in the checkpoint unless overridden.
        calibration: ``judge``: what the judge says of the proposals tells how to read this detector's scores (see
            :mod:`tinygan.second_stage.calibration`); ``none``: scores and face logits are added as they are.
        calibration_proposals: number of proposals from which the calibration is found, in images spread evenly over
            all.
        move_boxes: whether boxes may move and merge; without, each stays where the detector put it, as in the paper.
        max_rois: number of proposals judged per image, the best ones (the paper: 600).
        batch_size: patches per forward pass.
        workers: threads that decode images and cut patches.
    """

    method: Method = "logit"
    fusion: Fusion = field(default_factory=Fusion)
    calibration: Literal["judge", "none"] = "judge"
    calibration_proposals: int = 20_000
    move_boxes: bool = True
    max_rois: int = 600
    batch_size: int = 128
    workers: int = 2

    @property
    def looks(self) -> int:
        """How often the judge looks; once at boxes that stay where they are."""
        return self.fusion.looks if self.move_boxes else 1

    def __post_init__(self) -> None:
        for name in ("calibration_proposals", "max_rois", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


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
        in which the judge sees the same face one stays; its columns are its own, its score is the best of theirs.
    """
    calibration = PLAIN if config.calibration == "none" else calibration or config.fusion.usual_calibration
    everywhere = calibration if config.method == "logit" else None
    face_logits = [_with_imputed(one, everywhere) for one in judged]
    proposals = [one.proposals for one in judged]
    scores = fuse(
        config.method,
        config.fusion,
        np.concatenate([np.zeros(0), *(one.scores for one in proposals)]),
        np.concatenate([np.zeros(0), *face_logits]),
        np.concatenate([np.zeros(0), *(longer_side(one.boxes) for one in proposals)]),
        calibration,
    )
    parts = np.split(scores, np.cumsum([len(one) for one in proposals]))
    return [_placed(*of_image, config) for of_image in zip(judged, face_logits, parts, strict=False)]


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


def _placed(judged: Judged, face_logits: FloatArray, scores: FloatArray, config: RescoreConfig) -> Detections:
    """The boxes of one image where they belong, one per face."""
    proposals = judged.proposals
    columns = {
        **proposals.fields,
        "proposal_box": proposals.boxes,
        "proposal_score": proposals.scores,
        "face_logit": face_logits,
    }
    if not config.move_boxes:
        return Detections(proposals.boxes, scores, columns)
    found = np.full((len(proposals), 4), np.nan)
    found[: len(judged.boxes)] = judged.boxes
    moved = Detections(move_boxes(config.fusion, proposals.boxes, found), scores, columns)
    leads = np.arange(len(moved)) < len(judged.boxes)
    stay, best = merge_same_face(config.fusion, moved.boxes, found, scores, proposals.scores, leads)
    return replace(moved[stay], scores=best)

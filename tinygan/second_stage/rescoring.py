"""Judged boxes to detections: the one function that does so, in the product, the fit of fusion and every figure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tinygan.boxes import longer_side
from tinygan.detections import Detections
from tinygan.second_stage.calibration import PLAIN, DetectorView
from tinygan.second_stage.fusion import (
    Fusion,
    Method,
    fuse,
    impute_face_logits,
    merge_same_face,
    move_boxes,
)
from tinygan.second_stage.judging import Answer


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """How proposals are rescored.

    Attributes:
        method: how the final score is made: ``logit`` (fitted weights), ``product`` (of both probabilities) or
            ``replace`` (the judge's alone).
        fusion: weights of method ``logit``; those fitted in the checkpoint unless overridden.
        view: ``judge``: what the judge says of the proposals tells how to read this detector's scores (see
            :mod:`tinygan.second_stage.calibration`); ``none``: scores and face logits are added as they are.
        view_rois: number of proposals from which the view is found, in images spread evenly over all.
        move_boxes: whether boxes may move and merge; without, each stays where the detector put it, as in the paper.
        max_rois: number of proposals judged per image, the best ones (the paper: 600).
        batch_size: patches per forward pass.
        workers: threads that decode images and cut patches.
    """

    method: Method = "logit"
    fusion: Fusion = field(default_factory=Fusion)
    view: Literal["judge", "none"] = "judge"
    view_rois: int = 20_000
    move_boxes: bool = True
    max_rois: int = 600
    batch_size: int = 128
    workers: int = 2

    @property
    def looks(self) -> int:
        """How often the judge looks; once at boxes that stay where they are."""
        return self.fusion.looks if self.move_boxes else 1

    def __post_init__(self) -> None:
        for name in ("view_rois", "max_rois", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def fuse_detections(
    detections: Detections, answer: Answer, config: RescoreConfig, view: DetectorView | None = None
) -> Detections:
    """Final scores of one image's proposals.

    Args:
        detections: by falling score; the first ``len(answer.face_logits)`` were judged.
        answer: the judgements.
        config: fusion.
        view: of this detector; default: the fusion's usual one, or none if the config says so.

    Returns:
        The boxes, moved and merged, with fused scores and columns ``proposal_box`` (where the detector put each),
        ``proposal_score`` and ``face_logit`` (imputed for boxes beyond ``max_rois``). Of the boxes in which the judge
        sees the same face one stays; its columns are its own, its score is the best of theirs.
    """
    view = PLAIN if config.view == "none" else view or config.fusion.usual_view
    sides_px, judged = longer_side(detections.boxes), len(answer.face_logits)
    face_logits, found = answer.face_logits, answer.boxes
    if len(detections) > judged:
        scores, expected = detections.scores, view if config.method == "logit" else None
        imputed = impute_face_logits(scores[judged:], sides_px[judged:], scores[:judged], face_logits, expected)
        face_logits = np.concatenate([face_logits, imputed])
        found = np.concatenate([found, np.full((len(imputed), 4), np.nan)])
    scores = fuse(config.method, config.fusion, detections.scores, face_logits, sides_px, view)
    columns = {
        **detections.fields,
        "proposal_box": detections.boxes,
        "proposal_score": detections.scores,
        "face_logit": face_logits,
    }
    if not config.move_boxes:
        return Detections(detections.boxes, scores, columns)
    moved = Detections(move_boxes(config.fusion, detections.boxes, found), scores, columns)
    leads = np.arange(len(moved)) < judged
    stay, best = merge_same_face(config.fusion, moved.boxes, found, scores, detections.scores, leads)
    return replace(moved[stay], scores=best)

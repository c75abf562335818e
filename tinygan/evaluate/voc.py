"""The Pascal VOC protocol at IoU 0.5, for AFW, PASCAL Face and MAFA.

As in VOC's ``VOCevaldet.m``: in the order of falling scores every detection claims the face that it
overlaps most. One that claims an ignored ("difficult") face is neither right nor wrong, a second detection of a
face is a false positive. VOC's pixels are inclusive and one more is added to both sides, which is the plain IoU of
boxes whose x2, y2 are exclusive, as all boxes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygan.detections import BoolArray, Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.claims import claim_faces, score_claims
from tinygan.evaluate.curves import (
    Curve,
    Difference,
    Outcomes,
    average_precision,
    bootstrap_weights,
    eleven_point_ap,
    exact_curve,
    paired_difference,
)
from tinygan.evaluate.truth import EvaluationTruth, truth_of_faces

IOU_THRESHOLD = 0.5
MASKED = "masked"  # column of MAFA's ground truth


@dataclass(frozen=True, eq=False)
class VocSubset:
    """One subset of the ground truth.

    Attributes:
        outcomes: every judged detection.
        curve: the precision-recall curve, one point per distinct score.
        ap: all-point AP (VOC from 2010 on), in [0, 1]; NaN without faces.
        ap_11: eleven-point AP (VOC 2007).
    """

    outcomes: Outcomes
    curve: Curve = field(init=False)
    ap: float = field(init=False)
    ap_11: float = field(init=False)

    def __post_init__(self) -> None:
        curve = exact_curve(self.outcomes)
        known = self.faces > 0
        object.__setattr__(self, "curve", curve)
        object.__setattr__(self, "ap", average_precision(curve) if known else float("nan"))
        object.__setattr__(self, "ap_11", eleven_point_ap(curve) if known else float("nan"))

    @property
    def faces(self) -> int:
        """Number of faces to find."""
        return self.outcomes.positives


@dataclass(frozen=True, eq=False)
class VocResult:
    """An evaluation.

    Attributes:
        names: the images evaluated.
        boxes: number of detections in them.
        subsets: ``{subset: result}``.
    """

    names: tuple[str, ...]
    boxes: int
    subsets: Mapping[str, VocSubset]


def voc_truth(faces: Mapping[str, GroundTruth]) -> EvaluationTruth:
    """One subset, ``all``: every face that is neither marked invalid ("difficult") nor of no area."""
    return truth_of_faces(faces)


def mark_masked(unmasked: Mapping[str, GroundTruth], masked: Mapping[str, GroundTruth]) -> dict[str, GroundTruth]:
    """Faces of two classes as one ground truth with the column ``masked``, for :func:`mafa_truth`.

    Args:
        unmasked: ``{image name: faces}``.
        masked: ``{image name: faces}`` of the same images, or of some of them.
    """
    joined = {}
    for name in dict.fromkeys([*unmasked, *masked]):
        parts = [source.get(name, GroundTruth.empty()) for source in (unmasked, masked)]
        boxes, invalid = (np.concatenate([getattr(part, key) for part in parts]) for key in ("boxes", "invalid"))
        joined[name] = GroundTruth(boxes, invalid, {MASKED: np.repeat([False, True], [len(part) for part in parts])})
    return joined


def mafa_truth(faces: Mapping[str, GroundTruth]) -> EvaluationTruth:
    """MAFA's subsets: ``whole``, ``masked`` and ``unignored`` (RefineFace, section 4.5).

    Args:
        faces: ``{image name: faces}`` with the column ``masked``, not 0 for a masked face. MAFA's ignored faces
            (blurred, deformed or below 32 px) are the ``invalid`` ones.

    Returns:
        ``whole`` counts every face, ignored ones too; ``masked`` the masked ones that are not ignored;
        ``unignored`` all that are not ignored. The others are neither right nor wrong.

    Raises:
        DataError: if an image with faces lacks the column.
    """
    lacking = [name for name, truth in faces.items() if len(truth) and MASKED not in truth.fields]
    if lacking:
        raise DataError(
            f"ground truth of '{lacking[0]}': no column '{MASKED}', which MAFA's subsets are made of "
            f"(columns: {', '.join(faces[lacking[0]].fields) or 'none'})"
        )

    subsets: dict[str, dict[str, BoolArray]] = {"whole": {}, "masked": {}, "unignored": {}}
    for name, truth in faces.items():
        if not len(truth):  # truth_of_faces gives it one box, which is ignored
            masks: list[BoolArray] = [np.zeros(1, dtype=np.bool_)] * 3
        else:
            has_area = np.asarray((truth.boxes[:, 2:] > truth.boxes[:, :2]).all(axis=1), dtype=np.bool_)
            masks = [has_area, truth.usable & np.asarray(truth.fields[MASKED] != 0, np.bool_), truth.usable]
        for members, mask in zip(subsets.values(), masks, strict=True):
            members[name] = mask
    return EvaluationTruth(truth_of_faces(faces).faces, subsets)


def evaluate_voc(
    detections: Mapping[str, Detections],
    truth: EvaluationTruth,
    names: Sequence[str] | None = None,
    iou_threshold: float = IOU_THRESHOLD,
) -> VocResult:
    """Judge detections by the Pascal VOC protocol.

    Equal scores form one point of the curve, so that their order does not change a figure.

    Args:
        detections: ``{image name: detections}``, scores on any scale; an image may be absent or empty.
        truth: from :func:`voc_truth` or :func:`mafa_truth`.
        names: images to evaluate; all of ``truth`` by default.
        iou_threshold: smallest IoU of a hit.

    Returns:
        Curves and AP of every subset.
    """
    chosen = tuple(truth.names if names is None else names)
    claims = claim_faces(detections, truth.faces, chosen)
    subsets = {
        subset: VocSubset(score_claims(claims, [members[name] for name in chosen], iou_threshold))
        for subset, members in truth.subsets.items()
    }
    return VocResult(chosen, claims.boxes, subsets)


def compare_voc(
    before: VocResult, after: VocResult, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Difference]:
    """Paired bootstrap over images of the difference in all-point AP, subset by subset.

    Raises:
        ValueError: if the two were not evaluated on the same images and subsets.
    """
    if before.names != after.names or before.subsets.keys() != after.subsets.keys():
        raise ValueError("both evaluations must be of the same images and subsets")
    weights = bootstrap_weights(len(after.names), resamples, seed)
    return {
        subset: paired_difference(before.subsets[subset].outcomes, result.outcomes, weights, level)
        for subset, result in after.subsets.items()
    }

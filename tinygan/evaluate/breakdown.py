"""Why a WIDER FACE figure moved: AP by IoU threshold and by kind of face, false positives by recall, recall ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tinygan.detections import BoolArray
from tinygan.evaluate.attributes import Groups
from tinygan.evaluate.claims import score_claims
from tinygan.evaluate.curves import (
    Difference,
    Outcomes,
    bootstrap_weights,
    exact_ap,
    false_positives_at,
    final_recall,
    paired_difference,
)
from tinygan.evaluate.truth import EvaluationTruth
from tinygan.evaluate.wider import IOU_THRESHOLD, WiderResult

IOU_THRESHOLDS = (0.5, 0.6, 0.7, 0.8)  # RefineFace, Table 3
RECALLS_PERCENT = (10, 30, 50, 80, 90, 95)  # RefineFace, Table 5
_Key = TypeVar("_Key", float, str)


@dataclass(frozen=True, eq=False)
class Slice:
    """The detections judged against some of the faces; the other faces are ignored.

    Attributes:
        outcomes: every judged detection.
        ap: exact AP in [0, 1]; NaN without faces.
        recall: share of the faces that any detection finds; NaN without faces.
    """

    outcomes: Outcomes
    ap: float = field(init=False)
    recall: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ap", exact_ap(self.outcomes))
        object.__setattr__(self, "recall", final_recall(self.outcomes))

    @property
    def faces(self) -> int:
        """Number of faces to find."""
        return self.outcomes.positives


@dataclass(frozen=True, eq=False)
class Breakdown:
    """An evaluation in parts.

    Attributes:
        names: the images evaluated.
        by_iou: ``{subset: {IoU threshold: slice}}``.
        false_positives: ``{subset: {recall in percent: false positives}}`` at IoU 0.5; None where the recall is
            never reached.
        recall_ceiling: ``{subset: share of its faces that any proposal claims at IoU 0.5}``.
        groups: ``{attribute: {value: slice}}`` at IoU 0.5, over all valid faces.
    """

    names: tuple[str, ...]
    by_iou: Mapping[str, Mapping[float, Slice]]
    false_positives: Mapping[str, Mapping[int, int | None]]
    recall_ceiling: Mapping[str, float]
    groups: Mapping[str, Mapping[str, Slice]]


@dataclass(frozen=True)
class BreakdownDifference:
    """Differences in exact AP between two breakdowns.

    Attributes:
        by_iou: ``{subset: {IoU threshold: difference}}``.
        groups: ``{attribute: {value: difference}}``.
    """

    by_iou: Mapping[str, Mapping[float, Difference]]
    groups: Mapping[str, Mapping[str, Difference]]


def break_down(result: WiderResult, truth: EvaluationTruth, groups: Groups) -> Breakdown:
    """Judge the detections of an evaluation again, in parts.

    Args:
        result: from :func:`tinygan.evaluate.wider.evaluate_wider`.
        truth: the ground truth of that evaluation.
        groups: from :func:`tinygan.evaluate.attributes.group_faces`; may be empty.

    Returns:
        The parts.
    """

    def slice_of(members: Mapping[str, BoolArray], iou_threshold: float) -> Slice:
        return Slice(score_claims(result.claims, [members[name] for name in result.names], iou_threshold))

    by_iou = {s: {iou: slice_of(members, iou) for iou in IOU_THRESHOLDS} for s, members in truth.subsets.items()}
    at_half = {subset: slices[IOU_THRESHOLD] for subset, slices in by_iou.items()}
    return Breakdown(
        names=result.names,
        by_iou=by_iou,
        false_positives={subset: _false_positives(part.outcomes) for subset, part in at_half.items()},
        recall_ceiling={subset: part.recall for subset, part in at_half.items()},
        groups={
            attribute: {value: slice_of(members, IOU_THRESHOLD) for value, members in values.items()}
            for attribute, values in groups.items()
        },
    )


def compare_breakdowns(
    before: Breakdown, after: Breakdown, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> BreakdownDifference:
    """Paired bootstrap over images of every difference in exact AP.

    Args:
        before: the baseline's parts.
        after: the parts of other detections on the same images.
        resamples: how often the images are drawn with replacement.
        seed: seed of the draws.
        level: coverage of the intervals, in (0, 1).

    Raises:
        ValueError: if the two were not evaluated on the same images and parts.
    """
    same = before.names == after.names and before.by_iou.keys() == after.by_iou.keys()
    if not same or before.groups.keys() != after.groups.keys():
        raise ValueError("both breakdowns must be of the same images, subsets and groups")
    weights = bootstrap_weights(len(after.names), resamples, seed)

    def difference(first: Slice, second: Slice) -> Difference:
        return paired_difference(first.outcomes, second.outcomes, weights, level)

    return BreakdownDifference(
        {s: _pairwise(before.by_iou[s], after.by_iou[s], difference) for s in after.by_iou},
        {a: _pairwise(before.groups[a], after.groups[a], difference) for a in after.groups},
    )


def _pairwise(
    before: Mapping[_Key, Slice], after: Mapping[_Key, Slice], difference: Callable[[Slice, Slice], Difference]
) -> dict[_Key, Difference]:
    return {key: difference(before[key], part) for key, part in after.items()}


def _false_positives(outcomes: Outcomes) -> dict[int, int | None]:
    counts = false_positives_at(outcomes, [percent / 100 for percent in RECALLS_PERCENT])
    return dict(zip(RECALLS_PERCENT, counts, strict=True))

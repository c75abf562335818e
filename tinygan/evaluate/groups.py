"""For whom detections are good: recall of groups of faces, all at the same overall precision.

A group, such as faces of one perceived skin type, has no precision of its own: a false positive is nobody's. So each
list of detections gets the threshold at which its precision *on all valid faces* is as given, and recall is compared
there, by group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinygan.detections import BoolArray, FloatArray, GroundTruth, IntArray
from tinygan.evaluate.claims import score_claims
from tinygan.evaluate.curves import Outcomes, bootstrap_weights, kept_at_precision, resampled_recall
from tinygan.evaluate.wider import IOU_THRESHOLD, WiderResult

FEW_FACES, FEW_IMAGES = 100, 30
EVERY = ("all", "valid faces")  # attribute and value of the first group

Members = Mapping[str, Mapping[str, "list[tuple[str, int]]"]]  # {attribute: {value: [(image, face)]}}


@dataclass(frozen=True)
class Estimate:
    """A figure in [0, 1], or a difference of two, with its bootstrap interval; NaN without faces."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupRecall:
    """Recall of one group of faces.

    Attributes:
        faces: number of valid faces of the group in the evaluated images.
        images: number of images with one.
        after: recall of the detections.
        before: recall of the baseline, if there is one.
        difference: ``after - before``, its interval paired by image.
    """

    faces: int
    images: int
    after: Estimate
    before: Estimate | None = None
    difference: Estimate | None = None

    @property
    def is_small(self) -> bool:
        """Whether there are too few faces or images to conclude from."""
        return self.faces < FEW_FACES or self.images < FEW_IMAGES


@dataclass(frozen=True)
class GroupComparison:
    """Recall by group at equal precision.

    Attributes:
        precision: that of both lists on all valid faces.
        thresholds: ``{role: lowest score kept}``; ``inf`` where no threshold reaches the precision: then recall is 0.
        groups: ``{attribute: {value: recall}}``; the first is all valid faces.
    """

    precision: float
    thresholds: Mapping[str, float]
    groups: Mapping[str, Mapping[str, GroupRecall]]


def compare_groups(
    results: Mapping[str, WiderResult],
    faces: Mapping[str, GroundTruth],
    members: Members,
    precision: float,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> GroupComparison:
    """Recall of every group at one precision; each resample of the images chooses its thresholds anew.

    Args:
        results: ``detections`` and perhaps ``baseline``, of the same images.
        faces: ``{image name: faces}``; invalid ones and those of no area are in no group.
        members: the groups, from :func:`tinygan.formats.face_groups.load_face_groups`; images that were not evaluated
            are left out.
        precision: on all valid faces, in (0, 1].
        resamples: how often the images are drawn with replacement.
        seed: seed of the draws.
        level: coverage of the intervals.

    Returns:
        The comparison.

    Raises:
        ValueError: if the results are of different images.
    """
    names = results["detections"].names
    if any(result.names != names for result in results.values()):
        raise ValueError("all results must be of the same images")
    # The first column counts every image once: the figure itself.
    weights = np.concatenate([np.ones((len(names), 1)), bootstrap_weights(len(names), resamples, seed)], axis=1)
    every = _masks(results["detections"], faces, None)
    overall = {role: score_claims(result.claims, every, IOU_THRESHOLD) for role, result in results.items()}
    kept = {role: kept_at_precision(outcomes, weights, precision) for role, outcomes in overall.items()}

    def recall(chosen: list[BoolArray]) -> GroupRecall:
        outcomes = {role: score_claims(result.claims, chosen, IOU_THRESHOLD) for role, result in results.items()}
        return _recall(outcomes, kept, weights, level)

    groups = {EVERY[0]: {EVERY[1]: recall(every)}}
    for attribute, values in members.items():
        groups[attribute] = {
            value: recall(_masks(results["detections"], faces, rows)) for value, rows in values.items()
        }
    thresholds = {role: _lowest(overall[role], int(kept[role][0])) for role in results}
    return GroupComparison(precision, thresholds, groups)


def _masks(
    result: WiderResult, faces: Mapping[str, GroundTruth], rows: list[tuple[str, int]] | None
) -> list[BoolArray]:
    """The valid faces of each evaluated image, of ``rows`` alone if given; bool [M] each."""
    of_image: dict[str, list[int]] = {}
    for image, face in rows or ():
        of_image.setdefault(image, []).append(face)
    masks: list[BoolArray] = []
    for name in result.names:
        # An image without faces keeps one box in the evaluation, which is in no group.
        usable = faces[name].usable if len(faces[name]) else np.zeros(1, dtype=np.bool_)
        chosen = np.full(len(usable), rows is None)
        chosen[of_image.get(name, [])] = True
        masks.append(usable & chosen)
    return masks


def _recall(
    outcomes: Mapping[str, Outcomes], kept: Mapping[str, IntArray], weights: FloatArray, level: float
) -> GroupRecall:
    drawn = {role: resampled_recall(part, weights, kept[role]) for role, part in outcomes.items()}
    after, before = drawn["detections"], drawn.get("baseline")
    per_image = outcomes["detections"].faces
    return GroupRecall(
        int(per_image.sum()),
        int((per_image > 0).sum()),
        _estimate(after, level),
        None if before is None else _estimate(before, level),
        None if before is None else _estimate(after - before, level),
    )


def _estimate(values: FloatArray, level: float) -> Estimate:
    """The first value, with the interval of the others."""
    drawn = values[1:][np.isfinite(values[1:])]
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, tails).tolist() if len(drawn) else (float("nan"), float("nan"))
    return Estimate(float(values[0]), low, high)


def _lowest(outcomes: Outcomes, kept: int) -> float:
    return float(outcomes.scores[kept - 1]) if kept else float("inf")

"""The WIDER FACE protocol (official MATLAB evaluation), with an exact AP beside the official binned one.

In the order of falling scores every detection claims the face that it overlaps most, if their IoU is at least 0.5. It
is ignored if that face is outside the subset, a hit if the face is still free, and a false positive otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinygan.detections import Detections
from tinygan.evaluate.claims import Claims, claim_faces, score_claims
from tinygan.evaluate.curves import (
    Curve,
    Difference,
    Outcomes,
    average_precision,
    binned_curve,
    bootstrap_weights,
    exact_curve,
    paired_difference,
)
from tinygan.evaluate.truth import EvaluationTruth

IOU_THRESHOLD = 0.5
_EXTRA_PX = 1.0  # the official IoU treats x2, y2 as inclusive: one more pixel on both sides of every box


@dataclass(frozen=True, eq=False)
class SubsetResult:
    """One subset of the ground truth.

    Attributes:
        outcomes: every judged detection.
        exact: the curve with one point per distinct score.
        binned: the official curve of 1,000 thresholds on min-max normalised scores.
        ap_exact: AP of ``exact``, in [0, 1]; NaN if the subset has no face.
        ap_binned: AP of ``binned``, the official figure.
    """

    outcomes: Outcomes
    exact: Curve
    binned: Curve
    ap_exact: float = field(init=False)
    ap_binned: float = field(init=False)

    def __post_init__(self) -> None:
        known = self.faces > 0
        object.__setattr__(self, "ap_exact", average_precision(self.exact) if known else float("nan"))
        object.__setattr__(self, "ap_binned", average_precision(self.binned) if known else float("nan"))

    @property
    def faces(self) -> int:
        """Number of faces to find."""
        return self.outcomes.positives


@dataclass(frozen=True, eq=False)
class WiderResult:
    """An evaluation.

    Attributes:
        names: the images evaluated.
        claims: their detections, each with its face.
        subsets: ``{subset: result}``.
    """

    names: tuple[str, ...]
    claims: Claims
    subsets: Mapping[str, SubsetResult]

    @property
    def boxes(self) -> int:
        """Number of detections in the evaluated images."""
        return self.claims.boxes


def evaluate_wider(
    detections: Mapping[str, Detections],
    truth: EvaluationTruth,
    names: Sequence[str] | None = None,
    iou_threshold: float = IOU_THRESHOLD,
) -> WiderResult:
    """Judge detections by the official WIDER FACE protocol.

    Scores are normalised over the evaluated images alone. Faces count in every one of them;
    detections count unless the image has no ground-truth box at all. Neither the order of an image's
    detections nor that of equal scores changes a figure.

    Args:
        detections: ``{image name: detections}``, scores on any scale; an image may be absent or empty.
        truth: the faces and the subsets.
        names: images to evaluate; all of ``truth`` by default.
        iou_threshold: smallest IoU of a hit; the official one is 0.5.

    Returns:
        Curves and AP of every subset.

    Raises:
        ValueError: if ``names`` holds an image twice or one that ``truth`` lacks.
    """
    chosen = tuple(truth.names if names is None else names)
    unknown = [name for name in chosen if name not in truth.faces]
    if unknown or len(set(chosen)) != len(chosen):
        raise ValueError(f"names must be distinct images of the ground truth; unknown: {unknown[:3]}")
    claims = claim_wider_faces(detections, truth, chosen)
    subsets = {}
    for subset, members in truth.subsets.items():
        outcomes = score_claims(claims, [members[name] for name in chosen], iou_threshold)
        subsets[subset] = SubsetResult(outcomes, exact_curve(outcomes), binned_curve(outcomes, claims.low, claims.high))
    return WiderResult(chosen, claims, subsets)


def claim_wider_faces(detections: Mapping[str, Detections], truth: EvaluationTruth, names: Sequence[str]) -> Claims:
    """The face that each detection claims by this protocol; see :func:`tinygan.evaluate.claims.claim_faces`."""
    return claim_faces(detections, truth.faces, names, _EXTRA_PX)


def compare_wider(
    before: WiderResult, after: WiderResult, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Difference]:
    """Paired bootstrap over images of the difference in exact AP.

    Both evaluations are resampled with the same images, so what they share cancels out. Exact AP
    does not change with normalisation: no detection is matched again.

    Args:
        before: the evaluation of the baseline.
        after: the evaluation of other detections on the same images.
        resamples: how often the images are drawn with replacement.
        seed: seed of the draws.
        level: coverage of the interval (percentiles of the resampled differences).

    Returns:
        ``{subset: difference}``; NaN where there is no face to find.

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

"""The FDDB protocol (official C++ evaluation): discrete and continuous ROC curves.

At each distinct score the detections of at least that score are matched with the annotated ellipses of
their image, one to one, so that the sum of IoU is largest (Hungarian algorithm). A pair of IoU > 0.5 is a
true positive of the discrete score; the continuous score adds up the IoU of all pairs. False positives are
the detections that are not discrete true positives, for both. An image's matching changes only at its own
scores, and only if a new detection touches a face: it is solved again then and there alone. IoU is counted in
pixels (:mod:`tinygan.evaluate.shapes`); an image whose size is not known is cut off at :func:`assumed_size`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygan.detections import BoolArray, Detections, FloatArray, IntArray
from tinygan.evaluate.curves import ends_of_ties
from tinygan.evaluate.shapes import ImageSize, pixel_iou
from tinygan.formats.fddb import ELLIPSE, FddbTruth, RocPoints

MATCH_IOU = 0.5
BUDGETS = (500, 1000, 2000)
LONGEST_SIDE_PX = 450
HEAD_STRETCH = 1.2
UNREACHED_NOTE = "* the detections make fewer false positives than that: the end of the curve, all of them kept"


@dataclass(frozen=True)
class Reading:
    """A ROC curve read at a number of false positives.

    Attributes:
        budget: the number of false positives at which the curve is read.
        tpr: largest true positive rate in [0, 1] with at most ``budget`` false positives; NaN without faces.
        reached: whether the detections make that many false positives at all. If not, ``tpr`` is read over
            the whole curve: the most these detections offer, at fewer false positives.
    """

    budget: int
    tpr: float
    reached: bool


@dataclass(frozen=True, eq=False)
class RocCurve:
    """True against false positives, one point per distinct score.

    Attributes:
        thresholds: float64 [K], falling; point k keeps the scores >= ``thresholds[k]``.
        true_positives: float64 [K], a number of pairs (discrete) or a sum of IoU (continuous).
        false_positives: int64 [K].
        faces: number of faces to find.
    """

    thresholds: FloatArray
    true_positives: FloatArray
    false_positives: IntArray
    faces: int

    @property
    def tpr(self) -> FloatArray:
        """True positive rate [K] in [0, 1]; NaN where there is no face to find."""
        return self.true_positives / self.faces if self.faces else np.full(len(self.thresholds), np.nan)

    @property
    def points(self) -> RocPoints:
        """The curve in the order of the official files, by rising threshold."""
        return RocPoints(self.tpr[::-1], self.false_positives[::-1].astype(np.float64), self.thresholds[::-1])

    def at(self, budget: int) -> Reading:
        """The curve at ``budget`` false positives."""
        within = self.true_positives[self.false_positives <= budget]
        tpr = float(within.max(initial=0.0)) / self.faces if self.faces else float("nan")
        return Reading(budget, tpr, bool((self.false_positives >= budget).any()))


@dataclass(frozen=True, eq=False)
class FddbScores:
    """The curves over some of the images.

    Attributes:
        images: number of images.
        detections: number of detections in them.
        discrete: a true positive is a pair of IoU > 0.5.
        continuous: every pair counts its IoU.
    """

    images: int
    detections: int
    discrete: RocCurve
    continuous: RocCurve

    @property
    def faces(self) -> int:
        """Number of faces to find."""
        return self.discrete.faces


@dataclass(frozen=True, eq=False)
class FddbResult:
    """An evaluation.

    Attributes:
        merged: the images of all folds, pooled.
        folds: ``{number of a fold: its images alone}``, by number.
        unsized: number of images whose size was not given.
        assumed_size: what they were clipped to; None for nothing but 0.
    """

    merged: FddbScores
    folds: Mapping[int, FddbScores]
    unsized: int
    assumed_size: ImageSize | None


def evaluate_fddb(
    detections: Mapping[str, Detections],
    truth: FddbTruth,
    names: Sequence[str] | None = None,
    image_sizes: Mapping[str, ImageSize] | None = None,
    as_ellipses: bool = False,
) -> FddbResult:
    """Judge detections by the official FDDB protocol.

    Neither the order of an image's detections nor that of the images changes a figure.

    Args:
        detections: ``{image name: detections}``; an image may be absent or empty. Those with the column
            ``ellipse`` are judged as ellipses, all others as rectangles.
        truth: faces and folds.
        names: images to evaluate; all of ``truth`` by default.
        image_sizes: ``{image name: (width, height)}``; for images it lacks, see :func:`assumed_size`.
        as_ellipses: judge rectangles as the ellipses of :func:`boxes_as_ellipses`. Not part of the protocol.

    Returns:
        Curves, merged and by fold.

    Raises:
        ValueError: if ``names`` holds an image twice or one that ``truth`` lacks.
    """
    chosen = truth.names if names is None else list(names)
    unknown = [name for name in chosen if name not in truth.ellipses]
    if unknown or len(set(chosen)) != len(chosen):
        raise ValueError(f"names must be distinct images of the ground truth; unknown: {unknown[:3]}")
    known_sizes, assumed = image_sizes or {}, assumed_size(truth)
    judged = {}
    for name in chosen:
        found = detections.get(name, Detections.empty())
        shown = boxes_as_ellipses(found) if as_ellipses else found
        judged[name] = _judge_image(shown, truth.ellipses[name], known_sizes.get(name, assumed))
    numbers = sorted({truth.folds[name] for name in chosen})
    folds = {number: _pool([judged[name] for name in chosen if truth.folds[name] == number]) for number in numbers}
    unsized = sum(name not in known_sizes for name in chosen)
    return FddbResult(_pool(list(judged.values())), folds, unsized, assumed)


def assumed_size(truth: FddbTruth) -> ImageSize | None:
    """What an image of unknown size is clipped to.

    No side of an FDDB picture is longer than 450 px. Where every face of the ground truth is centred
    within that, unknown images are clipped to 450 x 450: less than the official program clips, as one side
    of a picture is mostly shorter, but enough to bring the MTCNN reference curve from 0.014 to 0.003. Other
    pictures, in the same format, are not clipped on the right and below.

    Returns:
        ``(450, 450)`` or None.
    """
    centres = np.concatenate([np.zeros((0, 2)), *(rows[:, 3:5] for rows in truth.ellipses.values())])
    return (LONGEST_SIDE_PX, LONGEST_SIDE_PX) if (centres <= LONGEST_SIDE_PX).all() else None


def boxes_as_ellipses(detections: Detections) -> Detections:
    """Detections as upright ellipses of a head's shape, for the continuous score. Ours, not the protocol's.

    Detectors' boxes mostly end at the forehead, FDDB's ellipses at the top of the head, and they are 1.5
    times as tall as wide. So the ellipse is as wide as the box, ends at its lower edge (the chin), and is
    1.2 times as tall. Detections that are ellipses already stay what they are.

    Returns:
        The same rows with the column ``ellipse``.
    """
    if ELLIPSE in detections.fields:
        return detections
    x1, y1, x2, y2 = detections.boxes.T
    major = HEAD_STRETCH * (y2 - y1) / 2
    columns = [major, (x2 - x1) / 2, np.full(len(detections), np.pi / 2), (x1 + x2) / 2, y2 - major]
    return detections.with_fields(**{ELLIPSE: np.stack(columns, axis=1)})


def roc_table(result: FddbResult, budgets: Sequence[int] = BUDGETS) -> list[list[str]]:
    """A table of true positive rates: a heading, all images, then every fold if there are several.

    A ``*`` marks a rate whose number of false positives is not reached; see ``UNREACHED_NOTE``.
    """
    heading = ["images of", "images", "faces", "boxes"]
    heading += [f"{kind} @{budget:,} FP" for kind in ("discrete", "continuous") for budget in budgets]
    shown = {"all folds": result.merged}
    if len(result.folds) > 1:
        shown |= {f"fold {number}": scores for number, scores in result.folds.items()}
    return [heading, *([label, *_table_row(scores, budgets)] for label, scores in shown.items())]


def roc_report(result: FddbResult, budgets: Sequence[int] = BUDGETS) -> dict[str, object]:
    """The same as plain data for JSON; NaN where there is no face to find."""
    return {
        "images_without_size": result.unsized,
        "assumed_size": None if result.assumed_size is None else list(result.assumed_size),
        "merged": _scores_report(result.merged, budgets),
        "folds": {str(number): _scores_report(scores, budgets) for number, scores in result.folds.items()},
    }


@dataclass(frozen=True, eq=False)
class _Judged:
    """What one image adds to the counts at each of its K distinct scores, falling.

    Attributes:
        scores: float64 [K].
        detections: int64 [K].
        pairs: float64 [K], discrete true positives; may be negative where a matching changes.
        overlap: float64 [K], sum of IoU.
        faces: number of faces.
    """

    scores: FloatArray
    detections: IntArray
    pairs: FloatArray
    overlap: FloatArray
    faces: int


def _judge_image(found: Detections, ellipses: FloatArray, size: ImageSize | None) -> _Judged:
    from scipy.optimize import linear_sum_assignment

    # By box within equal scores: of several best matchings, the order of lines must not choose one.
    found = found[np.lexsort((*found.boxes.T, -found.scores))]
    iou = pixel_iou(found, ellipses, size)
    touching: BoolArray = np.any(iou > 0, axis=1)
    last = ends_of_ties(found.scores)
    pairs, overlap = np.zeros(len(last)), np.zeros(len(last))
    start, matched = 0, np.zeros(0)
    for point, end in enumerate((last + 1).tolist()):
        if touching[start:end].any():
            kept = iou[:end][touching[:end]]
            matched = kept[linear_sum_assignment(kept, maximize=True)]
        pairs[point], overlap[point] = np.count_nonzero(matched > MATCH_IOU), matched.sum()
        start = end
    added = np.diff(last, prepend=-1)
    return _Judged(found.scores[last], added, np.diff(pairs, prepend=0.0), np.diff(overlap, prepend=0.0), len(ellipses))


def _pool(images: Sequence[_Judged]) -> FddbScores:
    """The curves of several images: their changes in the order of all scores, added up."""
    scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
    order = np.argsort(-scores, kind="stable")
    last = ends_of_ties(scores[order])
    kept = _running(order, (image.detections for image in images))[last]
    pairs = _running(order, (image.pairs for image in images))[last]
    overlap = _running(order, (image.overlap for image in images))[last]
    faces = sum(image.faces for image in images)
    false_positives = np.rint(kept - pairs).astype(np.int64)
    thresholds = scores[order][last]
    discrete = RocCurve(thresholds, pairs, false_positives, faces)
    continuous = RocCurve(thresholds, overlap, false_positives, faces)
    return FddbScores(len(images), sum(int(i.detections.sum()) for i in images), discrete, continuous)


def _running(order: IntArray, changes: Iterable[npt.NDArray[np.generic]]) -> FloatArray:
    return np.cumsum(np.concatenate([np.zeros(0), *changes])[order])


def _table_row(scores: FddbScores, budgets: Sequence[int]) -> list[str]:
    readings = [curve.at(budget) for curve in (scores.discrete, scores.continuous) for budget in budgets]
    rates = [f"{r.tpr:.4f}{'' if r.reached else '*'}" if math.isfinite(r.tpr) else "-" for r in readings]
    return [f"{scores.images:,}", f"{scores.faces:,}", f"{scores.detections:,}", *rates]


def _scores_report(scores: FddbScores, budgets: Sequence[int]) -> dict[str, object]:
    return {
        "images": scores.images,
        "faces": scores.faces,
        "detections": scores.detections,
        "false_positives": int(scores.discrete.false_positives.max(initial=0)),
        "discrete": _curve_report(scores.discrete, budgets),
        "continuous": _curve_report(scores.continuous, budgets),
    }


def _curve_report(curve: RocCurve, budgets: Sequence[int]) -> dict[str, object]:
    readings = [curve.at(budget) for budget in budgets]
    return {str(r.budget): {"tpr": r.tpr, "reached": r.reached} for r in readings}

"""Joins what two detectors found in one picture, each face once.

Two detectors err in different places. One finds faces that the other missed, and where both found a face, the middle
between their boxes is closer to it than either: half of what tiny faces lack is boxes that lie well. Their scores must
mean about the same, log-odds of a face, so that they can be compared and added.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from tinygan.boxes import iou
from tinygan.detections import BoolArray, Detections, FloatArray, IntArray
from tinygan.formats.plausible import score_logit

SAME_IOU = 0.55  # boxes of two detectors that overlap so much show the same face
CONFIRMED_IOU = 0.4  # and so much, where no box is added that would repeat a face: hard AP +0.4 in the mean of eight
LESS_SURE = 0.2  # weight of the log-odds of the less sure of both
NOTHING_FOUND = -4.0  # what log-odds of a detector that found nothing count as, and at least those of one that did
EMPTY = {"f": np.nan, "c": np.nan, "O": None, "M": "NaT", "m": "NaT"}  # by kind of a column; else what zeros are
ROWS = 1024  # boxes of one detector that are compared with all of the other at once
FOUND_BY = ("first", "second", "both")


def join_detections(first: Detections, second: Detections) -> Detections:
    """Join what two detectors found in one picture.

    Scores of both shall mean the same: those that a second stage wrote do.

    A box of one and a box of the other that overlap by an IoU of 0.55 show the same face; the surest choose first whom
    they pair with. Its box lies in the middle between both, the log-odds of its score are 0.8 times those of the surer
    and 0.2 times those of the other. A detector that found nothing there counts as one with log-odds of -4. No score
    is higher than that of the surer.

    Args:
        first: the boxes of :meth:`tinygan.SecondStage.rescore`, or of :meth:`tinygan.FaceDetector.detect` with
            ``min_score=0``; those of one detector do not repeat a face.
        second: the boxes of the other detector, in the same picture.

    Returns:
        By falling score: boxes with the columns of ``first`` (of ``second``, if ``first`` has no boxes and no columns)
        and ``found_by``: ``first``, ``second`` or ``both``. Boxes of ``second`` alone have in columns that it lacks, or
        has of another kind, NaN, NaT, None, 0, False or an empty text.

    Raises:
        DataError: if scores lie outside [0, 1].
    """
    both = _believe_both(first, second, SAME_IOU)
    spare = both.spare
    further = _agreed(second.scores[spare], np.full(len(spare), NOTHING_FOUND))
    found_by = np.array(FOUND_BY)[np.concatenate([np.where(both.paired, 2, 0), np.ones(len(spare), np.int64)])]
    rest = {} if len(first) else {name: column[:0] for name, column in second.fields.items()}
    own = first.fields or rest
    columns = {name: _further_rows(column, second.fields.get(name), spare) for name, column in own.items()}
    joined = Detections(
        np.concatenate([both.boxes, second.boxes[spare]]), np.concatenate([both.scores, further]), columns
    )
    return joined.with_fields(found_by=found_by).sorted()


def confirm_detections(
    first: Detections,
    second: Detections,
    move_boxes: bool = True,
    *,
    same_iou: float = CONFIRMED_IOU,
    share: float = LESS_SURE,
) -> Detections:
    """As :func:`join_detections`, but no box is added: the boxes of ``first``, in their order, with its columns.

    Args:
        first: the boxes of one detector.
        second: the boxes of another one, in the same picture.
        move_boxes: whether a box that both found moves to the middle.
        same_iou: overlap from which two boxes show the same face.
        share: weight of the log-odds of the less sure of both.

    Raises:
        DataError: if scores lie outside [0, 1].
    """
    both = _believe_both(first, second, same_iou, share)
    return replace(first, boxes=both.boxes if move_boxes else first.boxes, scores=both.scores)


class _Believed(NamedTuple):
    """Boxes of one detector, with what another one says of them.

    Attributes:
        boxes: float64 [N, 4], in the middle where both found one.
        scores: float64 [N].
        paired: bool [N], which of them both found.
        spare: int64 [K], positions of the other detector's boxes that overlap with none of them.
    """

    boxes: FloatArray
    scores: FloatArray
    paired: BoolArray
    spare: IntArray


def _believe_both(first: Detections, second: Detections, same_iou: float, share: float = LESS_SURE) -> _Believed:
    both = np.concatenate([score_logit(first.scores), score_logit(second.scores)])
    log_odds, other = both[: len(first)], both[len(first) :]
    partner, spare = _pair(first.boxes, second.boxes, both, same_iou)
    paired = partner >= 0
    boxes, surer, less_sure = first.boxes.copy(), first.scores.copy(), np.full(len(first), NOTHING_FOUND)
    boxes[paired] = (boxes[paired] + second.boxes[partner[paired]]) / 2
    surer[paired] = np.maximum(surer[paired], second.scores[partner[paired]])
    less_sure[paired] = np.minimum(log_odds[paired], other[partner[paired]])
    return _Believed(boxes, _agreed(surer, less_sure, share), paired, spare)


def _pair(first: FloatArray, second: FloatArray, log_odds: FloatArray, same_iou: float) -> tuple[IntArray, IntArray]:
    """Which boxes of two detectors show the same face.

    Args:
        first: float64 [N, 4].
        second: float64 [M, 4].
        log_odds: float64 [N + M], of both.
        same_iou: least overlap of two boxes of one face.

    Returns:
        For each of ``first`` the position of its partner, int64 [N], -1 without one; and the positions of those of
        ``second`` that overlap with none of ``first``, int64 [K].
    """
    ones, twos, overlaps = _overlapping(first, second, same_iou)
    surest = np.maximum(log_odds[ones], log_odds[len(first) + twos])
    partner, free = np.full(len(first), -1), np.ones(len(second), np.bool_)
    for at in np.lexsort((-overlaps, -surest)):
        one, two = ones[at], twos[at]
        if partner[one] < 0 and free[two]:
            partner[one], free[two] = two, False
    return partner, np.setdiff1d(np.arange(len(second)), twos)


def _overlapping(first: FloatArray, second: FloatArray, same_iou: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of boxes that may show the same face: positions in both, int64 [P] each, and IoU, float64 [P]."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start in range(0, len(first), ROWS):  # or memory would grow with the product of both numbers
        overlaps = iou(first[start : start + ROWS], second)
        ones, twos = np.nonzero(overlaps >= same_iou)
        found.append((ones + start, twos, overlaps[ones, twos]))
    ones, twos, kept = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return ones, twos, kept


def _agreed(surer: FloatArray, less_sure: FloatArray, share: float = LESS_SURE) -> FloatArray:
    """Scores of faces that two detectors agree on, none higher than the surer's.

    Args:
        surer: the surer detector's scores, float64 [N].
        less_sure: the other's log-odds, float64 [N].
        share: weight of the less sure.
    """
    log_odds = (1 - share) * score_logit(surer) + share * np.maximum(less_sure, NOTHING_FOUND)
    scores: FloatArray = np.minimum(expit(log_odds), surer)
    return scores


def _further_rows(column: npt.NDArray[Any], other: npt.NDArray[Any] | None, rows: IntArray) -> npt.NDArray[Any]:
    """A column and, below it, these rows of the other detector's column, or what is empty for its type."""
    if other is not None and other.shape[1:] == column.shape[1:] and other.dtype.kind == column.dtype.kind:
        return np.concatenate([column, other[rows]])
    further = np.zeros((len(rows), *column.shape[1:]), column.dtype)
    if column.dtype.kind in EMPTY:
        further[:] = EMPTY[column.dtype.kind]
    return np.concatenate([column, further])

"""Whether boxes and scores are what they are taken for, judged by the pictures that they lie in.

A box is *odd* if its longer side is below 1.5 px, if it has no area, or if it reaches beyond the picture by more than
10 % of the picture's width or height. Of the best boxes of eight real detectors up to one in fifty is odd; read in a
wrong notation, one in five or more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import logit

from tinygan.boxes import area, clip, iou, longer_side
from tinygan.detections import BoolArray, Detections, FloatArray
from tinygan.errors import DataError
from tinygan.formats.dialect import NOTATIONS, ORDERS, RELATIVE, Order
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.images import Orientation
from tinygan.formats.notation import from_corners, to_corners
from tinygan.formats.sizes import Size, read_size

log = logging.getLogger(__name__)
SAMPLE = 200  # pictures whose boxes are checked, spread evenly over all
BEST = 50  # boxes of each, the best ones: some detectors add hundreds of worthless ones
EPSILON = 1e-6  # by which scores stay away from 0 and 1 in logit space
FINEST = 5  # of each, where a few px beyond a picture count: few detectors keep their boxes within it
MIN_SIDE_PX, BEYOND = 1.5, 0.1
ODD_SHARE = 0.15  # of the boxes: a warning if another reading leaves a fifth of them odd at most
MOST = 0.5  # of the boxes: a warning in any case
_BETTER = 0.2
MANY, FEWEST_PICTURES = 300, 30  # boxes and pictures from which on it tells where in the pictures boxes lie
FEWEST_OVER = 10
SLIGHTLY = 0.1  # above 1
_PERCENT = 20.0  # logits that reach this are rare
TELLING = 100  # boxes from which on those count that reach beyond: a single face may well do so
_OVER_PX = 2.0
_HIT_IOU, _FEWEST_HITS, _HIT_SHARE = 0.5, 5, 0.3  # with faces at hand: hits of another reading, at least
_CRAMMED_REACH, _CRAMMED_MIDDLE = 0.8, 0.42  # of the width: real boxes reach to 0.98, and have their middle at 0.46
_WORDS: dict[Order, str] = {"xywh": "x y w h", "xyxy": "x1 y1 x2 y2", "cxcywh": "cx cy w h"}


@dataclass(frozen=True, eq=False)
class Sample:
    """Boxes of one picture, in the order of their file.

    Attributes:
        boxes: float64 [N, 4], corners in pixels as they were read.
        scores: float64 [N].
        size_px: width and height of the picture.
    """

    boxes: FloatArray
    scores: FloatArray
    size_px: Size

    def best(self, boxes: FloatArray, most: int = BEST) -> FloatArray:
        """Of N boxes of this picture those of the best scores."""
        return boxes[np.argsort(-self.scores, kind="stable")[:most]]


class BoxCheck:
    """Looks at boxes of about :data:`SAMPLE` images, spread evenly over all, while they are read.

    Args:
        picture_of: ``{image: picture}``; of the pictures, the headers alone are read.
        images: those with boxes.
        orientation: orientation of the pictures to which the boxes refer.
    """

    def __init__(
        self, picture_of: Mapping[str, Path], images: Iterable[str], orientation: Orientation = "upright"
    ) -> None:
        self._orientation = orientation
        names = [name for name in images if name in picture_of]
        self._pictures = {name: picture_of[name] for name in names[:: max(1, len(names) // SAMPLE)]}
        self._samples: list[Sample] = []

    def add(self, image: str, found: Detections) -> None:
        """An image's boxes, in the order of their file."""
        if image not in self._pictures:
            return
        with suppress(DataError):  # a picture that cannot be read is reported when it is to be decoded
            self._samples.append(Sample(found.boxes, found.scores, read_size(self._pictures[image], self._orientation)))

    def warn(self, files: DetectionFiles) -> None:
        """Warn in one sentence if the boxes do not look like what they were taken for."""
        if problem := explain_boxes(self._samples, files.order):
            log.warning("%s: %s", files.source, problem)


def explain_boxes(samples: Iterable[Sample], order: Order) -> str | None:
    """One sentence on boxes that are read in a wrong notation, and what they probably are; ``None`` if all is well.

    Args:
        samples: boxes of some pictures of one detector.
        order: what the file's four numbers were taken for.
    """
    given = [sample for sample in samples if len(sample.boxes)]
    if not given:
        return None
    count = sum(min(len(sample.boxes), BEST) for sample in given)
    share = _share(given, _as_read, _is_odd) if count >= TELLING else _nowhere_share(given)
    if share > (ODD_SHARE if count >= TELLING else MOST):
        found = _better(given, order, share)
        if found is not None or share > MOST:
            odd = f"{share:.0%} of {count} boxes have no area, are below {MIN_SIDE_PX} px or reach beyond the picture"
            return f"{odd}: {found or f'check what their four numbers are (--boxes {NOTATIONS})'}"
    if count < MANY or len(given) < FEWEST_PICTURES:
        return None
    if order == "xywh" and _hangs_over(given):
        return (
            f"boxes hang over the right and lower edges of the pictures: they look like {_WORDS['cxcywh']} in pixels; "
            "read them with --boxes cxcywh"
        )
    return _crammed(given)


def explain_by_faces(found: Mapping[str, Detections], faces: Mapping[str, FloatArray], order: Order) -> str | None:
    """One sentence on boxes that hit faces if their numbers are read otherwise, and hardly else; else ``None``.

    Wrongly read boxes hit a face at an IoU of 0.5 by chance alone, rightly read ones of any detector often.

    Args:
        found: ``{image: detections}``.
        faces: ``{image: float64 [M, 4]}``, the annotated faces.
        order: what the file's four numbers were taken for.
    """
    given = [(Sample(one.boxes, one.scores, (0, 0)), faces[name]) for name, one in found.items() if len(one)]
    given = [(sample, true) for sample, true in given if area(true).any()][:: max(1, len(given) // SAMPLE)]

    def hits(read: Callable[[Sample], FloatArray]) -> int:
        best = [(sample.best(read(sample), min(FINEST, len(true))), true) for sample, true in given]
        return sum(int((iou(boxes, true) >= _HIT_IOU).any(axis=1).sum()) for boxes, true in best)

    count = sum(min(FINEST, len(true), len(sample.boxes)) for sample, true in given)
    as_read = hits(_as_read)
    if as_read > _BETTER * count:
        return None
    most, words = max((hits(read), words) for words, read in _readings(order))
    if most < max(_FEWEST_HITS, _HIT_SHARE * count) or as_read > _BETTER * most:
        return None
    return f"{as_read} of the {count} best boxes hit a face, and {most} would if they are {words}"


def warn_of_degenerate(detections: Iterable[Detections], source: str) -> None:
    """Warn in one sentence if most boxes have no area or are below 1.5 px, where pictures are not at hand."""
    best = [found.boxes[np.argsort(-found.scores, kind="stable")[:BEST]] for found in detections]
    boxes = np.concatenate([np.zeros((0, 4)), *best])
    if len(boxes) and (share := is_degenerate(boxes).mean()) > MOST:
        log.warning(
            "%s: %.0f%% of %d boxes have no area or are below %g px; check what their four numbers are (--boxes %s)",
            source, 100 * share, len(boxes), MIN_SIDE_PX, NOTATIONS,
        )  # fmt: skip


def refuse_boxes(samples: Sequence[Sample]) -> None:
    """Refuse boxes in memory that are no corners in pixels.

    Boxes of one picture say less than a file: a single face may well reach far beyond its picture.

    Raises:
        DataError: if most boxes have no area, are below 1.5 px, or lie outside the picture by more than two thirds.
    """
    # Some networks fill up their output with boxes of score 0.
    given = [Sample(one.boxes[one.scores != 0], one.scores[one.scores != 0], one.size_px) for one in samples]
    given = [sample for sample in given if len(sample.boxes)]
    if not given:
        return
    if _nowhere_share(given) > MOST:
        reason = _better(given, "xyxy", 1.0) or "they look like boxes of another picture"
        raise DataError(f"expected boxes x1, y1, x2, y2 in pixels of the picture: {reason.partition(';')[0]}")


def explain_scores(scores: FloatArray) -> str | None:
    """What keeps a detector's scores from being probabilities, and what to do; ``None`` if they lie in [0, 1].

    Args:
        scores: float64 [N], the more the better.
    """
    low, high = float(scores.min(initial=0.0)), float(scores.max(initial=0.0))
    if low >= 0 and high <= 1:
        return None
    got = f"detector scores must lie in [0, 1], got {low:g} to {high:g}"
    if low < 0:
        return f"{got}: they look like logits; map them there first, e.g. by a sigmoid"
    if high <= 1 + SLIGHTLY:
        above = int((scores > 1).sum())
        return f"{got}: {above} of {len(scores)} are slightly above 1; clip them to 1, or divide all by {high:g}"
    if high > _PERCENT:
        return (
            f"{got}: they look like percent; divide them by 100" if high <= 100 else f"{got}: divide them by {high:g}"
        )
    return f"{got}: divide percent by 100, map logits there by a sigmoid"


def _as_read(sample: Sample) -> FloatArray:
    return sample.boxes


def _readings(order: Order) -> Iterator[tuple[str, Callable[[Sample], FloatArray]]]:
    """Other readings of the same numbers, each in words."""

    def reading(other: Order, relative: bool) -> Callable[[Sample], FloatArray]:
        def read(sample: Sample) -> FloatArray:
            boxes = to_corners(from_corners(sample.boxes, order), other)
            return boxes * np.tile(sample.size_px, 2) if relative else boxes

        return read

    for relative in (True, False):
        for other in sorted(ORDERS, key=lambda other: other != order):
            if relative or other != order:
                option = RELATIVE if other == order else f"{other},{RELATIVE}" if relative else other
                unit = "in parts of the picture's size" if relative else "in pixels"
                yield f"{_WORDS[other]} {unit}; read them with --boxes {option}", reading(other, relative)
    for other in ORDERS:

        def read_transposed(sample: Sample, other: Order = other) -> FloatArray:
            return to_corners(from_corners(sample.boxes, order).reshape(4, -1).T, other)

        yield f"transposed {_WORDS[other]}, [4, N]; write them as [N, 4]", read_transposed
    yield (
        "y before x; write x first",
        lambda sample: to_corners(from_corners(sample.boxes, order)[:, [1, 0, 3, 2]], order),
    )


def _better(samples: Sequence[Sample], order: Order, share: float) -> str | None:
    """The reading that leaves fewest odd boxes, if they are few; of several such the one with fewest that hang over."""
    fits = []
    for words, read in _readings(order):
        if (odd := _share(samples, read, _is_odd)) <= _BETTER * share:
            fits.append((odd + _share(samples, read, _is_over, FINEST), words))
    if fits:
        return f"they look like {min(fits, key=lambda fit: fit[0])[1]}"
    scale = max(_reach(samples, 0), _reach(samples, 1))
    if scale > 1 + BEYOND and _share(samples, lambda sample: sample.boxes / scale, _is_odd) <= _BETTER * share:
        return f"they look like boxes of a picture of another size, about {scale:.1f} times as large; scale them to it"
    return None


def _hangs_over(samples: Sequence[Sample]) -> bool:
    """Whether boxes lie within the pictures only if their first two numbers are centres."""
    count = sum(min(len(sample.boxes), FINEST) for sample in samples)
    centred = _share(samples, lambda sample: to_corners(from_corners(sample.boxes, "xywh"), "cxcywh"), _is_over, FINEST)
    over = _share(samples, _as_read, _is_over, FINEST)
    return (over - centred) * count >= FEWEST_OVER and over >= 2 * centred


def _crammed(samples: Sequence[Sample]) -> str | None:
    """What is said where no box reaches the right and lower parts of any picture."""
    reach = max(_reach(samples, 0), _reach(samples, 1))
    middle = np.concatenate(
        [sample.best(sample.boxes[:, [0, 2]]).mean(axis=1) / sample.size_px[0] for sample in samples]
    )
    if reach >= _CRAMMED_REACH or np.median(middle) >= _CRAMMED_MIDDLE:
        return None
    return (
        f"no box reaches beyond {reach:.0%} of the pictures' width and height: they look like boxes of a picture of "
        "another size (or percent); scale them to the pictures"
    )


def _reach(samples: Sequence[Sample], axis: int) -> float:
    """How far boxes reach, in parts of the pictures' width (axis 0) or height (1), but for the farthest in 100."""
    ends = [sample.best(sample.boxes)[:, axis + 2] / sample.size_px[axis] for sample in samples]
    return float(np.quantile(np.concatenate(ends), 0.99))


def _share(
    samples: Sequence[Sample],
    read: Callable[[Sample], FloatArray],
    is_bad: Callable[[FloatArray, Size], BoolArray],
    most: int = BEST,
) -> float:
    bad = [is_bad(sample.best(read(sample), most), sample.size_px) for sample in samples]
    return float(np.concatenate(bad).mean())


def _nowhere_share(samples: Sequence[Sample]) -> float:
    """The share of boxes that lie in no picture, of the best ones and of the very best, whichever is less."""
    return min(_share(samples, _as_read, _is_nowhere, most) for most in (FINEST, BEST))


def _is_odd(boxes: FloatArray, size_px: Size) -> BoolArray:
    return is_degenerate(boxes) | _reaches_beyond(boxes, size_px, BEYOND * np.array(size_px))


def _is_nowhere(boxes: FloatArray, size_px: Size) -> BoolArray:
    outside = area(clip(boxes, *size_px)) < area(boxes) / 3
    return is_degenerate(boxes) | (outside & _is_odd(boxes, size_px))


def is_degenerate(boxes: FloatArray) -> BoolArray:
    """Boxes without area, or whose longer side is below 1.5 px: bool [N]."""
    odd = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1) | (longer_side(boxes) < MIN_SIDE_PX)
    return np.asarray(odd, np.bool_)


def _is_over(boxes: FloatArray, size_px: Size) -> BoolArray:
    return _reaches_beyond(boxes, size_px, np.full(2, _OVER_PX))


def _reaches_beyond(boxes: FloatArray, size_px: Size, margin_px: FloatArray) -> BoolArray:
    beyond = (boxes[:, :2] < -margin_px) | (boxes[:, 2:] > size_px + margin_px)
    return np.asarray(beyond.any(axis=1), np.bool_)


def score_logit(scores: FloatArray) -> FloatArray:
    """Detector scores in logit space; scores are clipped to [1e-6, 1 - 1e-6] first.

    Args:
        scores: float64 [N], in [0, 1].

    Raises:
        DataError: if scores lie outside [0, 1], e.g. because they are logits.
    """
    if problem := explain_scores(scores):
        raise DataError(problem)
    clipped: FloatArray = logit(np.clip(scores, EPSILON, 1 - EPSILON))
    return clipped

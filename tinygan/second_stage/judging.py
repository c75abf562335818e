"""Boxes of many images in, judgements out.

Decoding and cutting overlap the networks, and patches of many images fill one batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tinygan.boxes import decode_boxes, interpolate, longer_side
from tinygan.concurrency import ordered_map
from tinygan.data.cutting import CropConfig, cut_patch, inside_image
from tinygan.detections import BoolArray, ByteArray, FloatArray
from tinygan.errors import DataError
from tinygan.formats.images import read_image
from tinygan.second_stage.judge import Judge, Verdicts

LOOK_RESIZE = 0.5  # share of the way to the size it found at which the judge looks again


LOOK_LOGIT = -2.0  # it looks again at what may be a face


@dataclass(frozen=True)
class Request:
    """Boxes to judge in one image.

    Attributes:
        name: any name; it comes back with the answer.
        image: image file, or an RGB picture in memory.
        boxes: float64 [N, 4], pixels of the image.
    """

    name: str
    image: Path | Image.Image
    boxes: FloatArray


@dataclass(frozen=True)
class Answer:
    """Judgements of one image's boxes.

    Attributes:
        name: the request's.
        face_logits: float64 [N].
        real_logits: float64 [N].
        boxes: float64 [N, 4], where the face lies by the third head, pixels of the image; NaN without that head.
        error: why the image could not be read; the arrays are empty then.
    """

    name: str
    face_logits: FloatArray
    real_logits: FloatArray
    boxes: FloatArray
    error: str | None = None


@dataclass(frozen=True)
class Cut:
    """Patches of one image.

    Attributes:
        name: the request's.
        small: uint8 [N, s, s, 3], of boxes for the generator.
        large: uint8 [M, S, S, 3], of the others.
        wide: uint8 [N + M, W, W, 3], surroundings of ``small``, then of ``large``; [0, W, W, 3] if not asked for.
        is_small: bool, which route each box took, in the order of the request.
        anchors: float64 [N + M, 4], the boxes, cut to the image, in the order of the request.
        error: why the image could not be read.
    """

    name: str
    small: ByteArray
    large: ByteArray
    wide: ByteArray
    is_small: BoolArray
    anchors: FloatArray
    error: str | None = None


def judge_images(
    judge: Judge, requests: Iterable[Request], batch_size: int, workers: int = 2, looks: int = 1
) -> Iterator[Answer]:
    """Judge the boxes of many images; answers come in the order of the requests.

    Images are decoded and cut on threads while the networks run, patches of many images fill one
    batch, and at most ``workers + 2`` images wait, so memory does not grow with their number.

    Args:
        judge: the networks.
        requests: images and boxes; read lazily.
        batch_size: patches in one forward pass.
        workers: threads that decode and cut.
        looks: with 2, a judge that finds boxes looks again at what may be a face, at crops centred where it found it. A
            box's logits are the mean of its looks, its face's place is that of the last.
    """
    if looks > 1 and judge.finds_boxes:
        yield from _look_closer(judge, requests, batch_size, workers, looks)
        return
    group: list[Cut] = []
    for cut in cut_ahead(requests, judge.crops, judge.sees_wide, workers):
        group.append(cut)
        if sum(len(waiting.is_small) for waiting in group) >= 4 * batch_size:
            yield from _judge_group(judge, group, batch_size)
            group = []
    yield from _judge_group(judge, group, batch_size)


def _look_closer(
    judge: Judge, requests: Iterable[Request], batch_size: int, workers: int, looks: int
) -> Iterator[Answer]:
    """All looks but the last, then the last, at boxes moved to where the judge found what may be a face."""
    asked: deque[Request] = deque()
    earlier: deque[tuple[Answer, BoolArray]] = deque()

    def remember() -> Iterator[Request]:
        for request in requests:
            asked.append(request)
            yield request

    def closer() -> Iterator[Request]:
        for answer in judge_images(judge, remember(), batch_size, workers, looks - 1):
            request = asked.popleft()
            every = np.ones(len(answer.boxes))
            boxes = request.boxes[: len(every)]  # none if the image could not be read
            there = interpolate(boxes, answer.boxes, every, LOOK_RESIZE * every)
            again = answer.face_logits >= LOOK_LOGIT
            earlier.append((answer, again))
            yield replace(request, boxes=there[again])

    for last in judge_images(judge, closer(), batch_size, workers):
        before, again = earlier.popleft()
        if last.error is not None:
            yield last
            continue
        for known, seen in ((before.face_logits, last.face_logits), (before.real_logits, last.real_logits)):
            known[again] += (seen - known[again]) / looks
        before.boxes[again] = last.boxes
        yield before


def cut_ahead(requests: Iterable[Request], crops: CropConfig, wide: bool, workers: int) -> Iterator[Cut]:
    """Decode and cut on threads; at most ``workers + 2`` images wait.

    Args:
        requests: images and boxes; read lazily.
        crops: patch sizes and routing.
        wide: whether to cut the surroundings too.
        workers: threads.
    """
    return ordered_map(lambda request: _cut(request, crops, wide), requests, workers, workers + 2)


def _cut(request: Request, crops: CropConfig, wide: bool) -> Cut:
    def stack(patches: list[ByteArray], size: int) -> ByteArray:
        return np.stack(patches) if patches else np.zeros((0, size, size, 3), np.uint8)

    small: list[ByteArray] = []
    large: list[ByteArray] = []
    around: list[ByteArray] = []
    is_small, anchors, error = np.zeros(0, np.bool_), np.zeros((0, 4)), None
    try:
        if len(request.boxes):
            image = read_image(request.image) if isinstance(request.image, Path) else request.image
            anchors = inside_image(request.boxes, image.width, image.height)
            squares = crops.squares(request.boxes, image.width, image.height)
            is_small = crops.through_generator(longer_side(squares))
            for square, through_generator in zip(squares, is_small, strict=True):
                size = crops.lr_size if through_generator else crops.hr_size
                (small if through_generator else large).append(cut_patch(image, square, size))
            if wide:
                squares = crops.wide_squares(request.boxes, image.width, image.height)
                order = np.concatenate([np.flatnonzero(is_small), np.flatnonzero(~is_small)])
                around = [cut_patch(image, squares[row], crops.wide_size) for row in order]
    except DataError as problem:
        error = str(problem)
    return Cut(
        request.name,
        stack(small, crops.lr_size),
        stack(large, crops.hr_size),
        stack(around, crops.wide_size),
        is_small,
        anchors,
        error,
    )


def _judge_group(judge: Judge, group: list[Cut], batch_size: int) -> Iterator[Answer]:
    if not group:
        return
    small, large = (np.concatenate(parts) for parts in ([c.small for c in group], [c.large for c in group]))
    wide = None
    if judge.sees_wide:  # all surroundings of small crops, then all of large ones
        wide = np.concatenate([c.wide[: len(c.small)] for c in group] + [c.wide[len(c.small) :] for c in group])
    passes = max(1, -(-(len(small) + len(large)) // batch_size))
    parts = []
    for few, many in zip(*(np.array_split(np.arange(len(rows)), passes) for rows in (small, large)), strict=True):
        around = None if wide is None else wide[np.concatenate([few, many + len(small)])]
        parts.append(judge.judge(small[few], large[many], around))
    of_small, of_large = (Verdicts(*map(np.concatenate, zip(*side, strict=True))) for side in zip(*parts, strict=True))
    at_small = at_large = 0
    for cut in group:
        here = Verdicts.empty(len(cut.is_small))
        next_small, next_large = at_small + len(cut.small), at_large + len(cut.large)
        for mine, smalls, larges in zip(here, of_small, of_large, strict=True):
            mine[cut.is_small] = smalls[at_small:next_small]
            mine[~cut.is_small] = larges[at_large:next_large]
        at_small, at_large = next_small, next_large
        yield Answer(cut.name, here.face, here.real, decode_boxes(here.boxes, cut.anchors), cut.error)

"""Proposals of many images in, the judge's opinion on each out.

Decoding and cutting overlap the networks, and patches of many images fill one batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from PIL import Image

from tinygan.boxes import decode_boxes, interpolate, longer_side
from tinygan.concurrency import ordered_map
from tinygan.data.cutting import CropConfig, Cut, Source, cut_regions
from tinygan.detections import BoolArray, Detections, FloatArray, IntArray
from tinygan.errors import IN_MEMORY, why_skipped
from tinygan.formats.images import ImageFile, read_image
from tinygan.runtime import on_own_threads
from tinygan.second_stage.judge import Judge, filled_up

LOOK_RESIZE = 0.5  # share of the way to the size it found at which the judge looks again
LOOK_LOGIT = -2.0  # it looks again at what may be a face: from here on, unless said otherwise
THIRD_LOOK_PX = 16.0  # and a third time at proposals with sides below this: hard AP +0.3 to +0.4, the others as before
LOGIT_LIMIT = 8.0  # of a face logit: beyond it the networks answer pictures unlike any they learnt from
GROUP_BATCHES = 4  # batches of patches that are cut before the networks run over them
GROUP_PIXELS = 8_000_000  # decoded pixels, of 4 to 9 bytes each, that may wait for a second look
KEPT_PIXELS = 4_000_000  # a file of more pixels is decoded again for the second look, a tenth of the time judging takes


@dataclass(frozen=True)
class Request:
    """Proposals to judge in one image.

    Attributes:
        name: any name; it comes back with the result.
        image: image file, or an RGB picture in memory.
        proposals: by falling score, in pixels of the image.
        count: how many of them are judged, the best ones; ``None``: all.
        closes: whether patches up to here fill batches among themselves. The last bits of an answer depend on what else
            is in its batch, so those of the images between two such requests are always the same, whatever comes
            before and after.
        opinion_on: how many of those that were judged, the best ones, a second opinion is asked about, once the
            calibration of the detector says how many count; ``None`` or 0: it is not asked.
        known: what the judge said of the image before; then it is not asked again.
    """

    name: str
    image: Path | ImageFile | Image.Image
    proposals: Detections
    count: int | None = None
    closes: bool = False
    opinion_on: int | None = None
    known: Judged | None = None


@dataclass(frozen=True)
class Judged:
    """One image's proposals, and what the judge says of the best M of them.

    Attributes:
        name: the request's.
        proposals: all N of them, by falling score.
        face_logits: float64 [M], logit of face (positive) or not, within +-:data:`LOGIT_LIMIT`. A few boxes, such as
            those far larger than any face, get logits of -100 and less, which would spoil every mean.
        boxes: float64 [M, 4], where the judge finds the face, in pixels of the image; NaN from a judge without the
            third head.
        error: why the image could not be read; nothing is judged then.
        opinion: what a second detector found in the image; ``None`` if it was not asked.
        opinion_error: why it was asked in vain.
    """

    name: str
    proposals: Detections
    face_logits: FloatArray
    boxes: FloatArray
    error: str | None = None
    opinion: Detections | None = None
    opinion_error: str | None = None

    @property
    def best(self) -> Detections:
        """The M proposals that were judged."""
        return self.proposals[: len(self.face_logits)]

    def first(self, count: int) -> Judged:
        """The same, as if the best ``count`` proposals alone had been judged."""
        return replace(self, face_logits=self.face_logits[:count], boxes=self.boxes[:count])


class JudgingOptions(TypedDict):
    """How proposals are judged, see :func:`judge_images`."""

    batch_size: int
    workers: int
    looks: int
    again_from: float


class Opinion(Protocol):
    """What is asked about proposals once they are judged (:mod:`tinygan.second_stage.opinion`)."""

    def __call__(self, judged: Judged, image: Path | ImageFile | Image.Image) -> Detections | None:
        """What a second detector finds in the image; ``None`` if there is no doubt."""
        ...


class _Look(NamedTuple):
    """One look at boxes of an image.

    Attributes:
        name: the image's.
        face_logits: float64 [N].
        boxes: float64 [N, 4], where the face was found.
        error: why the image could not be read.
        picture: the decoded image, if there is a further look and it was given in memory or is small.
    """

    name: str
    face_logits: FloatArray
    boxes: FloatArray
    error: str | None
    picture: Source | None


class _Glance(NamedTuple):
    """What to look at: boxes float64 [N, 4] of a picture or file; and whether they close a batch."""

    name: str
    image: Path | ImageFile | Image.Image | Source
    boxes: FloatArray
    closes: bool = False


def judge_images(
    judge: Judge,
    requests: Iterable[Request],
    batch_size: int,
    workers: int = 2,
    looks: int = 1,
    again_from: float = LOOK_LOGIT,
    opinion: Opinion | None = None,
) -> Iterator[Judged]:
    """Judge the proposals of many images; results come in the order of the requests.

    Images are decoded and cut on threads while the networks run, and decoded again for a second look if they are larger
    than :data:`KEPT_PIXELS`; patches of many images fill one batch; per look at most ``workers + 2`` images and one
    group of :data:`GROUP_BATCHES` batches wait, so memory does not grow with the number of images.

    Args:
        judge: the networks.
        requests: images and proposals; read lazily.
        batch_size: patches in one forward pass.
        workers: threads that decode and cut.
        looks: with 2, a judge that finds boxes looks again at what may be a face, at mirrored crops centred where it
            found it; with 3, once more at the tiny ones (:data:`THIRD_LOOK_PX`), where it found those by then.
            The logit of a proposal is the mean over its looks, its face lies where the last look found it.
        again_from: face logit from which a proposal may be a face and is looked at again.
        opinion: asked about images whose requests say so; default: nobody is.
    """
    asked: deque[Request] = deque()

    def first() -> Iterator[_Glance]:
        for request in requests:
            asked.append(request)
            count = request.count if request.known is None else 0
            yield _Glance(request.name, request.image, request.proposals.boxes[:count], request.closes)

    for look in _look(judge, first(), batch_size, workers, looks if judge.finds_boxes else 1, again_from):
        request = asked.popleft()
        face_logits = np.clip(look.face_logits, -LOGIT_LIMIT, LOGIT_LIMIT)
        judged = request.known or Judged(look.name, request.proposals, face_logits, look.boxes, look.error)
        yield judged if opinion is None else _with_opinion(judged, request, opinion)


def judge_chunks(
    judge: Judge,
    requests: Iterable[Request],
    batch_size: int,
    workers: int = 2,
    looks: int = 1,
    again_from: float = LOOK_LOGIT,
    opinion: Opinion | None = None,
) -> Iterator[Judged]:
    """As :func:`judge_images`, but chunks of requests, each up to one that closes, run side by side on a CPU's cores.

    Args:
        judge: the networks.
        requests: files and proposals; read lazily, but many chunks ahead, so pictures in memory would fill it.
        batch_size: patches in one forward pass.
        workers: number of threads that decode and cut, where chunks run one after the other; else each has one.
        looks: how often the judge looks, see :func:`judge_images`.
        again_from: face logit from which it looks again.
        opinion: asked as in :func:`judge_images`.
    """
    count = judge.side_by_side
    if count == 1:
        yield from judge_images(judge, requests, batch_size, workers, looks, again_from, opinion)
        return
    for judged in on_own_threads(
        lambda some: [*judge_images(judge, some, batch_size, 1, looks, again_from, opinion)], closed(requests), count
    ):
        yield from judged


def _with_opinion(judged: Judged, request: Request, opinion: Opinion) -> Judged:
    if judged.error is not None or not request.opinion_on:
        return judged
    try:
        return replace(judged, opinion=opinion(judged.first(request.opinion_on), request.image))
    except Exception as problem:  # whatever one picture may raise costs that picture's second opinion alone
        return replace(judged, opinion_error=_why(problem, judged.name))


def _why(problem: Exception, name: str) -> str:
    """A line on what an image raised, which names it, also where its content alone was known."""
    text = why_skipped(problem, name)
    return f"{name}: {text}" if text.startswith(IN_MEMORY) else text


def without_opinion(problem: str) -> str:
    """A line on an image that could not be searched for a second opinion."""
    return f"{problem}; no second opinion, scored by the judge alone"


def closed(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Requests together with those before them, up to each one that closes."""
    together: list[Request] = []
    for request in requests:
        together.append(request)
        if request.closes:
            yield together
            together = []
    if together:
        yield together


def _look(
    judge: Judge,
    glances: Iterable[_Glance],
    batch_size: int,
    workers: int,
    looks: int,
    again_from: float,
    keep_pictures: bool = False,
) -> Iterator[_Look]:
    """All looks but the last, then the last, at boxes moved to where the judge found what may be a face."""
    if looks == 1:
        yield from _look_once(judge, glances, batch_size, workers, keep_pictures)
        return
    asked: deque[_Glance] = deque()
    earlier: deque[tuple[_Look, BoolArray]] = deque()

    def remember() -> Iterator[_Glance]:
        for glance in glances:
            # A picture in memory comes back with its look; here it would be held for longer.
            in_memory = isinstance(glance.image, Image.Image | Source)
            asked.append(glance._replace(image=Path()) if in_memory else glance)
            yield glance

    def closer() -> Iterator[_Glance]:
        for look in _look(judge, remember(), batch_size, workers, looks - 1, again_from, keep_pictures=True):
            glance = asked.popleft()
            every = np.ones(len(look.boxes))
            boxes = glance.boxes[: len(every)]  # none if the image could not be read
            there = interpolate(boxes, look.boxes, every, LOOK_RESIZE * every)
            again = look.face_logits >= again_from
            if looks > 2:
                again &= longer_side(boxes) < THIRD_LOOK_PX
            earlier.append((look._replace(picture=None), again))
            yield glance._replace(image=look.picture or glance.image, boxes=there[again])

    for last in _look_once(judge, closer(), batch_size, workers, keep_pictures, again=True):
        before, again = earlier.popleft()
        if last.error is not None:  # the file is gone since the first look
            yield last
            continue
        before.face_logits[again] += (last.face_logits - before.face_logits[again]) / looks
        before.boxes[again] = last.boxes
        yield before._replace(picture=last.picture)


def _look_once(
    judge: Judge,
    glances: Iterable[_Glance],
    batch_size: int,
    workers: int,
    keep_pictures: bool,
    again: bool = False,
) -> Iterator[_Look]:
    def cut(glance: _Glance) -> _Group:
        return _cut(glance, judge.crops, judge.sees_wide, keep_pictures)._replace(closes=glance.closes)

    group: list[_Group] = []
    for member in ordered_map(cut, glances, workers, workers + 2):
        group.append(member)
        patches = sum(len(waiting.cut.is_small) for waiting in group)
        pixels = sum(waiting.pixels for waiting in group)
        if member.closes or patches >= GROUP_BATCHES * batch_size or pixels >= GROUP_PIXELS:
            yield from _judge_group(judge, group, batch_size, again)
            group = []
    yield from _judge_group(judge, group, batch_size, again)


class _Group(NamedTuple):
    """A member of a group: one image's patches."""

    name: str
    cut: Cut
    error: str | None
    picture: Source | None
    closes: bool = False

    @property
    def pixels(self) -> int:
        """Decoded pixels that it holds."""
        return 0 if self.picture is None else self.picture.width * self.picture.height


def _cut(glance: _Glance, crops: CropConfig, wide: bool, keep_picture: bool) -> _Group:
    if not len(glance.boxes):
        return _Group(glance.name, Cut.empty(crops), None, None)
    try:
        picture = _source(glance.image)
        cut = cut_regions(picture, glance.boxes, crops, wide)
    except Exception as problem:  # whatever one picture may raise costs that picture alone
        return _Group(glance.name, Cut.empty(crops), _why(problem, glance.name), None)
    small = isinstance(glance.image, Image.Image | Source) or picture.width * picture.height <= KEPT_PIXELS
    return _Group(glance.name, cut, None, picture if keep_picture and small else None)


def _source(image: Path | ImageFile | Image.Image | Source) -> Source:
    """What regions are cut from; a file is decoded."""
    if isinstance(image, Source):
        return image
    return Source(image if isinstance(image, Image.Image) else read_image(image))


def _judge_group(judge: Judge, group: list[_Group], batch_size: int, again: bool) -> Iterator[_Look]:
    if not group:
        return
    cuts = [member.cut for member in group]
    small, large = (np.concatenate(parts) for parts in ([c.small for c in cuts], [c.large for c in cuts]))
    wide = None
    if judge.sees_wide:  # all surroundings of small crops, then all of large ones
        wide = np.concatenate([c.wide[: len(c.small)] for c in cuts] + [c.wide[len(c.small) :] for c in cuts])
    face_logits, framed = np.zeros(len(small) + len(large)), np.full((len(small) + len(large), 4), np.nan)
    for few, many in _passes(len(small), len(large), batch_size):
        rows = np.concatenate([few, many + len(small)])
        around = None if wide is None else wide[rows]
        face_logits[rows], framed[rows] = judge.judge(small[few], large[many], around, again)
    at_small, at_large = 0, len(small)
    for member in group:
        cut = member.cut
        rows = np.zeros(len(cut.is_small), np.int64)
        rows[cut.is_small] = at_small + np.arange(len(cut.small))
        rows[~cut.is_small] = at_large + np.arange(len(cut.large))
        at_small, at_large = at_small + len(cut.small), at_large + len(cut.large)
        boxes = decode_boxes(framed[rows], cut.anchors)
        yield _Look(member.name, face_logits[rows], boxes, member.error, member.picture)


def _passes(small: int, large: int, batch_size: int) -> list[tuple[IntArray, IntArray]]:
    """Which small and large patches are judged together, int64 [K] each: batches of about the same size.

    Of one kind alone they have full steps, as the judge fills batches up to those.
    """
    passes = max(1, -(-(small + large) // batch_size))
    if small and large:
        few, many = (np.array_split(np.arange(count), passes) for count in (small, large))
        return list(zip(few, many, strict=True))
    count = small + large
    size = min(batch_size, filled_up(max(1, -(-count // passes))))
    parts = np.split(np.arange(count), range(size, count, size))
    none = np.arange(0)
    return [(part, none) if small else (none, part) for part in parts]

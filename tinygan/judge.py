"""Patches in, judgements out: the generator and the discriminator in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinygan.boxes import approach, from_frames, longer_side
from tinygan.checkpoint import Weights
from tinygan.config import build_config
from tinygan.data.batches import to_float
from tinygan.data.crops import CropConfig, cut_patch, inside_image
from tinygan.detections import BoolArray, ByteArray, FloatArray
from tinygan.errors import CheckpointError, DataError
from tinygan.formats.images import read_image
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.generator import Generator, GeneratorConfig
from tinygan.runtime import Runtime

LOOK_RESIZE = 0.5  # share of the way to the size it found at which the judge looks again
LOOK_LOGIT = -2.0  # it looks again at what may be a face


class Verdicts(NamedTuple):
    """Judgements of N patches.

    Attributes:
        face: float64 [N], logit of face or not.
        real: float64 [N], logit of real or generated.
        boxes: float64 [N, 4], where the face lies, in the frame of :func:`tinygan.boxes.to_frames`; NaN from networks
            without that head.
    """

    face: FloatArray
    real: FloatArray
    boxes: FloatArray

    @classmethod
    def empty(cls, count: int) -> Verdicts:
        """To be filled."""
        return cls(np.zeros(count), np.zeros(count), np.full((count, 4), np.nan))


class Judge:
    """Super-resolves small crops and judges all of them.

    Args:
        generator: G1 and G2.
        discriminator: D.
        crops: patch sizes and routing these networks were trained with.
        runtime: device and precision.
    """

    def __init__(self, generator: nn.Module, discriminator: Discriminator, crops: CropConfig, runtime: Runtime) -> None:
        self.crops, self._runtime = crops, runtime
        self.sees_wide = discriminator.surroundings is not None
        self.finds_boxes = discriminator.fc_box is not None
        self._generator = fold_batch_norm(generator)
        self._discriminator = fold_batch_norm(discriminator)
        for network in (self._generator, self._discriminator):
            runtime.place(network)

    @classmethod
    def from_weights(cls, weights: Weights, runtime: Runtime, generator: nn.Module | None = None) -> Judge:
        """Build the networks that a checkpoint of kind ``gan`` or ``fused`` describes.

        Args:
            weights: the checkpoint.
            runtime: device and precision.
            generator: makes the pictures instead of the checkpoint's own.

        Raises:
            CheckpointError: if config and tensors do not fit.
        """
        crops = build_config(CropConfig, weights.config["crops"])
        generator = load_generator(weights) if generator is None else generator
        settings = build_config(DiscriminatorConfig, weights.config["discriminator"])
        discriminator = Discriminator(replace(settings, weights="none"), crops.hr_size, crops.wide_size)
        load_part(discriminator, weights, "discriminator")
        return cls(generator, discriminator, crops, runtime)

    @torch.inference_mode()
    def judge(self, small: ByteArray, large: ByteArray, wide: ByteArray | None = None) -> tuple[Verdicts, Verdicts]:
        """Judge crops of both routes.

        Args:
            small: uint8 [N, s, s, 3], for the generator.
            large: uint8 [M, S, S, 3], for the discriminator.
            wide: uint8 [N + M, W, W, 3], the surroundings of ``small``, then those of ``large``; only if the judge
                ``sees_wide``.

        Returns:
            Verdicts on ``small`` and on ``large``.
        """
        pictures = [] if not len(large) else [self._load(large)]
        with self._runtime.autocast():
            if len(small):
                pictures.insert(0, self._generator(self._load(small)).refined.float())
            if not pictures:
                return Verdicts.empty(0), Verdicts.empty(0)
            around = None if wide is None or not self.sees_wide else self._load(wide)
            verdict = self._discriminator(torch.cat(pictures), around)
        found = Verdicts.empty(len(small) + len(large))
        found.face[:] = verdict.face_logit.float().cpu().numpy()
        found.real[:] = verdict.real_logit.float().cpu().numpy()
        if verdict.box is not None:
            found.boxes[:] = verdict.box.float().cpu().numpy()
        cut = len(small)
        return Verdicts(*(part[:cut] for part in found)), Verdicts(*(part[cut:] for part in found))

    @torch.inference_mode()
    def super_resolve(self, small: ByteArray) -> tuple[ByteArray, ByteArray]:
        """What G1 and G2 make of small crops.

        Args:
            small: uint8 [N, s, s, 3].

        Returns:
            Two arrays uint8 [N, S, S, 3].
        """
        with self._runtime.autocast():
            generated = self._generator(self._load(small))
        return to_bytes(generated.sr), to_bytes(generated.refined)

    def _load(self, pixels: ByteArray) -> Tensor:
        return to_float(pixels).to(self._runtime.device)


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
            there = approach(boxes, answer.boxes, every, LOOK_RESIZE * every)
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
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Cut]] = deque()
        for request in requests:
            waiting.append(pool.submit(_cut, request, crops, wide))
            if len(waiting) >= workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
            is_small = longer_side(squares) <= crops.gate_px
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
        yield Answer(cut.name, here.face, here.real, from_frames(here.boxes, cut.anchors), cut.error)


def load_generator(weights: Weights) -> Generator:
    """The generator of any checkpoint.

    Raises:
        CheckpointError: if config and tensors do not fit.
    """
    generator = Generator(build_config(GeneratorConfig, weights.config["generator"]))
    load_part(generator, weights, "generator")
    return generator


def load_part(network: nn.Module, weights: Weights, prefix: str) -> None:
    """Load one network's tensors from a checkpoint.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    try:
        network.load_state_dict(weights.part(prefix))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint of kind '{weights.kind}': its {prefix} does not fit its config: {reason}"
        ) from error


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, every batch normalisation folded into the convolution before it."""
    network = network.eval()
    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for at in range(len(sequence) - 1):
            conv, norm = sequence[at], sequence[at + 1]
            if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                transpose = isinstance(conv, nn.ConvTranspose2d)
                sequence[at] = fuse_conv_bn_eval(conv, norm, transpose)
                sequence[at + 1] = nn.Identity()
    return network


def to_bytes(pictures: Tensor) -> ByteArray:
    """Float [B, 3, S, S] in [0, 1] to uint8 [B, S, S, 3]."""
    scaled = pictures.detach().float().clamp(0, 1).mul(255).round().byte()
    array: ByteArray = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return array

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

from tinygan.boxes import longer_side
from tinygan.checkpoint import Weights
from tinygan.config import build_config
from tinygan.data.batches import to_float
from tinygan.data.crops import ByteArray, CropConfig, cut_patch
from tinygan.detections import BoolArray, FloatArray
from tinygan.errors import CheckpointError, DataError
from tinygan.formats.images import read_image
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.generator import Generator, GeneratorConfig
from tinygan.runtime import Runtime


class Logits(NamedTuple):
    """Judgements of N patches, float64 [N] each: face or not, real or generated."""

    face: FloatArray
    real: FloatArray


class Judge:
    """Super-resolves small crops and judges all of them.

    Args:
        generator: G1 and G2.
        discriminator: D.
        crops: patch sizes and routing these networks were trained with.
        runtime: device and precision.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator, crops: CropConfig, runtime: Runtime) -> None:
        self.crops, self._runtime = crops, runtime
        self._generator = fold_batch_norm(generator)
        self._discriminator = fold_batch_norm(discriminator)
        for network in (self._generator, self._discriminator):
            runtime.place(network)

    @classmethod
    def from_weights(cls, weights: Weights, runtime: Runtime) -> Judge:
        """Build the networks that a checkpoint of kind ``gan`` or ``fused`` describes.

        Raises:
            CheckpointError: if config and tensors do not fit.
        """
        crops = build_config(CropConfig, weights.config["crops"])
        generator = load_generator(weights)
        settings = build_config(DiscriminatorConfig, weights.config["discriminator"])
        discriminator = Discriminator(replace(settings, weights="none"), crops.hr_size)
        load_part(discriminator, weights, "discriminator")
        return cls(generator, discriminator, crops, runtime)

    @torch.inference_mode()
    def judge(self, small: ByteArray, large: ByteArray) -> tuple[Logits, Logits]:
        """Judge crops of both routes.

        Args:
            small: uint8 [N, s, s, 3], for the generator.
            large: uint8 [M, S, S, 3], for the discriminator.

        Returns:
            Logits of ``small`` and of ``large``.
        """
        pictures = [] if not len(large) else [self._load(large)]
        with self._runtime.autocast():
            if len(small):
                pictures.insert(0, self._generator(self._load(small)).refined.float())
            if not pictures:
                return _logits(np.zeros((2, 0)), 0)
            verdict = self._discriminator(torch.cat(pictures))
        rows = torch.stack([verdict.face_logit, verdict.real_logit]).double().cpu().numpy()
        return _logits(rows, len(small))

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
        error: why the image could not be read; the logits are empty then.
    """

    name: str
    face_logits: FloatArray
    real_logits: FloatArray
    error: str | None = None


@dataclass(frozen=True)
class _Cut:
    """Patches of one image; ``is_small`` [N] tells which route each box took."""

    name: str
    small: ByteArray
    large: ByteArray
    is_small: BoolArray
    error: str | None = None


def judge_images(judge: Judge, requests: Iterable[Request], batch_size: int, workers: int = 2) -> Iterator[Answer]:
    """Judge the boxes of many images; answers come in the order of the requests.

    Images are decoded and cut on threads while the networks run, patches of many images fill one
    batch, and at most ``workers + 2`` images wait, so memory does not grow with their number.

    Args:
        judge: the networks.
        requests: images and boxes; read lazily.
        batch_size: patches in one forward pass.
        workers: threads that decode and cut.
    """
    group: list[_Cut] = []
    for cut in _cut_ahead(requests, judge.crops, workers):
        group.append(cut)
        if sum(len(waiting.is_small) for waiting in group) >= 4 * batch_size:
            yield from _judge_group(judge, group, batch_size)
            group = []
    yield from _judge_group(judge, group, batch_size)


def _cut_ahead(requests: Iterable[Request], crops: CropConfig, workers: int) -> Iterator[_Cut]:
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Cut]] = deque()
        for request in requests:
            waiting.append(pool.submit(_cut, request, crops))
            if len(waiting) >= workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _cut(request: Request, crops: CropConfig) -> _Cut:
    def stack(patches: list[ByteArray], size: int) -> ByteArray:
        return np.stack(patches) if patches else np.zeros((0, size, size, 3), np.uint8)

    small: list[ByteArray] = []
    large: list[ByteArray] = []
    is_small, error = np.zeros(0, np.bool_), None
    try:
        if len(request.boxes):
            image = read_image(request.image) if isinstance(request.image, Path) else request.image
            squares = crops.squares(request.boxes, image.width, image.height)
            is_small = longer_side(squares) <= crops.gate_px
            for square, through_generator in zip(squares, is_small, strict=True):
                size = crops.lr_size if through_generator else crops.hr_size
                (small if through_generator else large).append(cut_patch(image, square, size))
    except DataError as problem:
        error = str(problem)
    return _Cut(request.name, stack(small, crops.lr_size), stack(large, crops.hr_size), is_small, error)


def _judge_group(judge: Judge, group: list[_Cut], batch_size: int) -> Iterator[Answer]:
    if not group:
        return
    small, large = (np.concatenate(parts) for parts in ([c.small for c in group], [c.large for c in group]))
    total = len(small) + len(large)
    passes = max(1, -(-total // batch_size))
    parts = [
        judge.judge(few, many)
        for few, many in zip(np.array_split(small, passes), np.array_split(large, passes), strict=True)
    ]
    of_small, of_large = (Logits(*map(np.concatenate, zip(*side, strict=True))) for side in zip(*parts, strict=True))
    at_small = at_large = 0
    for cut in group:
        here = Logits(np.zeros(len(cut.is_small)), np.zeros(len(cut.is_small)))
        next_small, next_large = at_small + len(cut.small), at_large + len(cut.large)
        for mine, smalls, larges in zip(here, of_small, of_large, strict=True):
            mine[cut.is_small] = smalls[at_small:next_small]
            mine[~cut.is_small] = larges[at_large:next_large]
        at_small, at_large = next_small, next_large
        yield Answer(cut.name, here.face, here.real, cut.error)


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


def _logits(rows: FloatArray, cut: int) -> tuple[Logits, Logits]:
    return Logits(rows[0, :cut], rows[1, :cut]), Logits(rows[0, cut:], rows[1, cut:])

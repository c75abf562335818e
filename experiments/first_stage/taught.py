"""What a network narrower than CenterFace learns: what the whole one says of crops, and labels if so wished."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proposals.centerface import STRIDE, CenterFaceNetwork, CenterFaceOutput
from proposals.views import resize
from tinygan.detections import GroundTruth
from tinygan.errors import ConfigError
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.wider import WiderSplit
from tinygan.models.backends import place
from tinygan.models.centerface import WHITE, widths_of
from tinygan.proposers import to_tensor
from tinygan.runtime import Runtime, RuntimeOptions

SIDE = 320  # of crops, in pixels as the network sees them
SCALES = ((0.85, 1.2), (1.7, 2.3))  # of whole pictures, and of the closer look at tiny boxes
TINY_PX = 40.0  # longer side of a face that the closer look is for
AT_A_FACE = 0.75  # share of crops with a face
LEAST_PX = 6.0  # longer side of a labelled face, as the network sees it, that it shall find
LEAST_HEAT = 0.05  # where boxes are learnt
EMA = 0.998
NOTE_EVERY, SAVE_EVERY = 50, 500


class Sample(NamedTuple):
    """A crop and its labels: pixels uint8 [3, S, S], boxes float32 [K, 4] in them, which count, bool [K]."""

    pixels: Tensor
    boxes: Tensor
    valid: Tensor


class Target(NamedTuple):
    """What a student should say of B crops, for each of A points.

    Attributes:
        heat: [B, A], probability.
        sides: [B, A, 2], as ``log_sides``.
        offsets: [B, A, 2].
        landmarks: [B, A, 10].
        weights: [B, A], how much sides and offsets count.
        known: [B, A], how much landmarks count.
        fine: [B, 24, H, W], the pyramid's features.
    """

    heat: Tensor
    sides: Tensor
    offsets: Tensor
    landmarks: Tensor
    weights: Tensor
    known: Tensor
    fine: Tensor


@dataclass
class Crops:
    """Random crops of pictures in memory.

    Attributes:
        pictures: uint8 [3, H, W].
        truths: their faces.
        side: height and width of crops in pixels, as the network sees them.
    """

    pictures: Sequence[Tensor]
    truths: Sequence[GroundTruth]
    side: int = SIDE

    def draw(self, rng: np.random.Generator) -> Sample:
        """One crop, in half of the cases as the closer look sees pictures."""
        at = int(rng.integers(len(self.pictures)))
        picture, truth = self.pictures[at], self.truths[at]
        closer = bool(rng.random() < 0.5)
        scale = float(rng.uniform(*SCALES[closer]))
        boxes = np.asarray(truth.boxes, dtype=np.float64)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        wanted = truth.usable & (sides * scale >= LEAST_PX) & ((sides < TINY_PX) | (not closer))
        height, width = picture.shape[1:]
        side = self.side / scale
        if wanted.any() and rng.random() < AT_A_FACE:
            face = boxes[rng.choice(np.flatnonzero(wanted))]
            centre = (face[:2] + face[2:]) / 2 + rng.uniform(-0.4, 0.4, 2) * side
        else:
            centre = rng.uniform(0, 1, 2) * (width, height)
        left, top = (
            round(float(np.clip(middle - side / 2, 0, max(0, most - side))))
            for middle, most in zip(centre, (width, height), strict=True)
        )
        length = round(side)
        part = picture[:, top : top + length, left : left + length]
        factor = self.side / length
        sizes = [max(1, min(self.side, round(pixels * factor))) for pixels in part.shape[1:]]
        resized = resize(part[None], *sizes)[0]
        pixels = torch.zeros(3, self.side, self.side, dtype=torch.uint8)
        pixels[:, : sizes[0], : sizes[1]] = resized
        moved = torch.from_numpy((boxes - np.array([left, top, left, top])) * factor).float()
        valid = torch.from_numpy(truth.usable & (sides * factor >= LEAST_PX))
        if rng.random() < 0.5:
            pixels = pixels.flip(2)
            moved = torch.stack([self.side - moved[:, 2], moved[:, 1], self.side - moved[:, 0], moved[:, 3]], dim=1)
        return Sample(pixels, moved, valid)

    def batches(self, size: int, first: int, steps: int) -> Iterator[tuple[Tensor, list[Sample]]]:
        """Batches of the steps from ``first``; the same ones whenever a training starts."""

        def make(step: int) -> list[Sample]:
            rng = np.random.default_rng([7, step])
            return [self.draw(rng) for _ in range(size)]

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(make, first)
            for step in range(first, steps):
                samples, ahead = ahead.result(), pool.submit(make, step + 1)
                yield torch.stack([sample.pixels for sample in samples]), samples


def load_crops(split: WiderSplit, names: Sequence[str]) -> Crops:
    """All pictures into memory, about 2.5 MB each."""
    pictures = [to_tensor(read_image(split.images / name)) for name in names]
    return Crops(pictures, [split.faces[name] for name in names])


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a student learns.

    Attributes:
        steps: number of steps; the rate rises for 100 and then falls along a cosine.
        batch: crops per step.
        rate: learning rate, in multiples of a tensor's root mean square.
        labels: share of the labels in what is learnt.
    """

    steps: int
    batch: int = 6
    rate: float = 3e-4
    labels: float = 0.0


class Teacher:
    """What the public network says of crops; with labels in the mean with their mirror images.

    Args:
        network: its weights, not deployed.
        labels: share of the labels in what is learnt; the rest is the network's word.
    """

    def __init__(self, network: CenterFaceNetwork, labels: float) -> None:
        self._labels = labels
        self._network = deepcopy(network)
        self._network.deploy()
        place(self._network, Runtime(RuntimeOptions(precision="32", threads=torch.get_num_threads())))
        self._fine: list[Tensor] = []
        self._network.trunk.register_forward_hook(lambda module, given, made: self._fine.append(made[0]))

    @torch.inference_mode()
    def say(self, pictures: Tensor, samples: Sequence[Sample]) -> Target:
        """See :class:`Target`; pictures are uint8 [B, 3, S, S]."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        straight = self._network(pictures)
        fine = self._fine.pop()
        heat, sides, offsets = straight.heat.sigmoid(), straight.log_sides, straight.offsets.clone()
        if self._labels:
            mirrored = self._network(pictures.flip(3))
            self._fine.clear()
            heat = (heat + _turned(mirrored.heat).sigmoid()) / 2
            sides = (sides + _turned(mirrored.log_sides)) / 2
        known = heat * (heat > LEAST_HEAT)
        weights = 0.5 * known
        for number, sample in enumerate(samples if self._labels else []):
            _label(sample, self._labels, heat[number], sides[number], offsets[number], weights[number])
        return Target(heat, sides, offsets, straight.landmarks, weights, known, fine)


def _turned(values: Tensor) -> Tensor:
    """[B, A, …] of mirror images, as of the pictures."""
    points = math.isqrt(values.shape[1])
    return values.reshape(len(values), points, points, *values.shape[2:]).flip(2).reshape(values.shape)


def _label(sample: Sample, share: float, heat: Tensor, sides: Tensor, offsets: Tensor, weights: Tensor) -> None:
    """Mix the labels of a crop into what the teacher said of it, in place."""
    points = math.isqrt(len(heat))
    places = torch.arange(points).float() + 0.5
    labels, ignored = torch.zeros(points, points), torch.zeros(points, points, dtype=torch.bool)
    for box, valid in zip(sample.boxes / STRIDE, sample.valid.tolist(), strict=True):
        (x, y), (width, height) = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=0.5)
        columns, rows = (places - x), (places - y)
        if not valid:
            ignored |= ((rows.abs() <= height / 2 + 1)[:, None]) & ((columns.abs() <= width / 2 + 1)[None])
            continue
        sigma = (2 * math.floor(0.15 * math.sqrt(width * height)) + 1) / 6 + 0.17
        bump = torch.exp(-(rows.square()[:, None] + columns.square()[None]) / (2 * sigma**2))
        column, row = math.floor(x), math.floor(y)
        if not (0 <= column < points and 0 <= row < points):
            labels = torch.maximum(labels, bump)
            continue
        labels = torch.maximum(labels, bump / bump[row, column])
        at = row * points + column
        sides[at] = torch.stack([height, width]).log()
        offsets[at] = torch.stack([y - row - 0.5, x - column - 0.5])
        weights[at] = 1
    mixed = (1 - share) * heat + share * labels.clamp(max=1).flatten()
    heat.copy_(torch.where(ignored.flatten(), heat, mixed))


def loss_of(said: CenterFaceOutput, fine: Tensor, target: Target) -> dict[str, Tensor]:
    """The parts of the loss, whose sum is lowered.

    ``heat`` is the cross-entropy of each point, times the distance of both probabilities, over the sum of the wanted
    ones (Li et al. 2020, "Generalized Focal Loss", Eq. 2 with beta 1); the boxes' numbers have smooth L1, the pyramid's
    features the squared error over their variance.

    Args:
        said: the student's answer for B crops.
        fine: its pyramid's features [B, 24, H, W].
        target: what it should say.
    """
    faces = target.heat.sum().clamp(min=1)
    distance = (said.heat.sigmoid() - target.heat).abs()
    heat = F.binary_cross_entropy_with_logits(said.heat, target.heat, reduction="none")
    weights, known = target.weights, target.known
    sides = F.smooth_l1_loss(said.log_sides, target.sides, reduction="none", beta=0.1).sum(dim=2)
    offsets = F.smooth_l1_loss(said.offsets, target.offsets, reduction="none", beta=0.1).sum(dim=2)
    points = F.smooth_l1_loss(said.landmarks, target.landmarks, reduction="none", beta=0.1).sum(dim=2)
    return {
        "heat": (distance * heat).sum() / faces,
        "sides": (weights * sides).sum() / weights.sum().clamp(min=1),
        "offsets": (weights * offsets).sum() / weights.sum().clamp(min=1),
        "points": 0.2 * (known * points).sum() / known.sum().clamp(min=1),
        "features": 0.5 * (fine - target.fine).square().mean() / target.fine.var(),
    }


def train(
    student: CenterFaceNetwork, whole: CenterFaceNetwork, crops: Crops, schedule: Schedule, state_file: Path
) -> CenterFaceNetwork:
    """Train a network, which is changed, and return the average of its weights.

    Args:
        student: the network.
        whole: the network that it learns from, not deployed.
        crops: what both see.
        schedule: how long and how fast.
        state_file: where the state is saved, and gone on from if it is there.

    Raises:
        ConfigError: if the state there is of another training.
    """
    teacher, student = Teacher(whole, schedule.labels), student.to(memory_format=torch.channels_last)
    average, steps = deepcopy(student), schedule.steps
    groups = [
        {"params": [tensor], "scale": schedule.rate * max(float(tensor.detach().square().mean().sqrt()), 1e-3)}
        for tensor in student.parameters()
    ]
    optimizer, first = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99)), 0
    settings = {**asdict(schedule), "widths": list(widths_of(student.state_dict(), "trunk."))}
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["settings"] != settings:
            raise ConfigError(f"{state_file}: is of a training with other settings; remove it, or choose another --out")
        student.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    started, sums = time.monotonic(), dict[str, float]()
    for step, (pictures, samples) in enumerate(crops.batches(schedule.batch, first, steps), start=first):
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / 100)
            group["lr"] = group["scale"] * rise * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        target = teacher.say(pictures, samples)
        fine, _ = student.trunk(pictures.contiguous(memory_format=torch.channels_last).float() / WHITE)
        said = student.answer(student.heads(fine))
        parts = loss_of(said, fine, Target(*(tensor.clone() for tensor in target)))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        nn.utils.clip_grad_norm_(student.parameters(), 20.0)
        optimizer.step()
        with torch.no_grad():
            share = min(EMA, (step + 1) / (step + 10))
            for mean, tensor in zip(average.parameters(), student.parameters(), strict=True):
                mean.lerp_(tensor, 1 - share)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / NOTE_EVERY
        if (step + 1) % NOTE_EVERY == 0:
            texts = " ".join(f"{name} {value:.4f}" for name, value in sums.items())
            print(f"step {step + 1}: {texts}; {time.monotonic() - started:.0f} s", flush=True)
            sums.clear()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            state = {"student": student.state_dict(), "average": average.state_dict()}
            content = io.BytesIO()
            state |= {"optimizer": optimizer.state_dict(), "step": step + 1, "settings": settings}
            torch.save(state, content)
            write_atomically(state_file, content.getvalue())
    return average

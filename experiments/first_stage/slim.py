"""A narrower CenterFace for the pair: channels are cut; if so wished, the rest learns from the whole and from labels.

    python -m experiments.first_stage.slim --data ROOT --centerface centerface.onnx --out runs/first_stage/slim

1. Of each inverted residual block those channels inside are cut one after the other that a block can best do without
   (Hassibi and Stork 1993, "Optimal Brain Surgeon", for the least squares of a block's output), in the blocks where
   most time is won for what a block's output loses.
2. With ``--steps`` the rest learns what the whole network says, with ``--labels`` in the mean with its mirror image and
   the labels (Hinton et al. 2015). A training that was cut off goes on where its last state was saved.

Both see crops of WIDER_train without the hold-out. ``centerface.safetensors`` in ``--out`` has the weights in the end.
"""

from __future__ import annotations

import argparse
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
from tinygan.checkpoint import Checkpoint, load_checkpoint, name_hash, packaged_weights, save_checkpoint
from tinygan.detections import GroundTruth
from tinygan.errors import ConfigError
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.models.backends import place
from tinygan.models.blocks import InvertedResidual
from tinygan.models.centerface import widths_of
from tinygan.proposers import to_tensor
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.fusion import holdout_names

SIDE = 320  # of crops, in pixels as the network sees them
SCALES = ((0.85, 1.2), (1.7, 2.3))  # of whole pictures, and of the closer look at tiny boxes
TINY_PX = 40.0  # longer side of a face that the closer look is for
AT_A_FACE = 0.75  # share of crops with a face
LEAST_PX = 6.0  # longer side of a labelled face, as the network sees it, that it shall find
CALIBRATION = 96  # crops by which channels are chosen
ROWS = 40_000  # places of their maps, at most
GROUP, LEAST_EXPANSION = 8, 2  # channels cut at once, as processors like them; times a block's input that are kept
DEPTHWISE = 30  # multiplications of a channel's 3 x 3 filter and bias, counted threefold: they wait for memory
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


class _Inside(NamedTuple):
    """What a block's last layer sees and should say, float64 [N, C + 1], with a constant, and [N, O]; and its cost.

    Attributes:
        rows: the channels inside.
        answers: the block's output without its input.
        variance: of its output with its input, summed over channels and places.
        cost: multiplications per channel inside and pixel of the picture.
    """

    rows: Tensor
    answers: Tensor
    variance: float
    cost: float


def blocks_of(network: CenterFaceNetwork) -> list[InvertedResidual]:
    """All inverted residual blocks in order."""
    return [module for module in network.trunk.modules() if isinstance(module, InvertedResidual)]


@torch.no_grad()
def choose_widths(network: CenterFaceNetwork, share: float, pictures: Tensor) -> tuple[int, ...]:
    """How many channels inside each block are kept: cut where most time is won for what a block's output loses.

    Args:
        network: the whole network, not deployed.
        share: of the blocks' time that is left, in (0, 1].
        pictures: uint8 [B, 3, S, S].

    Raises:
        ValueError: if the share is so small that blocks would keep less than twice the channels of their input.
    """
    features = network.trunk.stem(pictures.float() / 255)
    losses, costs, widths, least = list[list[float]](), list[float](), list[int](), list[int]()
    for block in blocks_of(network):
        target = block(features)
        if len(block.body) > 2:
            seen = _inside(block, features, target, pictures.shape[-1])
            *_, lost = choose_columns(seen.rows, seen.answers, 0)
            losses.append([loss / seen.variance for loss in lost])
            costs.append(seen.cost)
            widths.append(seen.rows.shape[1] - 1)
            least.append(LEAST_EXPANSION * features.shape[1])
        features = target
    budget = share * sum(cost * width for cost, width in zip(costs, widths, strict=True))
    while sum(cost * width for cost, width in zip(costs, widths, strict=True)) > budget:
        prices = [
            math.inf if width - GROUP < low else (lost[-(width - GROUP) - 1] - lost[-width - 1]) / cost
            for lost, cost, width, low in zip(losses, costs, widths, least, strict=True)
        ]
        if min(prices) == math.inf:
            raise ValueError(f"share {share}: too little is left, as blocks keep {LEAST_EXPANSION} times their input")
        widths[prices.index(min(prices))] -= GROUP
    return tuple(widths)


@torch.no_grad()
def cut(teacher: CenterFaceNetwork, widths: Sequence[int], pictures: Tensor) -> CenterFaceNetwork:
    """A network with fewer channels inside its blocks, whose blocks answer as nearly as they can.

    Args:
        teacher: the whole network, not deployed.
        widths: number of channels inside each block of the new network but the first.
        pictures: uint8 [B, 3, S, S].
    """
    student = CenterFaceNetwork(widths).eval()
    for part in ("stem", "lateral", "up", "last"):
        getattr(student.trunk, part).load_state_dict(getattr(teacher.trunk, part).state_dict())
    student.heads.load_state_dict(teacher.heads.state_dict())
    whole = student_sees = teacher.trunk.stem(pictures.float() / 255)
    for old, new in zip(blocks_of(teacher), blocks_of(student), strict=True):
        target = old(whole)
        if len(old.body) == 2:  # nothing to be cut
            new.load_state_dict(old.state_dict())
        else:
            seen = _inside(old, student_sees, target, pictures.shape[-1])
            *inner, last = (layer for layer in new.modules() if isinstance(layer, nn.Conv2d))
            *sources, _ = (layer for layer in old.modules() if isinstance(layer, nn.Conv2d))
            left, weights, _ = choose_columns(seen.rows, seen.answers, last.in_channels)
            for conv, source in zip(inner, sources, strict=True):
                conv.load_state_dict({name: tensor[left] for name, tensor in source.state_dict().items()})
            last.load_state_dict({"weight": weights[:-1].T[:, :, None, None], "bias": weights[-1]})
        whole, student_sees = target, new(student_sees)
    return student


def _inside(block: InvertedResidual, features: Tensor, target: Tensor, side: int) -> _Inside:
    """At some places of a block that sees these features and should answer as the target."""
    expand, depthwise, _ = block.body
    inside = depthwise(expand(features))
    wanted = target - features if block.residual else target
    rows, answers, outputs = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (inside, wanted, target))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:ROWS]
    rows, answers, outputs = rows[chosen].double(), answers[chosen].double(), outputs[chosen].double()
    variance = float((outputs - outputs.mean(dim=0)).square().sum())
    area = [(maps.shape[-1] / side) ** 2 for maps in (features, target)]
    cost = features.shape[1] * area[0] + (DEPTHWISE + target.shape[1]) * area[1]
    constant = torch.ones(len(rows), 1, dtype=torch.float64)  # for the bias
    return _Inside(torch.cat([rows, constant], dim=1), answers, variance, cost)


def choose_columns(rows: Tensor, answers: Tensor, count: int) -> tuple[Tensor, Tensor, list[float]]:
    """The columns by which answers are best had as a sum, found by leaving out one after the other.

    Args:
        rows: float64 [N, C + 1], the last one the constant, which stays.
        answers: float64 [N, O].
        count: how many columns are kept beside the constant.

    Returns:
        Which, int64 [count], in order; their weights [count + 1, O]; and the sum of squares that is lost after each,
        C - count + 1 numbers from 0 on.
    """
    normal = rows.T @ rows
    normal += 1e-4 * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    inverse = torch.linalg.inv(normal)
    weights = inverse @ (rows.T @ answers)
    there, lost = torch.ones(len(normal), dtype=torch.bool), [0.0]
    for _ in range(len(normal) - 1 - count):
        cost = weights.square().sum(dim=1) / inverse.diagonal()
        cost[~there] = math.inf
        cost[-1] = math.inf
        at = int(cost.argmin())
        lost.append(lost[-1] + float(cost[at]))
        row = inverse[at] / inverse[at, at]
        weights = weights - row[:, None] * weights[at]
        inverse = inverse - row[:, None] * inverse[at]
        there[at] = False
        weights[at], inverse[at], inverse[:, at] = 0, 0, 0
        inverse[at, at] = 1
    return there[:-1].nonzero()[:, 0], weights[there], lost


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
        fine, _ = student.trunk(pictures.contiguous(memory_format=torch.channels_last).float() / 255)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Cut and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root")
    parser.add_argument("--centerface", type=Path, required=True, help="the public .onnx of CenterFace")
    parser.add_argument("--share", type=float, default=0.9, help="of the blocks' time that is left (default: 0.9)")
    parser.add_argument("--out", type=Path, default=Path("runs/first_stage/slim"))
    parser.add_argument("--steps", type=int, default=0, help="of the training (default: none)")
    parser.add_argument("--labels", type=float, default=0.0, help="share of the labels in what is learnt (default: 0)")
    parser.add_argument("--rate", type=float, default=3e-4, help="of learning, in weights' root mean squares")
    parser.add_argument("--batch", type=int, default=6, help="crops per step")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    if not 0 < arguments.share <= 1:
        parser.error(f"--share lies in (0, 1], got {arguments.share}")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    whole = CenterFaceNetwork().eval()
    whole.load_weights(arguments.centerface)
    split, lite = load_split(arguments.data, "train"), packaged_weights("lite")
    held = set(holdout_names(split, load_checkpoint(lite, ("fused",)), None, lite))
    names = [name for name in split.faces if name not in held]
    crops = load_crops(split, names)
    some = torch.stack([crops.draw(np.random.default_rng([1, at])).pixels for at in range(CALIBRATION)])
    widths = choose_widths(whole, arguments.share, some)
    student = cut(whole, widths, some)
    print(f"{sum(tensor.numel() for tensor in student.parameters())} weights are left, widths {widths}", flush=True)
    if arguments.steps:
        schedule = Schedule(steps=arguments.steps, batch=arguments.batch, rate=arguments.rate, labels=arguments.labels)
        student = train(student, whole, crops, schedule, arguments.out / "state.pt")
    tensors = {f"proposer.{name}": tensor for name, tensor in student.state_dict().items()}
    seen = frozenset(map(name_hash, names))
    trained = Checkpoint("proposer", {"network": {}}, tensors, trained_on=seen, proposer="centerface")
    save_checkpoint(arguments.out / "centerface.safetensors", trained)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

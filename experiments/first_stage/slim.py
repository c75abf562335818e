"""A narrower CenterFace for the pair: channels are cut; if so wished, the rest learns from the whole and from labels.

    python -m experiments.first_stage.slim --data ROOT --centerface centerface.onnx --out runs/first_stage/slim

1. Of each inverted residual block those channels inside are cut one after the other that a block can best do without
   (Hassibi and Stork 1993, "Optimal Brain Surgeon", for the least squares of a block's output), in the blocks where
   most time is won for what a block's output loses.
2. With ``--steps`` the rest learns what the whole network says, with ``--labels`` in the mean with its mirror image and
   the labels (:mod:`experiments.first_stage.taught`; Hinton et al. 2015). A training that was cut off goes on where its
   last state was saved.

Both see crops of WIDER_train without the hold-out. ``centerface.safetensors`` in ``--out`` has the weights in the end.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.first_stage.taught import Schedule, load_crops, train
from proposals.centerface import CenterFaceNetwork
from tinygan.checkpoint import Checkpoint, load_checkpoint, name_hash, packaged_weights, save_checkpoint
from tinygan.formats.wider import load_split
from tinygan.models.blocks import InvertedResidual
from tinygan.models.centerface import WHITE
from tinygan.training.fusion import holdout_names

CALIBRATION = 96  # crops by which channels are chosen
ROWS = 40_000  # places of their maps, at most
GROUP, LEAST_EXPANSION = 8, 2  # channels cut at once, as processors like them; times a block's input that are kept
DEPTHWISE = 30  # multiplications of a channel's 3 x 3 filter and bias, counted threefold: they wait for memory


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
    features = network.trunk.stem(pictures.float() / WHITE)
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
    whole = student_sees = teacher.trunk.stem(pictures.float() / WHITE)
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

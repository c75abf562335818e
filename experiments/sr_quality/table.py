"""Picture quality and detection gain of every kind of picture, in one table.

Sizes of 8, 12 and 16 px are those of the face's longer side in the 16 px patch; the crop is then 2, 4/3 or 1 times as
wide as the face. It is at least 64 px wide in the source, and shrunk 4x, clean (bicubic) or wild (with blur, noise and
JPEG at random). The detection gain is that of stage ``gan``'s judge on the hold-out if small crops reach it as this
kind of picture; fusion is cross-fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from experiments.lite.holdout import holdout_gains
from tinygan.boxes import longer_side
from tinygan.checkpoint import Checkpoint, load_checkpoint
from tinygan.config import build_config
from tinygan.data.cutting import SCALE, CropConfig, DegradationConfig, cut_patch, make_lr
from tinygan.detections import ByteArray
from tinygan.errors import MissingDependency
from tinygan.evaluate.image_quality import lpips, psnr, ssim
from tinygan.formats.images import read_image
from tinygan.formats.names import list_images
from tinygan.formats.wider import load_split
from tinygan.models.build import load_generator
from tinygan.models.generator import AnyGenerator, Generated, bicubic
from tinygan.models.pixels import to_bytes
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.fusion import holdout_names
from tinygan.training.samples import generate

SIZES_PX = (8, 12, 16)
KINDS = ("clean", "wild")
LFW_FACE = 1 / 2.2  # LFW's pictures are 2.2 times as wide as the face box they were cut around (Huang et al. 2007)


class Pictures(nn.Module):
    """A generator that gives one picture of another generator, or bicubic upscaling, as both of its pictures.

    Args:
        generator: the other generator; ``None``: bicubic upscaling.
        refined: whether to take G2's picture instead of G1's.
    """

    def __init__(self, generator: AnyGenerator | None = None, refined: bool = False) -> None:
        super().__init__()
        self.generator, self.refined = generator, refined

    def forward(self, lr: Tensor) -> Generated:
        """Upscale float [B, 3, s, s] in [0, 1]."""
        if self.generator is None:
            picture = bicubic(lr).clamp(0, 1)
        else:
            made = self.generator(lr)
            picture = made.refined if self.refined else made.sr
        return Generated(picture, picture)


@dataclass(frozen=True)
class Inputs:
    """What is compared, and on what.

    Attributes:
        mse: run folder of stage ``mse-init``.
        gan: run folder of stage ``gan``.
        root: WIDER FACE root.
        lfw: folder of LFW, or ``None``.
        proposals: proposals that the judge rescores, one path per detector.
        limit: largest number of faces per source and size, taken at even spacing.
    """

    mse: Path
    gan: Path
    root: Path
    lfw: Path | None
    proposals: Sequence[Path]
    limit: int


def full_table(inputs: Inputs) -> dict[str, Any]:
    """All figures.

    Returns:
        ``{"faces": {source: {size: count}}, "pictures": {picture: {"quality": {source: {size: {kind: {measure:
        mean}}}}, "gain": {subset: row}}}, "lpips": "" or why it is not there}``.
    """
    gan = load_checkpoint(inputs.gan, ("gan",))
    mse = load_checkpoint(inputs.mse, ("generator",))
    runtime, why = Runtime(RuntimeOptions()), _why_no_lpips()
    faces = {"WIDER-mini hold-out": _wider_faces(inputs, gan)}
    if inputs.lfw is not None:
        faces["LFW (seen in mse-init)"] = _lfw_faces(inputs, gan)
    pictures = {}
    for name, build in _makers(mse, gan).items():
        quality = {
            source: {
                size: {kind: _quality(hr, build(), runtime, kind, with_lpips=not why) for kind in KINDS}
                for size, hr in by_size.items()
            }
            for source, by_size in faces.items()
        }
        gains = holdout_gains(inputs.gan, inputs.root, inputs.proposals, boxes=False, generator=build())
        pictures[name] = {"quality": quality, "gain": gains.get("pooled", next(iter(gains.values())))}
    counts = {source: {size: len(hr) for size, hr in by_size.items()} for source, by_size in faces.items()}
    return {"faces": counts, "pictures": pictures, "lpips": why}


def markdown(table: Mapping[str, Any]) -> str:
    """The table for a README."""
    measures = ["psnr", "ssim"] + ([] if table["lpips"] else ["lpips"])
    columns = [(source, size) for source, sizes in table["faces"].items() for size in sizes]
    subsets = list(next(iter(table["pictures"].values()))["gain"])
    head = [f"{source}, {size} px ({table['faces'][source][size]} faces)" for source, size in columns]
    lines = [f"| picture | degradation | {' | '.join(head)} | {' | '.join(f'AP {one}' for one in subsets)} |"]
    lines.append("|---" * (2 + len(columns) + len(subsets)) + "|")
    for name, of_picture in table["pictures"].items():
        for kind in KINDS:
            cells = []
            for source, size in columns:
                found = of_picture["quality"][source][size][kind]
                cells.append(" / ".join(f"{found[m]:.2f}" if m == "psnr" else f"{found[m]:.3f}" for m in measures))
            gains = [
                f"{row['points']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" if kind == KINDS[0] else ""
                for row in of_picture["gain"].values()
            ]
            lines.append(f"| {name} | {kind} | {' | '.join(cells)} | {' | '.join(gains)} |")
    lines += ["", f"Cells: {' / '.join({'psnr': 'PSNR dB', 'ssim': 'SSIM', 'lpips': 'LPIPS'}[m] for m in measures)}."]
    if table["lpips"]:
        lines.append(f"LPIPS is not available here: {table['lpips']}")
    return "\n".join(lines) + "\n"


def _makers(mse: Checkpoint, gan: Checkpoint) -> dict[str, Any]:
    return {
        "bicubic": lambda: Pictures(),
        "G1, mse-init": lambda: Pictures(load_generator(mse)),
        "G2, mse-init": lambda: Pictures(load_generator(mse), refined=True),
        "G1, gan": lambda: Pictures(load_generator(gan)),
        "G2, gan": lambda: Pictures(load_generator(gan), refined=True),
    }


def _wider_faces(inputs: Inputs, gan: Checkpoint) -> dict[int, ByteArray]:
    split, crops = load_split(inputs.root, "train"), build_config(CropConfig, gan.recipe["crops"])
    names = holdout_names(split, gan, None, inputs.gan)
    found: dict[int, list[ByteArray]] = {size: [] for size in SIZES_PX}
    for name in names:
        truth = split.faces[name]
        if not truth.usable.any():
            continue
        image = read_image(split.images / name)
        for size in SIZES_PX:
            closer = replace(crops, context=crops.lr_size / size)
            squares = closer.squares(truth.boxes[truth.usable], image.width, image.height)
            large = squares[longer_side(squares) >= crops.hr_size]
            found[size] += [cut_patch(image, square, crops.hr_size) for square in large]
    return {size: _spread(patches, inputs.limit, crops) for size, patches in found.items()}


def _lfw_faces(inputs: Inputs, gan: Checkpoint) -> dict[int, ByteArray]:
    assert inputs.lfw is not None
    crops = build_config(CropConfig, gan.recipe["crops"])
    names = sorted(list_images(inputs.lfw))
    names = names[:: max(1, -(-len(names) // inputs.limit))]
    found: dict[int, list[ByteArray]] = {size: [] for size in SIZES_PX}
    for name in names:
        image = read_image(inputs.lfw / name)
        centre = np.array([image.width, image.height, image.width, image.height]) / 2
        for size in SIZES_PX:
            side = min(image.size) * LFW_FACE * crops.lr_size / size
            found[size].append(cut_patch(image, centre + np.array([-0.5, -0.5, 0.5, 0.5]) * side, crops.hr_size))
    return {size: _spread(patches, inputs.limit, crops) for size, patches in found.items()}


def _spread(patches: list[ByteArray], limit: int, crops: CropConfig) -> ByteArray:
    chosen = patches[:: max(1, -(-len(patches) // limit))]
    return np.stack(chosen) if chosen else np.zeros((0, crops.hr_size, crops.hr_size, 3), np.uint8)


def _quality(hr: ByteArray, pictures: Pictures, runtime: Runtime, kind: str, with_lpips: bool) -> dict[str, float]:
    """Means over faces; every picture gets the same degraded copies."""
    if not len(hr):
        return {"psnr": float("nan"), "ssim": float("nan"), "lpips": float("nan")}
    rng = np.random.default_rng(0)
    degradation = DegradationConfig(kind="bicubic" if kind == "clean" else "wild")
    lr = np.stack([make_lr(patch, degradation, rng) for patch in hr])
    assert lr.shape[1] * SCALE == hr.shape[1]
    made = to_bytes(generate(pictures, lr, runtime).refined)
    pairs = [(a.astype(np.float32) / 255, b.astype(np.float32) / 255) for a, b in zip(hr, made, strict=True)]
    found = {"psnr": float(np.mean([psnr(*p) for p in pairs])), "ssim": float(np.mean([ssim(*p) for p in pairs]))}
    if with_lpips:
        found["lpips"] = float(np.mean([lpips(*p) for p in pairs]))
    return found


def _why_no_lpips() -> str:
    black = np.zeros((64, 64, 3), np.float32)
    try:
        lpips(black, black)
    except MissingDependency as error:
        return str(error)
    return ""

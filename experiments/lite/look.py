"""Look before training: 200 patches of every stream and label, and the hard negatives with the highest scores.

    python -m experiments.lite.look --data ROOT --proposals P [P ...] --out runs/look

Streams are routes: ``small`` goes through the generator, ``medium`` straight to the discriminator, ``paired``
is what super-resolution learns from. Small patches are shown upscaled (bicubic). Hard negatives carry the
detector's score; some of them are faces that the annotators left out.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tinygan.boxes import longer_side
from tinygan.config import load_config
from tinygan.data.cutting import CropConfig, cut_patch, upscale
from tinygan.data.patches import SMALL, STREAMS, patch_size, stream_of
from tinygan.data.rois import FACE, NON_FACE, choose_rois, split_holdout
from tinygan.detections import ByteArray, Detections, FloatArray
from tinygan.formats.images import read_image
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.pictures import save_png
from tinygan.training.prepare import match_proposals
from tinygan.training.recipe import Recipe

COLUMNS, SHOWN, HARDEST, TILE_PX = 20, 200, 50, 96


class Found(NamedTuple):
    """A region of interest: where it lies and what it is said to be."""

    image: str
    square: FloatArray
    label: int
    score: float
    stream: str


def main(argv: Sequence[str] | None = None) -> int:
    """Write one sheet a stream and label, and ``hardest.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root")
    parser.add_argument("--proposals", type=Path, nargs="+", required=True)
    parser.add_argument("--config", default="lite")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    recipe = load_config(Recipe, arguments.config, [])
    split = load_split(arguments.data, "train")
    proposals = [match_proposals(open_detections(path), split) for path in arguments.proposals]
    names, _ = split_holdout(split.faces, recipe.rois.holdout)
    found = [roi for name in names for roi in _rois(name, split, proposals, recipe)]
    rng = np.random.default_rng(recipe.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stream in STREAMS:
        for label, called in ((FACE, "face"), (NON_FACE, "non_face")):
            members = [roi for roi in found if roi.stream == stream and roi.label == label]
            chosen = [members[at] for at in rng.permutation(len(members))[:SHOWN]]
            print(f"{stream} {called}: {len(members)} patches")
            save_png(_sheet(chosen, split, recipe.crops), arguments.out / f"{stream}_{called}.png")
    hardest = sorted((roi for roi in found if roi.label == NON_FACE), key=lambda roi: -roi.score)[:HARDEST]
    save_png(_sheet(hardest, split, recipe.crops, columns=10), arguments.out / "hardest.png")
    return 0


def _rois(
    name: str, split: WiderSplit, proposals: Sequence[Mapping[str, Detections]], recipe: Recipe
) -> Iterator[Found]:
    with Image.open(split.images / name) as image:  # reads the header only
        size = image.size
    rng = np.random.default_rng([recipe.seed, *hashlib.md5(name.encode(), usedforsecurity=False).digest()])
    of_image = [by_name[name] for by_name in proposals if name in by_name]
    rois = choose_rois(of_image, split.faces[name], size, recipe.rois, rng)
    squares = recipe.crops.squares(rois.boxes, *size)
    for square, label, score, side_px in zip(squares, rois.labels, rois.scores, longer_side(squares), strict=True):
        yield Found(name, square, int(label), float(score), stream_of(float(side_px), recipe.crops))


def _sheet(rois: Sequence[Found], split: WiderSplit, crops: CropConfig, columns: int = COLUMNS) -> ByteArray:
    sheet = Image.new("RGB", (columns * TILE_PX, -(-max(len(rois), 1) // columns) * TILE_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for at, roi in enumerate(rois):
        patch = cut_patch(read_image(split.images / roi.image), roi.square, patch_size(roi.stream, crops))
        picture = Image.fromarray(upscale(patch) if roi.stream == SMALL else patch)
        corner = (at % columns * TILE_PX, at // columns * TILE_PX)
        sheet.paste(picture.resize((TILE_PX - 2, TILE_PX - 2), Image.Resampling.BICUBIC), corner)
        draw.text((corner[0] + 2, corner[1] + 1), f"{roi.score:.2f}", fill="yellow")
    return np.asarray(sheet)


if __name__ == "__main__":
    raise SystemExit(main())

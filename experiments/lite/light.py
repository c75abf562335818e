"""Do faces of some groups need more light? Face logits of annotated faces, also in darker and brighter pictures.

    python -m experiments.lite.light --data ROOT --groups wider_face_train_perceived.csv --by perceived_skin

The judge looks at the boxes as annotators drew them, in images of WIDER_train. It learnt from most of these, so compare
groups, not logits. Nothing of WIDER_val is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from tinygan.boxes import longer_side
from tinygan.checkpoint import chosen_weights, load_checkpoint
from tinygan.detections import Detections, FloatArray, GroundTruth
from tinygan.formats.face_groups import load_face_groups
from tinygan.formats.images import read_image
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Request, judge_images

LIGHTS = {"as they are": (1.0, 1.0), "x 0.57": (0.57, 1.0), "x 1.5": (1.5, 1.0), "gamma 1.6": (1.0, 1.6)}
SIDES_PX = (0.0, 24.0, 64.0, np.inf)  # longer sides of boxes


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each group and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root")
    parser.add_argument("--groups", type=Path, required=True, help="CSV with columns image, face and attributes")
    parser.add_argument("--by", default="perceived_skin", help="which of its attributes")
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--looks", type=int, default=2)
    arguments = parser.parse_args(argv)
    split = load_split(arguments.data, "train")
    groups = load_face_groups(arguments.groups, {name: len(faces) for name, faces in split.faces.items()})
    members = groups[arguments.by]
    runtime = Runtime(RuntimeOptions(device="cpu"))
    judge = Judge.from_weights(load_checkpoint(chosen_weights(arguments.checkpoint), ("gan", "fused")), runtime)
    logits = {
        light: face_logits(judge, split.faces, split.images, members, change, arguments.looks)
        for light, change in LIGHTS.items()
    }
    print(f"{arguments.by:16} {'px':>9} {'faces':>6}", *(f"{light:>12}" for light in LIGHTS))
    for value, faces in members.items():
        sides = np.array([longer_side(split.faces[image].boxes[face : face + 1])[0] for image, face in faces])
        for low, high in pairwise(SIDES_PX):
            rows = [at for at, side in enumerate(sides) if low <= side < high]
            means = [np.nanmean([found[faces[at]] for at in rows]) if rows else np.nan for found in logits.values()]
            print(f"{value:16} {low:4g}-{high:<4g} {len(rows):6}", *(f"{mean:12.2f}" for mean in means))
    return 0


def face_logits(
    judge: Judge,
    faces: Mapping[str, GroundTruth],
    images: Path,
    members: Mapping[str, Sequence[tuple[str, int]]],
    light: tuple[float, float],
    looks: int,
) -> dict[tuple[str, int], float]:
    """The judge's logits of all members, by image and face.

    Args:
        judge: the networks.
        faces: all faces of each image.
        images: folder of the images.
        members: ``{group: [(image, face)]}``.
        light: factor on brightness, and gamma, of the pictures.
        looks: how often the judge looks.
    """
    wanted: dict[str, list[int]] = {}
    for group in members.values():
        for image, face in group:
            wanted.setdefault(image, []).append(face)

    def requests() -> Iterator[Request]:
        for image, rows in wanted.items():
            boxes = faces[image].boxes[rows]
            picture = relit(read_image(images / image), *light)
            yield Request(image, picture, Detections(boxes, np.full(len(boxes), 0.5)))

    found: dict[tuple[str, int], float] = {}
    for one in judge_images(judge, requests(), 64, looks=looks):
        found |= {(one.name, face): float(logit) for face, logit in zip(wanted[one.name], one.face_logits, strict=True)}
    return found


def relit(picture: Image.Image, factor: float, gamma: float) -> Image.Image:
    """A picture in other light: (value / 255)^gamma times the factor."""
    values: FloatArray = (np.asarray(picture) / 255.0) ** gamma * factor
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


if __name__ == "__main__":
    raise SystemExit(main())

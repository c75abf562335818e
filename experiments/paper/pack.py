"""All that training and evaluation need of the pictures, in one file that travels to a machine without them.

    python -m experiments.paper.pack --data ROOT --proposals TRAIN.tar.gz VAL.tar.gz --out patches.npz

Pairs for stages ``mse-init`` and ``gan`` (JPEG, quality 95; faces first, as many non-faces as fit), and the crops of
the best proposals of the hold-out and of WIDER_val as the generator takes them (lossless), with boxes, scores and
faces. If the file would be larger than ``--megabytes``, fewer proposals per image are packed. The patch store of a run
folder (``tinygan/data/store.py``) holds raw pixels in a file per array, and is removed when the stage is finished.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from experiments.lite.report import truth_of
from tinygan.config import build_config, load_config, to_tree
from tinygan.data.cutting import CropConfig, cut_regions
from tinygan.data.patches import PAIRED, STREAMS, Patches, patch_size
from tinygan.data.rois import FACE
from tinygan.detections import ByteArray, Detections, FloatArray, GroundTruth, IntArray
from tinygan.errors import ConfigError, DataError
from tinygan.evaluate.truth import EvaluationTruth
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.names import match_names
from tinygan.formats.wider import Split, WiderSplit, load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.prepare import Prepared, TrainingInput, prepare_patches, read_proposals
from tinygan.training.recipe import Recipe

HOLDOUT = "rois.holdout=0.15"  # Differs from the paper, as in experiments/paper/run.py
QUALITY = 95  # of the pairs, as JPEG
PAIRS_SHARE = 0.5  # the largest share of the file that pairs may take
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Proposed:
    """The best proposals in some images and the pictures that the generator takes of them.

    Attributes:
        proposals: boxes and scores by image name.
        crops: uint8 [N, s, s, 3] by image name, in the order of the proposals.
    """

    proposals: dict[str, Detections]
    crops: dict[str, ByteArray]


@dataclass(frozen=True)
class Pack:
    """What a packed file holds.

    Attributes:
        recipe: the recipe that the patches were cut by.
        prepared: pairs for training, and held-out pairs.
        holdout: proposals in the images kept out, on which fusion is fitted.
        val: proposals in WIDER_val.
        holdout_faces: faces of the images kept out.
        truth: faces and subsets of WIDER_val.
    """

    recipe: Recipe
    prepared: Prepared[Mapping[str, Patches]]
    holdout: Proposed
    val: Proposed
    holdout_faces: dict[str, GroundTruth]
    truth: EvaluationTruth


def main(argv: Sequence[str] | None = None) -> int:
    """Cut and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--proposals", type=Path, nargs=2, required=True, help="on WIDER_train and on WIDER_val")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--config", default="paper")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="K=V")
    parser.add_argument("--rois", type=int, default=100, help="proposals per image at most (default: 100)")
    parser.add_argument("--megabytes", type=float, default=50.0, help="largest size of the file (default: 50)")
    arguments = parser.parse_args(argv)
    recipe = load_config(Recipe, arguments.config, [HOLDOUT, *arguments.settings])
    if not np.isinf(recipe.crops.route_px or 0.0):
        raise ConfigError("crops.route_px: only crops for the generator are packed; set crops.route_px=.inf")
    train, val = arguments.proposals
    pack = cut(arguments.data, train, val, recipe, arguments.rois)
    size = write_pack(arguments.out, pack, int(1e6 * arguments.megabytes))
    print(f"{arguments.out}: {size / 1e6:.1f} MB; {len(pack.prepared.training[PAIRED])} pairs were cut, best first")
    return 0


def cut(root: Path, train: Path, val: Path, recipe: Recipe, rois: int) -> Pack:
    """Cut the pairs, and the crops of the best proposals.

    Args:
        root: the WIDER FACE root.
        train: proposals in WIDER_train.
        val: proposals in WIDER_val.
        recipe: which regions are trained on, and the sizes of patches.
        rois: number of proposals per image at most.
    """
    runtime = Runtime(RuntimeOptions(device="cpu", precision="32"))
    with tempfile.TemporaryDirectory() as scratch:
        stored = prepare_patches(TrainingInput(root, (train,)), recipe, Path(scratch), runtime, (PAIRED,))
        training, holdout = (
            {PAIRED: Patches(*(np.array(column) for column in vars(streams[PAIRED]).values()))}
            for streams in (stored.training, stored.holdout)
        )
    prepared = replace(stored, training=training, holdout=holdout)
    splits: dict[Split, WiderSplit] = {part: load_split(root, part) for part in ("train", "val")}
    names = list(splits["val"].faces)
    return Pack(
        recipe,
        prepared,
        _proposed(splits["train"], train, prepared.holdout_names, recipe.crops, rois),
        _proposed(splits["val"], val, names, recipe.crops, rois),
        {name: splits["train"].faces[name] for name in prepared.holdout_names},
        _of_images(truth_of(root, splits["val"], names), names),
    )


def write_pack(file: Path, pack: Pack, limit: int) -> int:
    """Write a packed file of at most ``limit`` bytes; returns its size.

    Raises:
        DataError: if not even one proposal per image fits.
    """
    fixed: Arrays = {"recipe": _text(json.dumps(to_tree(pack.recipe))), **_truths(pack)}
    for part, patches in (("training", pack.prepared.training[PAIRED]), ("holdout", pack.prepared.holdout[PAIRED])):
        share = PAIRS_SHARE * limit * (0.9 if part == "training" else 0.1)
        fixed |= {f"paired/{part}/{name}": array for name, array in _pack_pairs(patches, int(share)).items()}
    fixed["names/training"] = np.array(pack.prepared.training_names, np.str_)
    rois = max((len(one) for part in (pack.holdout, pack.val) for one in part.proposals.values()), default=1)
    while rois:
        crops = {
            f"{part}/{name}": array
            for part, proposed in (("holdout", pack.holdout), ("val", pack.val))
            for name, array in _pack_proposed(proposed, rois).items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **fixed, **crops)  # type: ignore[arg-type]
        size = buffer.tell()
        if size <= limit:
            write_atomically(file, buffer.getvalue())
            return size
        rois = min(rois - 1, int(0.95 * rois * limit / size))
    raise DataError(f"{file}: pairs and faces alone take more than {limit} bytes; raise --megabytes")


def read_pack(file: Path) -> Pack:
    """Read a packed file.

    Raises:
        DataError: if it is none.
    """
    try:
        with np.load(file) as stored:
            arrays: Arrays = {name: stored[name] for name in stored.files}
        recipe = build_config(Recipe, json.loads(arrays["recipe"].tobytes()))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: expected a file that experiments.paper.pack wrote: {error}") from error
    streams = {part: _unpack_pairs(arrays, f"paired/{part}/", recipe.crops) for part in ("training", "holdout")}
    holdout, val = (_unpack_proposed(arrays, f"{part}/") for part in ("holdout", "val"))
    faces = {part: _unpack_faces(arrays, part) for part in ("holdout", "val")}
    names = [str(name) for name in arrays["names/training"]]
    return Pack(
        recipe,
        Prepared(streams["training"], streams["holdout"], names, list(faces["holdout"]), []),
        holdout,
        val,
        {name: GroundTruth(boxes, flags[0]) for name, (boxes, flags) in faces["holdout"].items()},
        EvaluationTruth(
            {name: boxes for name, (boxes, _) in faces["val"].items()},
            {
                str(subset): {name: flags[row] for name, (_, flags) in faces["val"].items()}
                for row, subset in enumerate(arrays["subsets"])
            },
        ),
    )


def _of_images(truth: EvaluationTruth, names: Sequence[str]) -> EvaluationTruth:
    """The part of the official ground truth, which has all images, that these images have."""
    known = match_names(names, truth.names, "images")
    faces = {name: boxes for name, boxes in truth.faces.items() if name in known}
    return EvaluationTruth(faces, {s: {name: members[name] for name in faces} for s, members in truth.subsets.items()})


def _proposed(split: WiderSplit, path: Path, names: Sequence[str], crops: CropConfig, rois: int) -> Proposed:
    found = read_proposals(path, split)
    best = {name: found[name].sorted()[:rois] for name in names if name in found}
    cuts = {
        name: cut_regions(read_image(split.images / name), one.boxes, crops, wide=False).small
        for name, one in best.items()
    }
    return Proposed({name: Detections(one.boxes, one.scores) for name, one in best.items()}, cuts)


def _pack_pairs(patches: Patches, limit: int) -> Arrays:
    """Faces, then non-faces in an order of their own, as JPEG, until there is no more room."""
    shuffled = np.random.default_rng(0).permutation(len(patches))
    order = shuffled[np.argsort(patches.labels[shuffled] != FACE, kind="stable")]
    pictures, total = [], 0
    for row in order:
        buffer = io.BytesIO()
        Image.fromarray(patches.pixels[row]).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        total += buffer.tell()
        if total > limit:
            break
        pictures.append(buffer.getvalue())
    kept = order[: len(pictures)]
    return {
        **_join(pictures),
        "labels": patches.labels[kept],
        "sides_px": patches.sides_px[kept],
        "targets": patches.targets[kept],
    }


def _unpack_pairs(arrays: Arrays, prefix: str, crops: CropConfig) -> dict[str, Patches]:
    """The stream of pairs, and the other streams, which the paper has not, empty."""
    streams = {}
    for stream in STREAMS:
        size = patch_size(stream, crops)
        empty = np.zeros((0, size, size, 3), np.uint8)
        streams[stream] = Patches(empty, np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)))
    pixels = [_decode(one) for one in _split(arrays, prefix)]
    columns = (arrays[f"{prefix}{name}"] for name in ("labels", "sides_px", "targets"))
    if pixels:
        streams[PAIRED] = Patches(np.stack(pixels), *columns)
    return streams


def _pack_proposed(proposed: Proposed, rois: int) -> Arrays:
    """Names, boxes and scores, and the crops of each image below each other as one lossless picture."""
    best = {name: one[:rois] for name, one in proposed.proposals.items()}
    pictures = []
    for name, one in best.items():
        buffer = io.BytesIO()
        crops = proposed.crops[name][: len(one)]
        if len(crops):
            Image.fromarray(crops.reshape(-1, *crops.shape[2:])).save(buffer, "WEBP", lossless=True)
        pictures.append(buffer.getvalue())
    return {
        **_join(pictures),
        "names": np.array(list(best), np.str_),
        "counts": np.array([len(one) for one in best.values()], np.int64),
        "boxes": np.concatenate([np.zeros((0, 4)), *(one.boxes for one in best.values())]),
        "scores": np.concatenate([np.zeros(0), *(one.scores for one in best.values())]),
    }


def _unpack_proposed(arrays: Arrays, prefix: str) -> Proposed:
    ends = np.cumsum(arrays[f"{prefix}counts"])[:-1]
    names = [str(name) for name in arrays[f"{prefix}names"]]
    boxes, scores = (np.split(arrays[f"{prefix}{name}"], ends) for name in ("boxes", "scores"))
    proposals = {name: Detections(*one) for name, one in zip(names, zip(boxes, scores, strict=True), strict=False)}
    crops = {}
    for name, picture in zip(names, _split(arrays, prefix), strict=True):
        if len(picture):
            strip = _decode(picture)
            crops[name] = strip.reshape(-1, strip.shape[1], strip.shape[1], 3)
    return Proposed({name: proposals[name] for name in crops}, crops)


def _truths(pack: Pack) -> Arrays:
    """The faces of each part, and of each face whether it is invalid (hold-out) or which subsets count it (val)."""
    subsets = pack.truth.subsets
    parts: dict[str, dict[str, tuple[FloatArray, npt.NDArray[np.bool_]]]] = {
        "holdout": {name: (one.boxes, one.invalid[None]) for name, one in pack.holdout_faces.items()},
        "val": {
            name: (boxes, np.stack([members[name] for members in subsets.values()]))
            for name, boxes in pack.truth.faces.items()
        },
    }
    arrays: Arrays = {"subsets": np.array(list(subsets), np.str_)}
    for part, faces in parts.items():
        arrays[f"faces/{part}/names"] = np.array(list(faces), np.str_)
        arrays[f"faces/{part}/counts"] = np.array([len(boxes) for boxes, _ in faces.values()], np.int64)
        arrays[f"faces/{part}/boxes"] = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in faces.values())])
        arrays[f"faces/{part}/flags"] = np.concatenate([flags for _, flags in faces.values()], axis=1)
    return arrays


def _unpack_faces(arrays: Arrays, part: str) -> dict[str, tuple[FloatArray, npt.NDArray[np.bool_]]]:
    prefix = f"faces/{part}/"
    ends = np.cumsum(arrays[f"{prefix}counts"])[:-1]
    boxes, flags = np.split(arrays[f"{prefix}boxes"], ends), np.split(arrays[f"{prefix}flags"], ends, axis=1)
    names = (str(name) for name in arrays[f"{prefix}names"])
    return {name: (found, flag) for name, found, flag in zip(names, boxes, flags, strict=False)}


def _join(pictures: Sequence[bytes]) -> Arrays:
    """Encoded pictures one after the other, and where each ends."""
    ends: IntArray = np.cumsum([len(picture) for picture in pictures], dtype=np.int64)
    return {"pictures": _text(b"".join(pictures)), "ends": ends}


def _split(arrays: Arrays, prefix: str) -> Iterator[bytes]:
    content, start = arrays[f"{prefix}pictures"].tobytes(), 0
    for end in arrays[f"{prefix}ends"].tolist():
        yield content[start:end]
        start = end


def _decode(picture: bytes) -> ByteArray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def _text(content: str | bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content.encode() if isinstance(content, str) else content, np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())

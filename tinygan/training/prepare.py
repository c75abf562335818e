"""From a WIDER FACE root and proposals to streams of patches."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tinygan.config import to_tree
from tinygan.data.patches import STREAMS, Patches, PatchSource, build_patches
from tinygan.data.rois import Rois, choose_rois, split_holdout
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.names import list_images, match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.runtime import Runtime
from tinygan.training.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingInput:
    """What the user points a training stage at.

    Attributes:
        root: a WIDER FACE root.
        proposals: folders or archives of a first stage's proposals, one a detector.
        extra_images: folder of pictures of one centred face each, such as LFW (stage ``mse-init``).
    """

    root: Path
    proposals: Sequence[Path] = ()
    extra_images: Path | None = None


@dataclass(frozen=True)
class TrainingData:
    """Streams of patches and where they came from.

    Attributes:
        training: streams to train on.
        holdout: streams of the hold-out images.
        training_names: images trained on.
        holdout_names: images kept out.
        unreadable: a line for every image that could not be read.
    """

    training: Mapping[str, Patches]
    holdout: Mapping[str, Patches]
    training_names: list[str]
    holdout_names: list[str]
    unreadable: list[str]


def prepare(
    data: TrainingInput, recipe: Recipe, folder: Path, runtime: Runtime, streams: Sequence[str] = STREAMS
) -> TrainingData:
    """Label proposals, cut patches, and keep the hold-out apart.

    Args:
        data: images and proposals.
        recipe: thresholds, sizes, seed.
        folder: where the patches are kept while training runs.
        runtime: of several processes the first one cuts, the others wait and read.
        streams: ``paired`` alone suffices for stage ``mse-init``.

    Raises:
        DataError: if the root's layout is wrong, or proposals belong to none of its images.
    """
    if not runtime.is_main:
        runtime.barrier()
    split = load_split(data.root, "train")
    training_names, holdout_names = split_holdout(split.faces, recipe.rois.holdout)
    proposals = [match_proposals(open_detections(path), split) for path in data.proposals]
    unreadable: list[str] = []
    opened = []
    for part, names in (("training", training_names), ("holdout", holdout_names)):
        sources = [_source(name, split, proposals, recipe) for name in names]
        if part == "training" and data.extra_images is not None:
            sources += [PatchSource(data.extra_images / n, None) for n in list_images(data.extra_images)]
        fingerprint = _fingerprint(data, recipe, part, names, streams)
        cut, skipped = build_patches(sources, recipe.crops, folder / part, fingerprint, streams)
        opened.append(cut)
        unreadable += skipped
        log.info("%s", _describe(part, len(names), cut))
    if runtime.is_main:
        runtime.barrier()
    return TrainingData(opened[0], opened[1], training_names, holdout_names, unreadable)


def match_proposals(files: DetectionFiles, split: WiderSplit) -> dict[str, Detections]:
    """Proposals by image name; images without a file have none.

    Raises:
        DataError: if no file belongs to any image of the split.
    """
    matched = match_names(files, split.faces, str(files.source))
    if not matched:
        raise DataError(
            f"{files.source}: none of its {len(files)} files belongs to an image of {split.images}; "
            "proposals are matched to images by event folder and name"
        )
    return {image: files[file] for image, file in matched.items()}


def image_rng(name: str, recipe: Recipe) -> np.random.Generator:
    """Source of an image's jitter, whatever the other images are."""
    return np.random.default_rng([recipe.seed, *hashlib.md5(name.encode(), usedforsecurity=False).digest()])


def image_rois(
    name: str,
    split: WiderSplit,
    proposals: Sequence[Mapping[str, Detections]],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Rois:
    """The regions of interest of one image; reads no more than its header."""
    of_image = [by_name[name] for by_name in proposals if name in by_name]
    return _choose(of_image, split.faces[name], split.images / name, recipe, rng)


def _source(name: str, split: WiderSplit, proposals: Sequence[Mapping[str, Detections]], recipe: Recipe) -> PatchSource:
    return PatchSource(split.images / name, image_rois(name, split, proposals, recipe, image_rng(name, recipe)))


def _choose(
    proposals: list[Detections], truth: GroundTruth, path: Path, recipe: Recipe, rng: np.random.Generator
) -> Rois:
    config = recipe.rois
    try:
        with Image.open(path) as image:  # reads the header only
            size = image.size
    except OSError:
        size, config = (1, 1), replace(config, backgrounds_per_image=0)  # reported when it is to be cut
    return choose_rois(proposals, truth, size, config, rng)


def _fingerprint(data: TrainingInput, recipe: Recipe, part: str, names: list[str], streams: Sequence[str]) -> str:
    tree = to_tree(recipe)
    parts = [str(data), part, names, list(streams), tree["seed"], tree["crops"], tree["rois"]]
    return hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()


def _describe(part: str, images: int, streams: Mapping[str, Patches]) -> str:
    counts = [f"{name} {len(p)} ({int(p.labels.sum())} faces)" for name, p in streams.items()]
    return f"{part}: {images} images; patches: {', '.join(counts)}"

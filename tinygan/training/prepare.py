"""Prepares training data from a WIDER FACE root and proposals: labels regions, cuts patches, splits off the hold-out.

Stages ``mse-init`` and ``gan`` are trained on streams of patches (:mod:`tinygan.data.patches`), stage ``judge`` on
regions as the discriminator sees them (:mod:`tinygan.data.regions`). Both are made image by image from the same regions
of interest.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import nn
from tqdm import tqdm

from tinygan.boxes import encode_boxes, longer_side
from tinygan.concurrency import ordered_map
from tinygan.config import to_tree
from tinygan.data.cutting import CropConfig, Cut, cut_regions
from tinygan.data.patches import STREAMS, Patches, PatchSource, build_patches
from tinygan.data.regions import Regions
from tinygan.data.rois import Rois, choose_rois, shift_rois, split_holdout
from tinygan.data.store import Layout, Rows, Unreadable, open_store
from tinygan.detections import Detections
from tinygan.errors import ConfigError, DataError
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.images import read_image
from tinygan.formats.names import list_images, match_names
from tinygan.formats.plausible import BoxCheck
from tinygan.formats.registry import open_detections
from tinygan.formats.sizes import read_size
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.models.generator import AnyGenerator
from tinygan.models.pixels import to_bytes
from tinygan.runtime import Runtime
from tinygan.training.recipe import Recipe
from tinygan.training.samples import generate

log = logging.getLogger(__name__)
TRAINING = "training"
GROUP = 512  # number of crops held in memory; the generator super-resolves the small ones together
WORKERS = 2  # number of threads that decode images and cut regions
Made = TypeVar("Made")


@dataclass(frozen=True)
class TrainingInput:
    """The inputs of a training stage, as the user gives them.

    Attributes:
        root: folder with WIDER FACE as it is downloaded.
        proposals: folders or files with proposals, one per detector.
        extra_images: folder of pictures of one centred face each, such as LFW (stage ``mse-init``).
        dialect: what the proposals leave unsaid.
    """

    root: Path
    proposals: Sequence[Path] = ()
    extra_images: Path | None = None
    dialect: Dialect = AS_WRITTEN


@dataclass(frozen=True)
class Prepared(Generic[Made]):
    """The data that a stage is trained on, and the data on which it is measured.

    Attributes:
        training: data made from the training images.
        holdout: data made from the images kept out of training.
        training_names: names of the training images.
        holdout_names: names of the images kept out of training.
        unreadable: one line per image that could not be read.
    """

    training: Made
    holdout: Made
    training_names: list[str]
    holdout_names: list[str]
    unreadable: list[str]


class Part(NamedTuple):
    """One of the two parts of the images: those trained on, or those kept out.

    Attributes:
        name: name of the part, ``training`` or ``holdout``.
        names: names of its images.
        split: the folder of the images, and their faces.
        rois: function ``rois(name, shift)`` that returns the regions of interest of an image; with a shift above 0 also
            copies of those that overlap a face, moved and scaled at random by about this share of their side.
    """

    name: str
    names: list[str]
    split: WiderSplit
    rois: Callable[[str, float], Rois]


def check_source(data: TrainingInput, recipe: Recipe) -> None:
    """Refuse input that has nothing to learn from.

    Raises:
        ConfigError: if there are neither proposals nor regions drawn around faces, nor extra images.
    """
    if not (data.proposals or recipe.rois.jitters_per_face or data.extra_images):
        raise ConfigError(
            "rois.jitters_per_face is 0: all regions are a first stage's, as in the paper; give --proposals P, its "
            "detections on the training images"
        )


def prepare_patches(
    data: TrainingInput, recipe: Recipe, folder: Path, runtime: Runtime, streams: Sequence[str] = STREAMS
) -> Prepared[Mapping[str, Patches]]:
    """Prepare streams of patches for stages ``mse-init`` and ``gan``.

    Args:
        data: images and proposals.
        recipe: the thresholds, the sizes of patches and the seed.
        folder: folder in which the patches are kept during training.
        runtime: the processes that train together: the first one cuts the patches, the others wait and read them.
        streams: names of the streams to cut; stage ``mse-init`` needs ``paired`` alone.

    Raises:
        ConfigError: if there is nothing to cut: neither proposals nor regions drawn around faces, nor extra images.
        DataError: if the layout of the root is wrong, or no proposals belong to its images.
    """
    check_source(data, recipe)

    def make(part: Part) -> tuple[dict[str, Patches], list[str]]:
        fingerprint = _fingerprint(data, recipe, part, [*streams, "targets"])
        sources = _progress(_patch_sources(part, data.extra_images), len(part.names))
        cut, unreadable = build_patches(sources, recipe.crops, folder / part.name, fingerprint, streams)
        counts = [f"{name} {len(p)} ({int(p.labels.sum())} faces)" for name, p in cut.items()]
        log.info("%s: %d images; patches: %s", part.name, len(part.names), ", ".join(counts))
        return cut, unreadable

    return _prepare(data, recipe, runtime, make)


def prepare_regions(
    data: TrainingInput, recipe: Recipe, generator: AnyGenerator, folder: Path, runtime: Runtime
) -> Prepared[Regions]:
    """Prepare regions for stage ``judge``: crops, the small ones super-resolved, and their surroundings.

    Stage ``judge`` does not change the generator, so small crops are super-resolved once and not in every epoch.

    Args:
        data: images and proposals.
        recipe: the thresholds, the sizes of patches and the seed.
        generator: the generator that super-resolves small crops.
        folder: folder in which the regions are kept during training.
        runtime: the processes that train together: the first one cuts the regions, the others wait and read them.

    Raises:
        DataError: if the layout of the root is wrong, or no proposals belong to its images.
    """
    layouts = {
        "hr": Layout(np.uint8, (recipe.crops.hr_size, recipe.crops.hr_size, 3)),
        "wide": Layout(np.uint8, (recipe.crops.wide_size, recipe.crops.wide_size, 3)),
        "labels": Layout(np.int64),
        "sides_px": Layout(np.float64),
        "boxes": Layout(np.float64, (4,)),
        "targets": Layout(np.float64, (4,)),
    }

    def make(part: Part) -> tuple[Regions, list[str]]:
        shift = recipe.judge_training.shift
        fingerprint = _fingerprint(data, recipe, part, [shift, _hash_of_weights(generator)])
        cuts = _cut_regions(part, shift if part.name == TRAINING else 0.0, recipe.crops)
        parts = _super_resolved(_progress(cuts, len(part.names)), generator, recipe.crops, runtime)
        arrays, unreadable = open_store(folder / part.name, fingerprint, layouts, parts)
        regions = Regions(**arrays)
        faces = int(regions.labels.sum())
        log.info("%s: %d images; %d regions (%d faces)", part.name, len(part.names), len(regions), faces)
        return regions, unreadable

    return _prepare(data, recipe, runtime, make)


def _prepare(
    data: TrainingInput, recipe: Recipe, runtime: Runtime, make: Callable[[Part], tuple[Made, list[str]]]
) -> Prepared[Made]:
    """Make both parts, or wait until the first process has made them, and open its files."""
    if not runtime.is_main:
        runtime.barrier()
    split = load_split(data.root, "train")
    training_names, holdout_names = split_holdout(split.faces, recipe.rois.holdout)
    proposals = [read_proposals(path, split, data.dialect) for path in data.proposals]

    def rois(name: str, shift: float) -> Rois:
        return image_rois(name, split, proposals, recipe, shift)

    training, skipped = make(Part(TRAINING, training_names, split, rois))
    holdout, skipped_too = make(Part("holdout", holdout_names, split, rois))
    if runtime.is_main:
        runtime.barrier()
    return Prepared(training, holdout, training_names, holdout_names, [*skipped, *skipped_too])


def read_proposals(path: Path, split: WiderSplit, dialect: Dialect = AS_WRITTEN) -> dict[str, Detections]:
    """A detector's proposals by image name; warns if their boxes do not look like what they are taken for.

    Raises:
        DataError: if they are absent or malformed, or belong to no image of the split.
    """
    files = open_detections(path, dialect=replace(dialect, images=split.images))
    found = match_proposals(files, split)
    check = BoxCheck({name: split.images / name for name in found}, found)
    for name, detections in found.items():
        check.add(name, detections)
    check.warn(files)
    return found


def match_proposals(files: DetectionFiles, split: WiderSplit) -> dict[str, Detections]:
    """Proposals by image name; images without a file are left out.

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


def image_rois(
    name: str, split: WiderSplit, proposals: Sequence[Mapping[str, Detections]], recipe: Recipe, shift: float = 0.0
) -> Rois:
    """The regions of interest of one image; they do not depend on any other image. Of the file only the header is read.

    Args:
        name: name of the image.
        split: the folder of the images, and their faces.
        proposals: proposals by image name, one mapping per detector.
        recipe: the thresholds, the quotas and the seed.
        shift: with a shift above 0, regions that overlap a face are added once more, moved and scaled at random by
            about this share of their side.
    """
    rng = np.random.default_rng([recipe.seed, *hashlib.md5(name.encode(), usedforsecurity=False).digest()])
    config = recipe.rois
    try:
        size = read_size(split.images / name)
    except DataError:
        size, config = (1, 1), replace(config, backgrounds_per_image=0)  # the error is reported when the image is cut
    of_image = [by_name[name] for by_name in proposals if name in by_name]
    chosen = choose_rois(of_image, split.faces[name], size, config, rng)
    if not shift:
        return chosen
    shifted = shift_rois(chosen, split.faces[name], recipe.rois, shift, rng)
    pairs = zip(vars(chosen).values(), vars(shifted).values(), strict=True)
    return Rois(*(np.concatenate(pair) for pair in pairs))


def _patch_sources(part: Part, extra_images: Path | None) -> Iterator[PatchSource]:
    for name in part.names:
        yield PatchSource(part.split.images / name, part.rois(name, 0.0))
    if part.name == TRAINING and extra_images is not None:
        for name in list_images(extra_images):
            yield PatchSource(extra_images / name, None)


def _cut_regions(part: Part, shift: float, crops: CropConfig) -> Iterator[tuple[Rois, Cut] | Unreadable]:
    """The regions of interest of each image, and their patches."""

    def cut(name: str) -> tuple[Rois, Cut] | Unreadable:
        rois = part.rois(name, shift)
        if not len(rois.boxes):
            return rois, Cut.empty(crops)
        try:
            return rois, cut_regions(read_image(part.split.images / name), rois.boxes, crops, wide=True)
        except DataError as error:
            return Unreadable(str(error))

    return ordered_map(cut, part.names, WORKERS, WORKERS + 2)


def _super_resolved(
    cuts: Iterable[tuple[Rois, Cut] | Unreadable], generator: AnyGenerator, crops: CropConfig, runtime: Runtime
) -> Iterator[Rows | Unreadable]:
    """The rows of :class:`Regions` of each image: first the small crops, super-resolved, then the large ones."""
    for group in _groups(cuts):
        none = Cut.empty(crops)
        small = np.concatenate([none.small, *(one[1].small for one in group if not isinstance(one, Unreadable))])
        refined = to_bytes(generate(generator, small, runtime).refined) if len(small) else none.large
        done = 0
        for one in group:
            if isinstance(one, Unreadable):
                yield one
                continue
            rois, cut = one
            here = refined[done : done + len(cut.small)]
            done += len(cut.small)
            order = np.concatenate([np.flatnonzero(cut.is_small), np.flatnonzero(~cut.is_small)])
            anchors = cut.anchors[order]
            yield {
                "hr": np.concatenate([here, cut.large]),
                "wide": cut.wide,
                "labels": rois.labels[order],
                "sides_px": np.maximum(longer_side(anchors) * crops.context, 1.0),
                "boxes": encode_boxes(rois.boxes[order], anchors),
                "targets": encode_boxes(rois.targets[order], anchors),
            }


def _groups(cuts: Iterable[tuple[Rois, Cut] | Unreadable]) -> Iterator[list[tuple[Rois, Cut] | Unreadable]]:
    """Consecutive images whose crops, small or not, are about :data:`GROUP` together."""
    group: list[tuple[Rois, Cut] | Unreadable] = []
    count = 0
    for one in cuts:
        group.append(one)
        count += 0 if isinstance(one, Unreadable) else len(one[1].is_small)
        if count >= GROUP:
            yield group
            group, count = [], 0
    if group:
        yield group


def _progress(items: Iterable[Made], total: int) -> Iterable[Made]:
    bar: Iterable[Made] = tqdm(items, total=total, desc="cutting", unit="image", disable=None)
    return bar


def _fingerprint(data: TrainingInput, recipe: Recipe, part: Part, more: Sequence[object]) -> str:
    """A hash of everything that the data made from a part depends on, apart from file contents."""
    tree = to_tree(recipe)
    parts = [str(data), part.name, part.names, more, tree["seed"], tree["crops"], tree["rois"]]
    return hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()


def _hash_of_weights(network: nn.Module) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()

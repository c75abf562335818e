"""From a WIDER FACE root and proposals to what a stage trains on; labelled, cut and kept apart from the hold-out once.

Stages ``mse-init`` and ``gan`` train on streams of patches (:mod:`tinygan.data.patches`), stage ``judge`` on regions as
the discriminator sees them (:mod:`tinygan.data.regions`). Both are made image by image from the same regions of
interest.
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
from PIL import Image
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
from tinygan.errors import DataError
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.images import read_image
from tinygan.formats.names import list_images, match_names
from tinygan.formats.plausible import BoxCheck
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.models.generator import AnyGenerator
from tinygan.models.pixels import to_bytes
from tinygan.runtime import Runtime
from tinygan.training.recipe import Recipe
from tinygan.training.samples import generate

log = logging.getLogger(__name__)
TRAINING = "training"
GROUP = 512  # crops that the generator super-resolves together
WORKERS = 2  # threads that decode and cut regions
Made = TypeVar("Made")


@dataclass(frozen=True)
class TrainingInput:
    """What the user points a training stage at.

    Attributes:
        root: a WIDER FACE root.
        proposals: folders or archives of a first stage's proposals, one per detector.
        extra_images: folder of pictures of one centred face each, such as LFW (stage ``mse-init``).
        dialect: what the proposals leave unsaid.
    """

    root: Path
    proposals: Sequence[Path] = ()
    extra_images: Path | None = None
    dialect: Dialect = AS_WRITTEN


@dataclass(frozen=True)
class Prepared(Generic[Made]):
    """What a stage trains on, and what it is measured on.

    Attributes:
        training: of the training images.
        holdout: of the images kept out.
        training_names: images trained on.
        holdout_names: images kept out.
        unreadable: a line for every image that could not be read.
    """

    training: Made
    holdout: Made
    training_names: list[str]
    holdout_names: list[str]
    unreadable: list[str]


class Part(NamedTuple):
    """The training images, or the images kept out.

    Attributes:
        name: ``training`` or ``holdout``.
        names: its images.
        split: where they lie, and their faces.
        rois: ``rois(name, shift)``, the regions of interest of an image; with a shift above 0 also copies of those
            that touch a face, moved and scaled by about this share of their side.
    """

    name: str
    names: list[str]
    split: WiderSplit
    rois: Callable[[str, float], Rois]


def prepare_patches(
    data: TrainingInput, recipe: Recipe, folder: Path, runtime: Runtime, streams: Sequence[str] = STREAMS
) -> Prepared[Mapping[str, Patches]]:
    """Streams of patches for stages ``mse-init`` and ``gan``.

    Args:
        data: images and proposals.
        recipe: thresholds, sizes, seed.
        folder: where the patches are kept while training runs.
        runtime: of several processes the first one cuts, the others wait and read.
        streams: ``paired`` alone suffices for stage ``mse-init``.

    Raises:
        DataError: if the root's layout is wrong, or proposals belong to none of its images.
    """

    def make(part: Part) -> tuple[dict[str, Patches], list[str]]:
        fingerprint = _fingerprint(data, recipe, part, list(streams))
        sources = _progress(_patch_sources(part, data.extra_images), len(part.names))
        cut, unreadable = build_patches(sources, recipe.crops, folder / part.name, fingerprint, streams)
        counts = [f"{name} {len(p)} ({int(p.labels.sum())} faces)" for name, p in cut.items()]
        log.info("%s: %d images; patches: %s", part.name, len(part.names), ", ".join(counts))
        return cut, unreadable

    return _prepare(data, recipe, runtime, make)


def prepare_regions(
    data: TrainingInput, recipe: Recipe, generator: AnyGenerator, folder: Path, runtime: Runtime
) -> Prepared[Regions]:
    """Regions for stage ``judge``: crops, super-resolved where they are small, and surroundings.

    Stage ``judge`` leaves the generator as it is, so what it makes of a crop need not be made anew in every epoch.

    Args:
        data: images and proposals.
        recipe: thresholds, sizes, seed.
        generator: super-resolves small crops.
        folder: where the regions are kept while training runs.
        runtime: of several processes the first one cuts, the others wait and read.

    Raises:
        DataError: if the root's layout is wrong, or proposals belong to none of its images.
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
        fingerprint = _fingerprint(data, recipe, part, [shift, _digest(generator)])
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
    """Make both parts, or wait until the first process has made them and open what it made."""
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


def image_rois(
    name: str, split: WiderSplit, proposals: Sequence[Mapping[str, Detections]], recipe: Recipe, shift: float = 0.0
) -> Rois:
    """The regions of interest of one image, of which only the header is read; the same whatever the other images are.

    Args:
        name: the image.
        split: where it lies, and its faces.
        proposals: of every detector, by image name.
        recipe: thresholds, quotas, seed.
        shift: as of :class:`Part`.
    """
    rng = np.random.default_rng([recipe.seed, *hashlib.md5(name.encode(), usedforsecurity=False).digest()])
    config = recipe.rois
    try:
        with Image.open(split.images / name) as image:
            size = image.size
    except OSError:
        size, config = (1, 1), replace(config, backgrounds_per_image=0)  # reported when it is to be cut
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
    """Regions of interest and their patches, image by image."""

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
    """Rows of :class:`Regions`, image by image: small crops, super-resolved, before large ones."""
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
    """Images with about :data:`GROUP` small crops together."""
    group: list[tuple[Rois, Cut] | Unreadable] = []
    count = 0
    for one in cuts:
        group.append(one)
        count += 0 if isinstance(one, Unreadable) else len(one[1].small)
        if count >= GROUP:
            yield group
            group, count = [], 0
    if group:
        yield group


def _progress(items: Iterable[Made], total: int) -> Iterable[Made]:
    bar: Iterable[Made] = tqdm(items, total=total, desc="cutting", unit="image", disable=None)
    return bar


def _fingerprint(data: TrainingInput, recipe: Recipe, part: Part, more: Sequence[object]) -> str:
    """Changes whenever what is made of a part would."""
    tree = to_tree(recipe)
    parts = [str(data), part.name, part.names, more, tree["seed"], tree["crops"], tree["rois"]]
    return hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()


def _digest(network: nn.Module) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()

"""Regions of interest as the judge sees them, made once: crops, super-resolved where they are small, and surroundings.

Stage ``judge`` leaves the generator as it is, so what it makes of a crop need not be made anew in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tinygan.boxes import encode_boxes, longer_side
from tinygan.config import to_tree
from tinygan.data.batches import BatchConfig, SizeBalancedSampler, draw_light
from tinygan.data.cutting import CropConfig
from tinygan.data.rois import Rois, shift_rois, split_holdout
from tinygan.detections import BoolArray, ByteArray, Detections, FloatArray, IntArray
from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.models.generator import AnyGenerator
from tinygan.models.pixels import to_bytes
from tinygan.runtime import Runtime
from tinygan.second_stage.judging import Cut, Request, cut_ahead
from tinygan.training.prepare import TrainingInput, image_rng, image_rois, match_proposals
from tinygan.training.recipe import Recipe
from tinygan.training.samples import generate

log = logging.getLogger(__name__)
TABLE = {"labels": (0,), "sides_px": (0,), "boxes": (0, 4), "targets": (0, 4)}  # columns and their empty shapes
GROUP = 512  # crops that the generator super-resolves together


@dataclass(frozen=True)
class Regions:
    """Regions of interest, ready for the discriminator.

    Attributes:
        hr: uint8 [N, S, S, 3], the crop; a memory map.
        wide: uint8 [N, W, W, 3], its surroundings; a memory map.
        labels: int64 [N], 1 face, 0 non-face, by the IoU of the proposal.
        sides_px: float64 [N], side of the crop in source pixels.
        boxes: float64 [N, 4], the proposal in its own frame (see :func:`tinygan.boxes.encode_boxes`).
        targets: float64 [N, 4], the face that it overlaps most, in that frame; NaN where none does.
    """

    hr: ByteArray
    wide: ByteArray
    labels: IntArray
    sides_px: FloatArray
    boxes: FloatArray
    targets: FloatArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RegionData:
    """What stage ``judge`` trains on.

    Attributes:
        training: of the training images.
        holdout: of the images kept out.
        training_names: images trained on.
        holdout_names: images kept out.
        unreadable: a line for every image that could not be read.
    """

    training: Regions
    holdout: Regions
    training_names: list[str]
    holdout_names: list[str]
    unreadable: list[str]


@dataclass(frozen=True)
class RegionBatch:
    """Regions of one training step; pictures float32 RGB in [0, 1].

    Attributes:
        hr: [B, 3, S, S].
        wide: [B, 3, W, W].
        labels: [B], 0 or 1.
        boxes: [B, 4], the proposal in its own frame.
        targets: [B, 4], the face in that frame; NaN where there is none.
    """

    hr: Tensor
    wide: Tensor
    labels: Tensor
    boxes: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> RegionBatch:
        """The batch on another device."""
        return RegionBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


class RegionSource:
    """Draws batches of regions: half faces, half non-faces, of the same sizes; mirrored and lit at random.

    Args:
        regions: what to draw from.
        config: augmentation.
        batch_size: regions in a batch, on this device.
        seed: every batch is a function of (seed, step, rank).
        rank: this device's number.

    Raises:
        DataError: if there is no region.
    """

    def __init__(self, regions: Regions, config: BatchConfig, batch_size: int, seed: int, rank: int = 0) -> None:
        if not len(regions):
            raise DataError("there is no region of interest to train the judge on; give proposals of these images")
        self._regions, self._config, self._count, self._key = regions, config, batch_size, (seed, rank)
        self._sampler = SizeBalancedSampler(regions.labels, regions.sides_px)

    def draw(self, step: int) -> RegionBatch:
        """The batch of a step."""
        rng = np.random.default_rng([*self._key, step])
        rows = self._sampler.draw(self._count, rng)
        mirrored = rng.random(len(rows)) < 0.5
        light = draw_light(self._config, len(rows), rng)
        regions = self._regions
        return RegionBatch(
            hr=light.apply(_mirror_pictures(regions.hr, rows, mirrored)),
            wide=light.apply(_mirror_pictures(regions.wide, rows, mirrored)),
            labels=torch.from_numpy(regions.labels[rows].astype(np.float32)),
            boxes=torch.from_numpy(_mirror_boxes(regions.boxes[rows], mirrored).astype(np.float32)),
            targets=torch.from_numpy(_mirror_boxes(regions.targets[rows], mirrored).astype(np.float32)),
        )


def prepare_regions(
    data: TrainingInput, recipe: Recipe, generator: AnyGenerator, folder: Path, runtime: Runtime
) -> RegionData:
    """Label proposals, cut and super-resolve them, and keep the hold-out apart.

    Args:
        data: images and proposals.
        recipe: thresholds, sizes, seed.
        generator: super-resolves small crops.
        folder: where the regions are kept while training runs.
        runtime: of several processes the first one cuts, the others wait and read.

    Raises:
        DataError: if the root's layout is wrong, or proposals belong to none of its images.
    """
    if not runtime.is_main:
        runtime.barrier()
    split = load_split(data.root, "train")
    training_names, holdout_names = split_holdout(split.faces, recipe.rois.holdout)
    proposals = [match_proposals(open_detections(path), split) for path in data.proposals]
    opened, unreadable = [], []
    for part, names in (("training", training_names), ("holdout", holdout_names)):
        fingerprint = _fingerprint(data, recipe, generator, names)
        below, spread = folder / part, recipe.judge_training.shift if part == "training" else 0.0
        if not _is_whole(below, fingerprint):
            rois = {name: _rois(name, split, proposals, recipe, spread) for name in names}
            _build(rois, split, generator, recipe.crops, below, fingerprint, runtime)
        regions, skipped = _open(below, recipe.crops)
        log.info("%s: %d images; %d regions (%d faces)", part, len(names), len(regions), int(regions.labels.sum()))
        opened.append(regions)
        unreadable += skipped
    if runtime.is_main:
        runtime.barrier()
    return RegionData(opened[0], opened[1], training_names, holdout_names, unreadable)


def _rois(
    name: str, split: WiderSplit, proposals: Sequence[Mapping[str, Detections]], recipe: Recipe, spread: float
) -> Rois:
    rng = image_rng(name, recipe)
    chosen = image_rois(name, split, proposals, recipe, rng)
    if not spread:
        return chosen
    shifted = shift_rois(chosen, split.faces[name], recipe.rois, spread, rng)
    pairs = zip(vars(chosen).values(), vars(shifted).values(), strict=True)
    return Rois(*(np.concatenate(pair) for pair in pairs))


def _build(
    rois: dict[str, Rois],
    split: WiderSplit,
    generator: AnyGenerator,
    crops: CropConfig,
    folder: Path,
    fingerprint: str,
    runtime: Runtime,
) -> None:
    """Cut and super-resolve all regions into ``folder``; ``index.json`` comes last, and only then they count."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    table: dict[str, list[FloatArray]] = {name: [] for name in TABLE}
    unreadable: list[str] = []
    requests = (Request(name, split.images / name, one.boxes) for name, one in rois.items())
    with (folder / "hr.u8").open("wb") as hr_file, (folder / "wide.u8").open("wb") as wide_file:
        for group in _groups(tqdm(cut_ahead(requests, crops, wide=True, workers=2), total=len(rois), disable=None)):
            small = np.concatenate([cut.small for cut in group])
            refined = to_bytes(generate(generator, small, runtime).refined) if len(small) else small
            done = 0
            for cut in group:
                if cut.error is not None:
                    log.warning("skipped: %s", cut.error)
                    unreadable.append(cut.error)
                    continue
                here = refined[done : done + len(cut.small)]
                done += len(cut.small)
                hr_file.write(here.tobytes() + cut.large.tobytes())
                wide_file.write(cut.wide.tobytes())
                for name, column in zip(TABLE, _columns(cut, rois[cut.name], crops), strict=True):
                    table[name].append(column)
    labels, sides_px, boxes, targets = (
        np.concatenate([np.zeros(shape), *table[name]]) for name, shape in TABLE.items()
    )
    with (folder / "table.npz").open("wb") as file:
        np.savez(file, labels=labels, sides_px=sides_px, boxes=boxes, targets=targets)
    index = {"fingerprint": fingerprint, "unreadable": unreadable}
    write_atomically(folder / "index.json", json.dumps(index).encode())


def _groups(cuts: Iterator[Cut]) -> Iterator[list[Cut]]:
    group: list[Cut] = []
    for cut in cuts:
        group.append(cut)
        if sum(len(one.small) for one in group) >= GROUP:
            yield group
            group = []
    if group:
        yield group


def _columns(cut: Cut, rois: Rois, crops: CropConfig) -> tuple[FloatArray, ...]:
    """The table's columns of one image: small crops first, as the pictures are written."""
    order = np.concatenate([np.flatnonzero(cut.is_small), np.flatnonzero(~cut.is_small)])
    anchors = cut.anchors[order]
    sides_px = np.maximum(longer_side(anchors) * crops.context, 1.0)
    framed = (encode_boxes(boxes[order], anchors) for boxes in (rois.boxes, rois.targets))
    return rois.labels[order].astype(np.float64), sides_px, *framed


def _is_whole(folder: Path, fingerprint: str) -> bool:
    index = folder / "index.json"
    return index.is_file() and json.loads(index.read_text())["fingerprint"] == fingerprint


def _open(folder: Path, crops: CropConfig) -> tuple[Regions, list[str]]:
    with np.load(folder / "table.npz") as table:
        columns = {name: table[name] for name in TABLE}
    regions = Regions(
        hr=_open_pictures(folder / "hr.u8", len(columns["labels"]), crops.hr_size),
        wide=_open_pictures(folder / "wide.u8", len(columns["labels"]), crops.wide_size),
        labels=columns["labels"].astype(np.int64),
        sides_px=columns["sides_px"],
        boxes=columns["boxes"],
        targets=columns["targets"],
    )
    return regions, json.loads((folder / "index.json").read_text())["unreadable"]


def _open_pictures(file: Path, count: int, size: int) -> ByteArray:
    shape = (count, size, size, 3)
    return np.memmap(file, np.uint8, "r", shape=shape) if count else np.zeros(shape, np.uint8)


def _fingerprint(data: TrainingInput, recipe: Recipe, generator: AnyGenerator, names: Sequence[str]) -> str:
    tree = to_tree(recipe)
    digest = hashlib.md5(usedforsecurity=False)
    for tensor in generator.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    parts = [str(data), list(names), tree["seed"], tree["crops"], tree["rois"], recipe.judge_training.shift]
    digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def _mirror_pictures(stack: ByteArray, rows: IntArray, mirrored: BoolArray) -> ByteArray:
    pixels = np.stack([stack[row] for row in rows])
    pixels[mirrored] = pixels[mirrored, :, ::-1]
    return pixels


def _mirror_boxes(boxes: FloatArray, mirrored: BoolArray) -> FloatArray:
    """Frames have their origin in the middle: left and right change places and signs."""
    turned: FloatArray = boxes.copy()
    turned[mirrored, 0], turned[mirrored, 2] = -boxes[mirrored, 2], -boxes[mirrored, 0]
    return turned

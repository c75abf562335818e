"""Batches for training. A batch depends on (seed, step) alone, so a resumed run needs no state of a sampler.

Several devices draw the same batch, and each keeps its share: their number does not change what is learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tinygan.boxes import mirror_boxes
from tinygan.data.cutting import SCALE, CropConfig, DegradationConfig, make_lr, resize_patches
from tinygan.data.patches import MEDIUM, PAIRED, SMALL, Patches
from tinygan.data.rois import FACE, NON_FACE
from tinygan.detections import ByteArray, IntArray
from tinygan.errors import DataError
from tinygan.models.pixels import to_float

AnyBatch = TypeVar("AnyBatch")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What a batch is made of.

    The paper has pairs alone, and mentions no augmentation. That half of each batch are faces, and that faces and
    non-faces are balanced by size, is not stated in the paper.

    Attributes:
        wild: share of wild patches in a batch of stage ``gan``: small and medium crops of proposals, of which there is
            no true high-resolution picture. The rest of the batch are pairs. The more wild patches, the more the
            discriminator learns about such proposals, which it is to judge in use; but the pixel loss and the
            real/generated loss see pairs alone, and above 0.5 these become few. 0: pairs alone (the paper).
        medium: share of the medium crops, which go straight to the discriminator, among the wild patches; default: as
            in the data.
        mirror: share of patches that are mirrored. Not stated in the paper.
        brightness: largest relative change of brightness.
        contrast: largest relative change of contrast.
        colour: largest relative change of each colour channel.
        grey: share of patches that are turned grey.
        lr_sizes: sides of the low-resolution copies in pixels. All pairs of a batch have the same, drawn at random; a
            size that is named twice is drawn twice as often. The smaller they are, the more pairs a batch has, so that
            it has about as many pixels; a crop that is too small in its source for a size is left out. Empty:
            ``crops.lr_size`` alone.
    """

    wild: float = 0.5  # Differs from the paper: 0
    medium: float | None = None
    mirror: float = 0.5
    brightness: float = 0.2  # Differs from the paper: 0
    contrast: float = 0.2  # Differs from the paper: 0
    colour: float = 0.0
    grey: float = 0.0
    lr_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.lr_sizes and min(self.lr_sizes) < 4:
            raise ValueError(f"lr_sizes must be at least 4 px, got {self.lr_sizes}")
        if not 0 <= self.wild <= 0.9:
            raise ValueError(f"wild must lie in [0, 0.9], as super-resolution learns from pairs; got {self.wild}")
        shares = {"grey": self.grey, "medium": self.medium, "colour": self.colour, "mirror": self.mirror}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {share}")
        if not (0 <= self.brightness <= 2 and 0 <= self.contrast <= 1):
            raise ValueError("brightness must lie in [0, 2] and contrast in [0, 1]")


class ColourJitter(NamedTuple):
    """Random changes of colour: of N patches, gain [N, 3, 1, 1], shift [N, 1, 1, 1] and is_grey bool [N]."""

    gain: Tensor
    shift: Tensor
    is_grey: Tensor

    def apply(self, pixels: ByteArray) -> Tensor:
        """Patches uint8 [N, S, S, 3] to float32 [N, 3, S, S] in [0, 1], with these changes."""
        picture = to_float(pixels)
        if self.is_grey.any():
            picture[self.is_grey] = picture[self.is_grey].mean(dim=1, keepdim=True)
        return picture.mul_(self.gain).add_(self.shift).clamp_(0, 1)


@dataclass(frozen=True)
class Batch:
    """Patches of one training step; float32 RGB in [0, 1], labels float32 0 or 1.

    Attributes:
        lr: [P, 3, s, s], low-resolution copies of ``hr``.
        hr: [P, 3, S, S], true high-resolution patches.
        labels: [P], labels of the pairs.
        small: [N, 3, s, s], small wild crops, which go through the generator.
        small_labels: [N], labels of the small crops.
        medium: [M, 3, S, S], medium wild crops, resized, which go straight to the discriminator.
        medium_labels: [M], labels of the medium crops.
        targets: [P, 4], where the faces of the pairs are, as in :class:`~tinygan.data.patches.Patches`.
        small_targets: [N, 4], the same of the small crops.
        medium_targets: [M, 4], the same of the medium crops.
    """

    lr: Tensor
    hr: Tensor
    labels: Tensor
    small: Tensor
    small_labels: Tensor
    medium: Tensor
    medium_labels: Tensor
    targets: Tensor
    small_targets: Tensor
    medium_targets: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def share_of(batch: AnyBatch, rank: int, world_size: int) -> AnyBatch:
    """The rows of a batch that one of several devices keeps: a part of each of its tensors, [N, ...]."""
    if world_size == 1:
        return batch
    shares = {name: rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
              for name, rows in vars(batch).items()}  # fmt: skip
    return type(batch)(**shares)


class SizeBalancedSampler:
    """Draws half faces, half non-faces, both with the size distribution of the whole stream.

    Otherwise size and blur alone would tell faces from non-faces.

    Args:
        labels: int64 [N], labels of the patches.
        sides_px: float64 [N], sides of the crops in source pixels.
    """

    def __init__(self, labels: IntArray, sides_px: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        bins = np.floor(2 * np.log2(np.maximum(sides_px, 1.0))).astype(np.int64)
        self._pools: list[dict[int, IntArray]] = []
        shares = []
        for value in np.unique(bins):
            members = bins == value
            pools = {label: np.flatnonzero(members & (labels == label)) for label in (FACE, NON_FACE)}
            if all(len(pool) for pool in pools.values()):
                self._pools.append(pools)
                shares.append(members.sum())
        if not self._pools:
            present = sorted(set(labels.tolist()))
            self._pools = [{label: np.flatnonzero(labels == label) for label in present}] if present else []
            shares = [len(labels)]
        self._shares = np.array(shares, dtype=np.float64) / max(sum(shares), 1)

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Positions of ``count`` patches, int64 [count], faces and non-faces in alternation."""
        chosen = np.zeros(count, dtype=np.int64)
        which = rng.choice(len(self._pools), size=count, p=self._shares)
        for row, bin_number in enumerate(which):
            pools = self._pools[bin_number]
            pool = pools.get((FACE, NON_FACE)[row % 2])
            if pool is None:  # a stream of faces alone, such as extra images
                pool = next(iter(pools.values()))
            chosen[row] = pool[rng.integers(len(pool))]
        return chosen


class BatchSource:
    """Draws batches from the streams of patches.

    Args:
        streams: patches by stream: ``paired``, and for stage ``gan`` also ``small`` and ``medium``.
        crops: the sizes of patches.
        config: composition of batches, and augmentation.
        degradation: how low-resolution copies are made.
        batch_size: number of patches per batch on this device.
        seed: seed of the batches, each of which depends on (seed, step) alone.
        rank: number of this device.
        world_size: number of devices.

    Raises:
        DataError: if there is no patch in stream ``paired``.
    """

    def __init__(
        self,
        streams: Mapping[str, Patches],
        crops: CropConfig,
        config: BatchConfig,
        degradation: DegradationConfig,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._streams, self._crops, self._config, self._degradation = streams, crops, config, degradation
        self._seed, self._rank, self._world_size = seed, rank, world_size
        if PAIRED not in streams or not len(streams[PAIRED]):
            raise DataError(
                f"no crop is at least hr_size = {crops.hr_size} px wide, so there is nothing to learn "
                "super-resolution from; add larger faces, or lower crops.lr_size"
            )
        self._counts = self._share_out(batch_size * world_size)
        self._by_size = self._pools_by_size(streams[PAIRED])
        self._samplers = {
            name: SizeBalancedSampler(streams[name].labels, streams[name].sides_px)
            for name, count in self._counts.items()
            if count
        }

    def _share_out(self, batch_size: int) -> dict[str, int]:
        small, medium = (len(self._streams[name]) if name in self._streams else 0 for name in (SMALL, MEDIUM))
        wild = min(round(batch_size * self._config.wild), batch_size - 1) if small + medium else 0
        share = medium / max(small + medium, 1) if self._config.medium is None else self._config.medium
        of_medium = round(wild * share) if medium else 0
        of_small = wild - of_medium if small else 0
        return {PAIRED: batch_size - of_small - of_medium, SMALL: of_small, MEDIUM: of_medium}

    def _pools_by_size(self, pairs: Patches) -> dict[int, tuple[SizeBalancedSampler, IntArray, int]]:
        """For each of ``lr_sizes`` a sampler, the positions of the patches that are large enough, and their number."""
        pools = {}
        for size in set(self._config.lr_sizes):
            if SCALE * size > pairs.pixels.shape[1]:
                raise DataError(
                    f"batches.lr_sizes: {size} px needs patches of {SCALE * size} px, but they are kept at "
                    f"{pairs.pixels.shape[1]} px; set crops.paired_size={SCALE * size}"
                )
            large = np.flatnonzero(pairs.sides_px >= SCALE * size)
            if not len(large):
                raise DataError(
                    f"batches.lr_sizes: no crop is {SCALE * size} px wide, so none can be {size} px; drop it"
                )
            count = max(1, round(self._counts[PAIRED] * (self._crops.lr_size / size) ** 2))
            pools[size] = SizeBalancedSampler(pairs.labels[large], pairs.sides_px[large]), large, count
        return pools

    def draw(self, step: int) -> Batch:
        """This device's share of the batch of a step."""
        rng = np.random.default_rng([self._seed, 0, step])
        hr, labels, targets = self._take(PAIRED, rng)
        lr = np.stack([make_lr(patch, self._degradation, rng) for patch in hr])
        small, small_labels, small_targets = self._take(SMALL, rng)
        medium, medium_labels, medium_targets = self._take(MEDIUM, rng)
        jitter = draw_colour_jitter(self._config, len(hr), rng)
        whole = Batch(
            lr=jitter.apply(lr),
            hr=jitter.apply(hr),
            labels=labels,
            small=draw_colour_jitter(self._config, len(small), rng).apply(small),
            small_labels=small_labels,
            medium=draw_colour_jitter(self._config, len(medium), rng).apply(medium),
            medium_labels=medium_labels,
            targets=targets,
            small_targets=small_targets,
            medium_targets=medium_targets,
        )
        return share_of(whole, self._rank, self._world_size)

    def _take(self, stream: str, rng: np.random.Generator) -> tuple[ByteArray, Tensor, Tensor]:
        size = self._crops.lr_size if stream == SMALL else self._crops.hr_size
        if stream not in self._samplers:
            return np.zeros((0, size, size, 3), np.uint8), torch.zeros(0), torch.zeros(0, 4)
        patches = self._streams[stream]
        if stream == PAIRED and self._by_size:
            lr_size = int(rng.choice(self._config.lr_sizes))
            sampler, large, count = self._by_size[lr_size]
            chosen, size = large[sampler.draw(count, rng)], SCALE * lr_size
        else:
            chosen = self._samplers[stream].draw(self._counts[stream], rng)
        pixels = resize_patches(np.stack([patches.pixels[index] for index in chosen]), size)
        mirrored = rng.random(len(chosen)) < self._config.mirror
        pixels[mirrored] = pixels[mirrored, :, ::-1]
        straight = patches.targets[chosen]
        targets = np.where(mirrored[:, None], mirror_boxes(straight), straight)
        labels = patches.labels[chosen]
        return pixels, torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(targets.astype(np.float32))


def draw_colour_jitter(config: BatchConfig, count: int, rng: np.random.Generator) -> ColourJitter:
    """Random changes of colour for ``count`` patches; both pictures of a pair get the same."""
    contrast = 1 + rng.uniform(-1, 1, (count, 1)) * config.contrast
    shift = rng.uniform(-0.5, 0.5, (count, 1)) * config.brightness + (1 - contrast) * 0.5
    gain = contrast * (1 + rng.uniform(-1, 1, (count, 3)) * config.colour)
    is_grey = rng.random(count) < config.grey
    as_pictures = [torch.from_numpy(value.astype(np.float32))[:, :, None, None] for value in (gain, shift)]
    return ColourJitter(as_pictures[0], as_pictures[1], torch.from_numpy(is_grey))

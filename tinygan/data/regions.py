"""Training data of stage ``judge``: regions as the discriminator sees them, and batches of them.

Stage ``judge`` does not change the generator, so small crops are super-resolved once and not in every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinygan.boxes import mirror_boxes
from tinygan.data.batches import BatchConfig, SizeBalancedSampler, draw_colour_jitter, share_of
from tinygan.detections import BoolArray, ByteArray, FloatArray, IntArray
from tinygan.errors import DataError


@dataclass(frozen=True)
class Regions:
    """Regions of interest, ready for the discriminator.

    Attributes:
        hr: uint8 [N, S, S, 3], the crops, small ones super-resolved; a memory map.
        wide: uint8 [N, W, W, 3], the surroundings; a memory map.
        labels: int64 [N], 1 face, 0 non-face, by the IoU of the proposal.
        sides_px: float64 [N], sides of the crops in source pixels.
        boxes: float64 [N, 4], the proposals, each in its own frame (see :func:`tinygan.boxes.encode_boxes`).
        targets: float64 [N, 4], for each proposal the face that it overlaps most, in the frame of the proposal; NaN if
            it overlaps none.
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
class RegionBatch:
    """Regions of one training step; pictures float32 RGB in [0, 1].

    Attributes:
        hr: [B, 3, S, S], the crops, small ones super-resolved.
        wide: [B, 3, W, W], the surroundings.
        labels: [B], 1 face, 0 non-face.
        boxes: [B, 4], the proposals, each in its own frame.
        targets: [B, 4], the faces in these frames; NaN where there is none.
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
    """Draws batches of regions, half faces, half non-faces, of the same sizes; mirrors and recolours them at random.

    Args:
        regions: the regions to draw from.
        config: the augmentation.
        batch_size: number of regions per batch on this device.
        seed: seed of the batches, each of which depends on (seed, step) alone.
        rank: number of this device.
        world_size: number of devices.

    Raises:
        DataError: if there is no region.
    """

    def __init__(
        self, regions: Regions, config: BatchConfig, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not len(regions):
            raise DataError("there is no region of interest to train the judge on; give proposals of these images")
        self._regions, self._config, self._count, self._seed = regions, config, batch_size * world_size, seed
        self._rank, self._world_size = rank, world_size
        self._sampler = SizeBalancedSampler(regions.labels, regions.sides_px)

    def draw(self, step: int) -> RegionBatch:
        """This device's share of the batch of a step."""
        rng = np.random.default_rng([self._seed, 0, step])
        rows = self._sampler.draw(self._count, rng)
        mirrored = rng.random(len(rows)) < 0.5
        jitter = draw_colour_jitter(self._config, len(rows), rng)
        regions = self._regions
        whole = RegionBatch(
            hr=jitter.apply(_mirror_pictures(regions.hr, rows, mirrored)),
            wide=jitter.apply(_mirror_pictures(regions.wide, rows, mirrored)),
            labels=torch.from_numpy(regions.labels[rows].astype(np.float32)),
            boxes=_mirror_some(regions.boxes[rows], mirrored),
            targets=_mirror_some(regions.targets[rows], mirrored),
        )
        return share_of(whole, self._rank, self._world_size)


def _mirror_pictures(stack: ByteArray, rows: IntArray, mirrored: BoolArray) -> ByteArray:
    pixels = np.stack([stack[row] for row in rows])
    pixels[mirrored] = pixels[mirrored, :, ::-1]
    return pixels


def _mirror_some(boxes: FloatArray, mirrored: BoolArray) -> Tensor:
    """Boxes float64 [B, 4] in the frames of their proposals, of which some are mirrored, as float32."""
    return torch.from_numpy(np.where(mirrored[:, None], mirror_boxes(boxes), boxes).astype(np.float32))

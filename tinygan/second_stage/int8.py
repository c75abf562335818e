"""Regions by which the second stage is calibrated for int8."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config
from tinygan.data.cutting import CropConfig, Cut, cut_regions
from tinygan.errors import DataError
from tinygan.formats.images import ImageFile, read_image
from tinygan.models.build import load_generator
from tinygan.models.pixels import to_float
from tinygan.second_stage.plan import Plan

log = logging.getLogger(__name__)
REGIONS, PER_IMAGE, BEST = 1024, 8, 128  # regions in all; of an image this many, spread over this many best proposals
LEAST = 32  # with fewer regions the ranges of activations would be guesses


def calibration_regions(weights: Checkpoint, plan: Plan) -> list[Tensor]:
    """The judge's inputs for some of the proposals, spread over all images.

    Args:
        weights: a checkpoint of kind ``gan`` or ``fused``.
        plan: images and proposals, as for rescoring.

    Returns:
        Crops float32 [N, 3, S, S] and surroundings [N, 3, W, W], RGB in [0, 1].

    Raises:
        DataError: if there are fewer than :data:`LEAST` regions.
    """
    crops, generator = build_config(CropConfig, weights.recipe["crops"]), load_generator(weights).eval()
    seen = [_inputs(cut, generator) for cut in _cuts(plan, crops)]
    count = sum(len(hr) for hr, _ in seen)
    if count < LEAST:
        raise DataError(f"int8 is calibrated on {LEAST} proposals or more, got {count}; give more images and proposals")
    log.info("calibrating int8 on %d regions of %d images", count, len(seen))
    return [torch.cat(parts) for parts in zip(*seen, strict=True)]


def _cuts(plan: Plan, crops: CropConfig) -> Iterator[Cut]:
    """Regions of images spread evenly over all; an image that cannot be read is left out."""
    names = [name for name in plan.proposals if name in plan.image_of and len(plan.proposals[name])]
    for name in names[:: max(1, len(names) * PER_IMAGE // REGIONS)][:REGIONS]:
        best = plan.proposals[name].boxes[:BEST]
        rows = np.unique(np.linspace(0, len(best) - 1, PER_IMAGE).round().astype(np.int64))
        try:
            yield cut_regions(
                read_image(ImageFile(plan.image_of[name], plan.orientation)), best[rows], crops, wide=True
            )
        except DataError as error:
            log.warning("skipped: %s", error)


@torch.inference_mode()
def _inputs(cut: Cut, generator: nn.Module) -> tuple[Tensor, Tensor]:
    """Crops, of which small ones are super-resolved, then large ones; and their surroundings in the same order."""
    hr = to_float(cut.large)
    if len(cut.small):
        hr = torch.cat([generator(to_float(cut.small))[1], hr])
    return hr, to_float(cut.wide)

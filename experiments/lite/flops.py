"""Floating-point operations of one region: a multiplication and an addition count as two."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from tinygan.checkpoint import load_weights
from tinygan.config import build_config
from tinygan.models.discriminator import Discriminator
from tinygan.models.generator import Generator
from tinygan.train.recipe import Recipe


def giga_flops(checkpoint: Path) -> dict[str, float]:
    """Of the generator and of the discriminator on one region, in GFLOP, and their sum."""
    recipe = build_config(Recipe, load_weights(checkpoint, ("gan", "fused")).config)
    crops = recipe.crops
    lr, hr = (torch.zeros(1, 3, side, side) for side in (crops.lr_size, crops.hr_size))
    counts = {}
    for name, network, picture in (
        ("generator", Generator(recipe.generator), lr),
        ("discriminator", Discriminator(recipe.discriminator, crops.hr_size), hr),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(picture)
        counts[name] = round(counter.get_total_flops() / 1e9, 3)
    return {**counts, "total": round(sum(counts.values()), 3)}

"""Floating-point operations of one region: a multiplication and an addition count as two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tinygan.checkpoint import load_checkpoint
from tinygan.config import build_config
from tinygan.models.build import build_generator
from tinygan.models.discriminator import Discriminator
from tinygan.second_stage.fusion import Fusion, stored_fusion
from tinygan.training.recipe import Recipe


def giga_flops(checkpoint: Path) -> dict[str, float]:
    """Of the generator and of the discriminator on one region, in GFLOP, what a look costs, and all looks.

    Where another discriminator takes the second look, ``second`` is what that costs.

    The generator counts in a look only if the judge sees super-resolved crops.
    """
    weights = load_checkpoint(checkpoint, ("gan", "fused"))
    recipe = build_config(Recipe, weights.recipe)
    looks = (stored_fusion(weights) or Fusion()).looks
    generator, discriminator = generator_flops(recipe), discriminator_flops(recipe)
    super_resolves = bool(recipe.crops.through_generator(np.array([1.0]))[0])
    enlarging = generator if super_resolves else 0.0
    second = (
        discriminator if recipe.second is None else discriminator_flops(replace(recipe, discriminator=recipe.second))
    )
    total = discriminator + enlarging
    counts = {"generator": generator, "discriminator": discriminator, "second": second, "total": total}
    counts["all looks"] = total + (looks - 1) * (second + enlarging)
    return {name: round(count, 3) for name, count in counts.items()}


def generator_flops(recipe: Recipe) -> float:
    """GFLOP of super-resolving one crop."""
    generator = build_generator(recipe.generator).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.zeros(1, 3, recipe.crops.lr_size, recipe.crops.lr_size))
    return float(counter.get_total_flops()) / 1e9


def discriminator_flops(recipe: Recipe) -> float:
    """GFLOP of judging one crop, with its surroundings if this discriminator sees them."""
    crops, config = recipe.crops, recipe.discriminator
    discriminator = Discriminator(config, crops.hr_size, crops.wide_size).eval()
    wide = torch.zeros(1, 3, crops.wide_size, crops.wide_size) if config.surroundings != "none" else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        discriminator(torch.zeros(1, 3, crops.hr_size, crops.hr_size), wide)
    return float(counter.get_total_flops()) / 1e9

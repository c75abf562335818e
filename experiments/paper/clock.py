"""How long a step of each training takes on this machine, and how many regions are judged in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from proposals.train.pictures import PictureSource
from proposals.train.recipe import DetectorRecipe
from proposals.train.run import ProposerData, read_inputs
from proposals.train.stage import DetectorStage
from tinygan.checkpoint import Checkpoint
from tinygan.config import to_tree
from tinygan.data.batches import BatchSource
from tinygan.data.patches import STREAMS, Patches, patch_size
from tinygan.models.build import build_discriminator, build_generator
from tinygan.runtime import Runtime
from tinygan.second_stage.judge import Judge
from tinygan.training.gan import Gan
from tinygan.training.loop import BatchT, Stage, stage_batch_size
from tinygan.training.mse_init import MseInit
from tinygan.training.recipe import Recipe
from tinygan.training.samples import HeldOut

SECONDS, WARM_UP = 8.0, 2  # measured for so long, after so many calls that do not count
NOISE = 256  # number of patches in each stream of noise
JUDGED = 64  # number of patches per forward pass of the judge, as in rescoring


def seconds_of_mse_init(recipe: Recipe, runtime: Runtime) -> float:
    """Seconds per step of stage ``mse-init``, on noise."""
    streams = noise(recipe)
    stage = MseInit(recipe, runtime, HeldOut(streams, recipe))
    batches = _batches(streams, recipe, stage_batch_size(recipe.mse_init, runtime))
    return _seconds_per_step(stage, batches.draw)


def seconds_of_gan(recipe: Recipe, runtime: Runtime) -> float:
    """Mean seconds per step of stage ``gan``, on noise."""
    stage, batches = _gan_on_noise(recipe, runtime)
    return _seconds_per_step(stage, batches.draw)


def flops_of_gan(recipe: Recipe, runtime: Runtime) -> float:
    """Floating-point operations of the first step of stage ``gan``, which updates both D and G."""
    stage, batches = _gan_on_noise(recipe, runtime)
    with FlopCounterMode(display=False) as counter:
        stage.step(batches.draw(0))
    return float(counter.get_total_flops())


def seconds_of_first_stage(root: Path, recipe: DetectorRecipe, runtime: Runtime) -> float:
    """Seconds per step of a first stage's training, on its own pictures."""
    inputs = read_inputs(ProposerData(root), recipe)
    size = stage_batch_size(recipe.loop, runtime)
    source = PictureSource(inputs.photos, recipe, size)
    inputs.network.before_training(source.draw(0).pictures)
    stage = DetectorStage(inputs.network, recipe, runtime, inputs.split.images, {})
    return _seconds_per_step(stage, source.draw)


def regions_per_second(recipe: Recipe, runtime: Runtime) -> float:
    """Regions that generator and discriminator judge in a second, on noise; cutting them is not counted."""
    recipe = _without_weights(recipe)
    networks = build_generator(recipe.generator), build_discriminator(recipe.discriminator, recipe.crops.hr_size)
    for network in networks:
        runtime.place(network)
    judge = Judge(*networks, recipe.crops, runtime)
    size = recipe.crops.lr_size
    small = np.zeros((JUDGED, size, size, 3), np.uint8)
    empty = np.zeros((0, recipe.crops.hr_size, recipe.crops.hr_size, 3), np.uint8)
    return JUDGED / _seconds_per_call(lambda _: judge.judge(small, empty))


def noise(recipe: Recipe) -> dict[str, Patches]:
    """Streams of patches of noise, half of them labelled as faces."""
    rng = np.random.default_rng(0)
    streams = {}
    for stream in STREAMS:
        size = patch_size(stream, recipe.crops)
        pixels = rng.integers(0, 256, (NOISE, size, size, 3), dtype=np.uint8)
        streams[stream] = Patches(
            pixels, np.arange(NOISE) % 2, np.full(NOISE, float(size)), np.tile([-0.5, -0.5, 0.5, 0.5], (NOISE, 1))
        )
    return streams


def _gan_on_noise(recipe: Recipe, runtime: Runtime) -> tuple[Gan, BatchSource]:
    streams, recipe = noise(recipe), _without_weights(recipe)
    generator = build_generator(recipe.generator)
    tensors = {f"generator.{name}": tensor for name, tensor in generator.state_dict().items()}
    stage = Gan(recipe, runtime, HeldOut(streams, recipe), Checkpoint("generator", to_tree(recipe), tensors))
    return stage, _batches(streams, recipe, stage_batch_size(recipe.gan, runtime))


def _without_weights(recipe: Recipe) -> Recipe:
    """The recipe with a discriminator of random weights, which takes as long and need not be fetched."""
    return replace(recipe, discriminator=replace(recipe.discriminator, weights="none"))


def _batches(streams: Mapping[str, Patches], recipe: Recipe, size: int) -> BatchSource:
    return BatchSource(streams, recipe.crops, recipe.batches, recipe.degradation, size, recipe.seed)


def _seconds_per_step(stage: Stage[BatchT], draw: Callable[[int], BatchT]) -> float:
    def step(number: int) -> None:
        terms: Mapping[str, Tensor] = stage.step(draw(number))
        torch.stack([value.detach() for value in terms.values()]).cpu()  # waits for the device, as the loop does

    return _seconds_per_call(step)


def _seconds_per_call(call: Callable[[int], object]) -> float:
    for number in range(WARM_UP):
        call(number)
    started, count = time.monotonic(), 0
    while count < 2 or time.monotonic() - started < SECONDS:
        call(WARM_UP + count)
        count += 1
    return (time.monotonic() - started) / count

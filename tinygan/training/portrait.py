"""Stage ``portrait``: a generator learns pictures that people find clear, from stage ``mse-init``. Not in the paper.

    tinygan-train --stage mse-init --config portrait --data ROOT --extra-images LFW --out runs/mse
    tinygan-train --stage portrait --config portrait --data ROOT --extra-images LFW --init runs/mse --out runs/portrait

Three losses pull at the generated picture, each as hard as its share says: the pixels, the features of a network
trained on ImageNet, and a discriminator (:mod:`tinygan.models.perceptual`). The judge is not part of this.

Shapes: B pairs per batch; s and S = 4 s, the sides of this batch's pictures (``batches.lr_sizes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import to_tree
from tinygan.data.batches import Batch, BatchSource
from tinygan.data.patches import PAIRED
from tinygan.errors import ConfigError
from tinygan.losses import PIXEL_LOSSES, adversarial_loss, real_generated_loss
from tinygan.models.build import load_efficientnet_lite0, load_generator
from tinygan.models.generator import AnyGenerator, BilinearGenerator, Generator, ShuffleGenerator
from tinygan.models.perceptual import ImageNetFeatures, PerceptualDiscriminator, feature_distance
from tinygan.runtime import Runtime, seed_everything
from tinygan.training.gan import check_fits
from tinygan.training.loop import descend, restore, run_loop, set_rate, stage_batch_size, states_of
from tinygan.training.prepare import TrainingInput, prepare_patches
from tinygan.training.recipe import PortraitTraining, Recipe
from tinygan.training.run import RunFolder, finish, moving_average, trained_on
from tinygan.training.samples import HeldOut

Terms = dict[str, Tensor]


class Portrait:
    """The generator, the discriminator, the frozen features and the optimisers.

    Args:
        recipe: the sizes of networks and patches, the shares of the losses and the schedule.
        runtime: the device and the precision.
        held_out: held-out patches, for figures and sample pictures.
        init: checkpoint of stage ``mse-init``.
        features: the frozen features.

    Raises:
        ConfigError: if the generator has no weights, or cannot get further blocks.
    """

    def __init__(
        self, recipe: Recipe, runtime: Runtime, held_out: HeldOut, init: Checkpoint, features: ImageNetFeatures
    ) -> None:
        self.runtime, self.held_out, self.features = runtime, held_out, features
        self.generator = load_generator(init, recipe.generator)
        if isinstance(self.generator, BilinearGenerator):
            raise ConfigError("generator.form: bilinear has no weights that stage portrait could train")
        _deepen(self.generator, recipe.portrait_training)
        self.recipe = replace(recipe, generator=self.generator.config)
        self.discriminator = PerceptualDiscriminator()
        for network in (self.generator, self.discriminator, self.features):
            runtime.place(network)
        self.average = moving_average(self.generator, recipe.portrait_training.ema_decay)
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), betas=(0.9, 0.99))
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), betas=(0.5, 0.99))
        self.steps_done = 0

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Super-resolve the batch once, then update D, and G once D had a start."""
        batch = batch.to(self.runtime.device)
        self.generator.train()
        with self.runtime.autocast():
            generated = self.generator(batch.lr)  # [B, 3, s, s] -> [B, 3, S, S]
        picture = generated.refined.float()
        with torch.no_grad():
            true_features = self.features(batch.hr)
        seen = picture.detach().requires_grad_()  # the losses end here, so that their pulls can be weighed
        made_features = self.features(seen)
        terms = self._update_discriminator(batch.hr, true_features, seen, made_features)
        if self.steps_done >= self.recipe.portrait_training.discriminator_start:
            terms |= self._update_generator(batch.hr, true_features, picture, seen, made_features)
        self.steps_done += 1
        return terms

    def _update_discriminator(
        self, hr: Tensor, true_features: list[Tensor], made: Tensor, made_features: list[Tensor]
    ) -> Terms:
        """Tell real from generated pictures; the loss of Eq. 9, averaged over the maps of logits."""
        self.discriminator.requires_grad_(True)
        real = self.discriminator(hr, true_features)
        fake = self.discriminator(made.detach(), [layer.detach() for layer in made_features])
        loss = _mean([real_generated_loss(*maps) for maps in zip(real, fake, strict=True)])
        descend(loss, self.discriminator, self.discriminator_optimiser, self.runtime)
        right = torch.stack(
            [((a > 0).float().mean() + (b < 0).float().mean()) / 2 for a, b in zip(real, fake, strict=True)]
        )
        return {"d_adversarial": loss, "accuracy_real": right.mean()}

    def _update_generator(
        self, hr: Tensor, true_features: list[Tensor], picture: Tensor, seen: Tensor, made_features: list[Tensor]
    ) -> Terms:
        """Each loss has a gradient of unit length at the picture, times its share; so no weights need to be found."""
        training, losses = self.recipe.portrait_training, self.recipe.losses
        self.discriminator.requires_grad_(False)
        maps = self.discriminator(seen, made_features)
        terms = {
            "pixel": PIXEL_LOSSES[losses.pixel_form](seen, hr),
            "features": feature_distance(made_features, true_features).mean(),
            "adversarial": _mean([adversarial_loss(logits, losses.adversarial_form) for logits in maps]),
        }
        shares = (training.pixel, training.features, training.adversarial)
        pull = torch.zeros_like(seen)
        for share, loss in zip(shares, terms.values(), strict=True):
            if share:
                (gradient,) = torch.autograd.grad(loss, seen, retain_graph=True)
                pull += share * gradient / gradient.norm().clamp_min(1e-12)
        self.generator_optimiser.zero_grad(set_to_none=True)
        picture.backward(pull)  # type: ignore[no-untyped-call]
        self.runtime.average_gradients(self.generator)
        self.generator_optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.generator)
        return terms

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rates of both optimisers."""
        factor = self.recipe.portrait_training.discriminator_rate
        for optimiser, own in ((self.generator_optimiser, rate), (self.discriminator_optimiser, rate * factor)):
            set_rate(optimiser, own)

    def state_dict(self) -> dict[str, Any]:
        """The state of networks, optimisers and the average, and the number of steps done."""
        self.runtime.average_buffers(self.generator)
        return {"steps_done": self.steps_done, **states_of(self._parts())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of them."""
        restore(self._parts(), state)
        self.steps_done = int(state["steps_done"])

    def evaluate(self) -> dict[str, float]:
        """PSNR of bicubic and of the generator on held-out patches, in dB, and the distance of their features."""
        generator = self.final_generator()
        return {
            **self.held_out.psnr(generator, self.runtime),
            **self.held_out.distances(generator, self.features, self.runtime),
        }

    def draw_samples(self, path: Path) -> None:
        """Write a sheet LR | bicubic | G1 | G2 | HR."""
        self.held_out.draw(self.final_generator(), self.runtime, path)

    def final_generator(self) -> AnyGenerator:
        """The generator to save: the average, if the recipe has one."""
        return self.generator if self.average is None else self.average.module  # type: ignore[return-value]

    def _parts(self) -> dict[str, Any]:
        parts = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }
        return parts if self.average is None else {**parts, "average": self.average}


def train_portrait(data: TrainingInput, init: Path, recipe: Recipe, folder: RunFolder, runtime: Runtime) -> list[str]:
    """Run the stage to its end; the folder then holds ``model.safetensors`` of kind ``generator``.

    Args:
        data: images; proposals, if given, add further regions.
        init: run folder of stage ``mse-init``.
        recipe: the settings; the sizes must be those of ``init``.
        folder: the run folder.
        runtime: the device and the precision.

    Returns:
        One line per image that could not be read.

    Raises:
        CheckpointError: if ``init`` is of another kind or has other sizes.
        MissingDependency: if the package with the ImageNet weights is not installed.
    """
    start = load_checkpoint(init, ("generator",))
    check_fits(start, recipe, init)
    features = ImageNetFeatures(load_efficientnet_lite0())
    prepared = prepare_patches(data, recipe, folder.patches, runtime, streams=(PAIRED,))
    seed_everything(recipe.seed)
    stage = Portrait(recipe, runtime, HeldOut(prepared.holdout, recipe), start, features)
    batches = BatchSource(
        prepared.training, recipe.crops, recipe.batches, recipe.degradation,
        stage_batch_size(recipe.portrait, runtime), recipe.seed + 1, runtime.rank, runtime.world_size,
    )  # fmt: skip
    run_loop(stage, batches.draw, recipe.portrait, folder, runtime)
    if runtime.is_main:
        tensors = {f"generator.{name}": value for name, value in stage.final_generator().state_dict().items()}
        checkpoint = Checkpoint("generator", to_tree(stage.recipe), tensors, trained_on(prepared) | start.trained_on)
        save_checkpoint(folder.file(WEIGHTS_FILE), checkpoint)
        finish(folder, prepared)
    return prepared.unreadable


def _deepen(generator: Generator | ShuffleGenerator, training: PortraitTraining) -> None:
    further = {name: getattr(training, name) for name in ("further_blocks", "further_up_blocks")}
    if isinstance(generator, ShuffleGenerator):
        return generator.deepen(*further.values())
    for name, blocks in further.items():
        if blocks:
            raise ConfigError(
                f"portrait_training.{name}: expected 0 for generator.form {generator.config.form}, got {blocks}; "
                "form: shuffle alone can get further blocks"
            )


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()

"""Stage ``gan``: generator and discriminator are trained in alternation (Bai et al. 2018, Eq. 7-9).

    tinygan-train --stage gan --config lite --data ROOT --proposals P... --init runs/mse --out runs/gan

9,000 steps of 64 patches, 56 minutes on two CPU cores. The last line of ``metrics.jsonl`` on WIDER-mini with three
detectors' proposals, on the hold-out: PSNR of bicubic 22.29 dB, G1 22.93, G2 22.77; area under the ROC curve of the
face logit on paired, small and medium crops .931, .782, .881 (``experiments/lite/results.json``).

Shapes: P pairs, N small and M medium wild crops per batch; s = ``lr_size``, S = 4 s = ``hr_size``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import build_config, to_tree
from tinygan.data.batches import Batch, BatchSource
from tinygan.data.cutting import CropConfig
from tinygan.data.patches import Patches
from tinygan.errors import CheckpointError
from tinygan.losses import adversarial_loss, box_offset_loss, classification_loss, pixel_loss, real_generated_loss
from tinygan.models.build import build_discriminator, load_discriminator, load_generator
from tinygan.models.discriminator import Discriminator, Judgement
from tinygan.models.generator import AnyGenerator, BilinearGenerator, Generated, Generator, GeneratorConfig
from tinygan.runtime import Runtime, seed_everything
from tinygan.second_stage.judge import Judge
from tinygan.training.loop import descend, restore, run_loop, set_rate, stage_batch_size, states_of
from tinygan.training.prepare import Prepared, TrainingInput, prepare_patches
from tinygan.training.recipe import Recipe, check_trainable
from tinygan.training.run import RunFolder, finish, moving_average, trained_on
from tinygan.training.samples import HeldOut

Terms = dict[str, Tensor]


class Gan:
    """The generator, the discriminator and their optimisers.

    Args:
        recipe: the sizes of networks and patches, the losses and the schedule.
        runtime: the device and the precision.
        held_out: held-out patches, for figures and sample pictures.
        init: checkpoint of stage ``mse-init``, or of an earlier stage ``gan``, whose discriminator is trained further
            too.
    """

    def __init__(self, recipe: Recipe, runtime: Runtime, held_out: HeldOut, init: Checkpoint) -> None:
        self.recipe, self.runtime, self.held_out = recipe, runtime, held_out
        self.generator = load_generator(init, recipe.generator)
        if init.kind == "generator":
            self.discriminator = build_discriminator(recipe.discriminator, recipe.crops.hr_size)
        else:
            self.discriminator = load_discriminator(init, recipe.crops.hr_size, 0, recipe.discriminator)
        self.steps_done = 0
        self.generator_optimiser: torch.optim.Optimizer | None = None  # bilinear upscaling has nothing to learn
        if isinstance(self.generator, Generator):
            self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), betas=(0.9, 0.999))
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), betas=(0.9, 0.999))
        for network in (self.generator, self.discriminator):
            runtime.place(network)
        decay = recipe.adversarial_game.ema_decay
        self.averages = moving_average(self.generator, decay), moving_average(self.discriminator, decay)

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Super-resolve the batch once, then update D, and in every k-th step G."""
        batch = batch.to(self.runtime.device)
        turn = self.steps_done % self.recipe.adversarial_game.discriminator_steps == 0
        optimiser = self.generator_optimiser if turn else None
        updates_both = optimiser is not None
        self.generator.train(updates_both)  # if D alone is updated: pictures as they are at test
        with self.runtime.autocast(), torch.set_grad_enabled(updates_both):
            generated = self.generator(torch.cat([batch.lr, batch.small]))  # [P + N, 3, s, s] -> [P + N, 3, S, S] twice
        terms = self._update_discriminator(batch, generated.refined.detach())
        if optimiser is not None:
            terms.update(self._update_generator(batch, generated, optimiser))
        self.steps_done += 1
        for average, network in zip(self.averages, (self.generator, self.discriminator), strict=True):
            if average is not None:
                average.update_parameters(network)
        return terms

    def _update_discriminator(self, batch: Batch, refined: Tensor) -> Terms:
        """Eq. 9: tell real from generated pictures, and faces from non-faces on both and on wild patches."""
        pairs, small = len(batch.lr), len(batch.small)
        self.discriminator.train().requires_grad_(True)
        with self.runtime.autocast():  # all in one pass, so that BN statistics are those of the mixture at test
            pictures = torch.cat([batch.hr, refined.float(), batch.medium])  # [P + (P + N) + M, 3, S, S]
            verdict = self.discriminator(pictures)  # both logits [P + (P + N) + M]
        parts = (pairs, pairs, small, len(batch.medium))
        real, fake, _, _ = verdict.real_logit.split(parts)
        face_hr, face_fake, face_small, face_medium = verdict.face_logit.split(parts)
        face_wild = torch.cat([face_small, face_medium])  # [N + M]
        wild_labels = torch.cat([batch.small_labels, batch.medium_labels])
        terms = {
            "d_classification_hr": classification_loss(face_hr, batch.labels),
            "d_classification_generated": classification_loss(face_fake, batch.labels),
        }
        if len(face_wild):
            terms["d_classification_wild"] = classification_loss(face_wild, wild_labels)
        if self.recipe.losses.adversarial:
            terms["d_adversarial"] = real_generated_loss(real, fake)
        if self.recipe.losses.gamma:
            terms |= _box_terms(verdict, batch)
        descend(torch.stack(list(terms.values())).sum(), self.discriminator, self.discriminator_optimiser, self.runtime)
        with torch.no_grad():
            terms["accuracy_real"] = torch.cat([real > 0, fake < 0]).float().mean()
            terms["accuracy_face_hr"] = _accuracy(face_hr, batch.labels)
            terms["accuracy_face_generated"] = _accuracy(face_fake, batch.labels)
            if len(face_wild):
                terms["accuracy_face_wild"] = _accuracy(face_wild, wild_labels)
        return terms

    def _update_generator(self, batch: Batch, generated: Generated, optimiser: torch.optim.Optimizer) -> Terms:
        """Eq. 8: pixel + alpha x adversarial + beta x classification; and + gamma x box, as in SOD-MTGAN."""
        losses, pairs = self.recipe.losses, len(batch.lr)
        # D judges with its running statistics here: generated pictures alone would shift them.
        self.discriminator.eval().requires_grad_(False)
        with self.runtime.autocast():
            verdict = self.discriminator(generated.refined.float())  # [P + N, 3, S, S] -> both logits [P + N]
        fake, wild_fake = verdict.real_logit[:pairs], verdict.real_logit[pairs:]
        labels = torch.cat([batch.labels, batch.small_labels])
        terms: Terms = {}
        total = generated.sr.new_zeros((), dtype=torch.float32)
        if losses.pixel:
            terms["pixel_g1"] = pixel_loss(generated.sr[:pairs], batch.hr)
            total = total + terms["pixel_g1"]
            if generated.has_g2:
                terms["pixel_g2"] = pixel_loss(generated.refined[:pairs], batch.hr)
                total = total + terms["pixel_g2"]
        if losses.adversarial:
            terms["adversarial"] = adversarial_loss(fake, losses.adversarial_form)
            total = total + losses.alpha * terms["adversarial"]
            if losses.wild_alpha and len(wild_fake):
                terms["adversarial_wild"] = adversarial_loss(wild_fake, losses.adversarial_form)
                total = total + losses.alpha * losses.wild_alpha * terms["adversarial_wild"]
        if losses.classification:
            terms["classification"] = classification_loss(verdict.face_logit, labels)
            total = total + losses.beta * terms["classification"]
        if losses.gamma:
            assert verdict.box is not None
            targets = torch.cat([batch.targets, batch.small_targets])  # [P + N, 4]
            terms["box"] = box_offset_loss(verdict.box, targets, labels)
            total = total + losses.gamma * terms["box"]
        descend(total, self.generator, optimiser, self.runtime)
        return terms

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rates of both optimisers."""
        factor = self.recipe.adversarial_game.discriminator_rate
        for optimiser, own in ((self.generator_optimiser, rate), (self.discriminator_optimiser, rate * factor)):
            if optimiser is not None:
                set_rate(optimiser, own)

    def state_dict(self) -> dict[str, Any]:
        """The state of networks, optimisers and averages, and the number of steps done."""
        self.runtime.average_buffers(self.generator)
        self.runtime.average_buffers(self.discriminator)
        return {"steps_done": self.steps_done, **states_of(self._parts())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of them."""
        restore(self._parts(), state)
        self.steps_done = int(state["steps_done"])

    def evaluate(self) -> dict[str, float]:
        """PSNR and, per stream, how well the face logit separates held-out faces from non-faces."""
        generator, discriminator = self.final_networks()
        judge = Judge(copy.deepcopy(generator), copy.deepcopy(discriminator), self.recipe.crops, self.runtime)
        return {**self.held_out.psnr(generator, self.runtime), **self.held_out.separation(judge)}

    def draw_samples(self, path: Path) -> None:
        """Write a sheet LR | bicubic | G1 | G2 | HR."""
        self.held_out.draw(self.final_networks()[0], self.runtime, path)

    def final_networks(self) -> tuple[AnyGenerator, Discriminator]:
        """The networks to save: the averages, if the recipe has any."""
        live = (self.generator, self.discriminator)
        pairs = zip(self.averages, live, strict=True)
        generator, discriminator = (network if average is None else average.module for average, network in pairs)
        assert isinstance(generator, Generator | BilinearGenerator) and isinstance(discriminator, Discriminator)
        return generator, discriminator

    def _parts(self) -> dict[str, Any]:
        named = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
            **{f"average_{at}": average for at, average in enumerate(self.averages)},
        }
        return {name: part for name, part in named.items() if part is not None}


def train_gan(data: TrainingInput, init: Path, recipe: Recipe, folder: RunFolder, runtime: Runtime) -> list[str]:
    """Run the stage to its end; the folder then holds ``model.safetensors`` of kind ``gan``.

    Args:
        data: images and at least one detector's proposals.
        init: run folder of stage ``mse-init``, or of a stage ``gan`` that is to be trained further.
        recipe: the settings; the sizes must be those of ``init``.
        folder: the run folder.
        runtime: the device and the precision.

    Returns:
        One line per image that could not be read.

    Raises:
        CheckpointError: if ``init`` is of another kind or has other sizes.
    """
    check_trainable(recipe)
    start = load_checkpoint(init, ("generator", "gan"))
    check_fits(start, recipe, init)
    prepared = prepare_patches(data, recipe, folder.patches, runtime)
    fit_gan(prepared, start, recipe, folder, runtime)
    if runtime.is_main:
        finish(folder, prepared)
    return prepared.unreadable


def fit_gan(
    prepared: Prepared[Mapping[str, Patches]], start: Checkpoint, recipe: Recipe, folder: RunFolder, runtime: Runtime
) -> None:
    """Train on patches that have been cut already, and write the weights.

    Args:
        prepared: the patches.
        start: checkpoint of stage ``mse-init`` or ``gan``.
        recipe: the settings; the sizes must be those of ``start``.
        folder: the run folder.
        runtime: the device and the precision.
    """
    seed_everything(recipe.seed)
    stage = Gan(recipe, runtime, HeldOut(prepared.holdout, recipe), start)
    batch_size = stage_batch_size(recipe.gan, runtime)
    batches = BatchSource(
        prepared.training,
        recipe.crops,
        recipe.batches,
        recipe.degradation,
        batch_size,
        recipe.seed,
        runtime.rank,
        runtime.world_size,
    )
    run_loop(stage, batches.draw, recipe.gan, folder, runtime)
    if runtime.is_main:
        generator, discriminator = stage.final_networks()
        tensors = {f"generator.{name}": value for name, value in generator.state_dict().items()}
        tensors |= {f"discriminator.{name}": value for name, value in discriminator.state_dict().items()}
        checkpoint = Checkpoint("gan", to_tree(recipe), tensors, trained_on(prepared) | start.trained_on)
        save_checkpoint(folder.file(WEIGHTS_FILE), checkpoint)


def check_fits(start: Checkpoint, recipe: Recipe, init: Path) -> None:
    """Refuse a checkpoint whose generator or patches differ from the recipe's.

    Raises:
        CheckpointError: naming the first key that differs.
    """
    before = {
        "generator": build_config(GeneratorConfig, start.recipe["generator"]),
        "crops": build_config(CropConfig, start.recipe["crops"]),
    }
    for section, old in before.items():
        check_same(section, old, getattr(recipe, section), init, may_differ=("route_px", "wide_context", "wide_size"))


def check_same(section: str, old: object, new: object, path: Path, may_differ: Sequence[str] = ()) -> None:
    """Refuse a checkpoint of which a section of the config differs from the recipe's.

    Args:
        section: the section's name.
        old: the checkpoint's dataclass of it.
        new: the recipe's.
        path: where the checkpoint is, for the error.
        may_differ: keys that may differ.

    Raises:
        CheckpointError: naming the first key that differs.
    """
    for key, value in vars(old).items():
        if getattr(new, key) != value and key not in may_differ:
            raise CheckpointError(
                f"{path}: was trained with {section}.{key} = {value}, but the config says {getattr(new, key)}; "
                "use the config it was trained with"
            )


def _box_terms(verdict: Judgement, batch: Batch) -> Terms:
    """The discriminator's box losses on P true, P generated, N generated small and M medium pictures, in that order."""
    assert verdict.box is not None
    parts = [len(batch.hr), len(batch.lr), len(batch.small) + len(batch.medium)]
    targets = (batch.targets, batch.targets, torch.cat([batch.small_targets, batch.medium_targets]))
    labels = (batch.labels, batch.labels, torch.cat([batch.small_labels, batch.medium_labels]))
    pictures = zip(("hr", "generated", "wild"), torch.split(verdict.box, parts), targets, labels, strict=True)
    return {f"d_box_{name}": box_offset_loss(boxes, wanted, known) for name, boxes, wanted, known in pictures}


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits > 0) == (labels > 0.5)).float().mean()

"""Stage ``mse-init``: the generator learns super-resolution on the pixel loss alone (Bai et al. 2018, section 4.2).

    tinygan-train --stage mse-init --config lite --data ROOT --extra-images LFW --out runs/mse

2,250 steps of 32 patches, 22 minutes on two CPU cores. The last line of ``metrics.jsonl`` on WIDER-mini, mean RGB PSNR
over held-out faces: bicubic 22.13 dB, G1 23.20, G2 23.24 (``experiments/lite/results.json``).

Shapes: B patches per batch; s = ``lr_size``, S = 4 s = ``hr_size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, save_checkpoint
from tinygan.config import to_tree
from tinygan.data.batches import Batch, BatchSource
from tinygan.data.patches import PAIRED, Patches
from tinygan.errors import ConfigError
from tinygan.losses import PIXEL_LOSSES
from tinygan.models.build import build_generator
from tinygan.models.generator import BilinearGenerator
from tinygan.runtime import Runtime, seed_everything
from tinygan.training.loop import descend, run_loop, set_rate, stage_batch_size
from tinygan.training.prepare import Prepared, TrainingInput, prepare_patches
from tinygan.training.recipe import Recipe
from tinygan.training.run import RunFolder, finish, trained_on
from tinygan.training.samples import HeldOut


class MseInit:
    """The generator and its optimiser.

    Args:
        recipe: the sizes of networks and patches, and the schedule.
        runtime: the device and the precision.
        held_out: held-out patches, for figures and sample pictures.

    Raises:
        ConfigError: if the generator has no weights.
    """

    def __init__(self, recipe: Recipe, runtime: Runtime, held_out: HeldOut) -> None:
        self.runtime, self.held_out = runtime, held_out
        generator = build_generator(recipe.generator)
        if isinstance(generator, BilinearGenerator):
            raise ConfigError(f"generator.form: {recipe.generator.form} has no weights that stage mse-init could train")
        self.generator = generator
        runtime.place(self.generator)
        self.loss = PIXEL_LOSSES[recipe.losses.pixel_form]
        self.optimiser = torch.optim.Adam(self.generator.parameters(), betas=(0.9, 0.999))  # beta 2: not in the paper

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Update the generator once on the pixel losses of G1 and G2 (Eq. 4)."""
        batch = batch.to(self.runtime.device)
        self.generator.train()
        with self.runtime.autocast():
            generated = self.generator(batch.lr)  # [B, 3, s, s] -> G1's and G2's pictures, [B, 3, S, S] each
        terms = {"pixel_g1": self.loss(generated.sr, batch.hr)}
        if generated.has_g2:
            terms["pixel_g2"] = self.loss(generated.refined, batch.hr)
        descend(torch.stack(list(terms.values())).sum(), self.generator, self.optimiser, self.runtime)
        return terms

    def set_learning_rate(self, rate: float) -> None:
        """Set the optimiser's learning rate."""
        set_rate(self.optimiser, rate)

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator and its optimiser."""
        self.runtime.average_buffers(self.generator)
        return {"generator": self.generator.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.generator.load_state_dict(state["generator"])
        self.optimiser.load_state_dict(state["optimiser"])

    def evaluate(self) -> dict[str, float]:
        """PSNR of bicubic, G1 and G2 on held-out patches, in dB."""
        return self.held_out.psnr(self.generator, self.runtime)

    def draw_samples(self, path: Path) -> None:
        """Write a sheet LR | bicubic | G1 | G2 | HR."""
        self.held_out.draw(self.generator, self.runtime, path)


def train_mse_init(data: TrainingInput, recipe: Recipe, folder: RunFolder, runtime: Runtime) -> list[str]:
    """Run the stage to its end; the folder then holds ``model.safetensors`` of kind ``generator``.

    Args:
        data: images; proposals, if given, add further regions.
        recipe: the settings.
        folder: the run folder.
        runtime: the device and the precision.

    Returns:
        One line per image that could not be read.
    """
    prepared = prepare_patches(data, recipe, folder.patches, runtime, streams=(PAIRED,))
    fit_mse_init(prepared, recipe, folder, runtime)
    if runtime.is_main:
        finish(folder, prepared)
    return prepared.unreadable


def fit_mse_init(
    prepared: Prepared[Mapping[str, Patches]], recipe: Recipe, folder: RunFolder, runtime: Runtime
) -> None:
    """Train on patches that have been cut already, and write the weights.

    Args:
        prepared: the patches.
        recipe: the settings.
        folder: the run folder.
        runtime: the device and the precision.
    """
    seed_everything(recipe.seed)
    stage = MseInit(recipe, runtime, HeldOut(prepared.holdout, recipe))
    run_loop(stage, _batches(prepared, recipe, runtime).draw, recipe.mse_init, folder, runtime)
    tensors = {f"generator.{name}": value for name, value in stage.generator.state_dict().items()}
    if runtime.is_main:
        checkpoint = Checkpoint("generator", to_tree(recipe), tensors, trained_on(prepared))
        save_checkpoint(folder.file(WEIGHTS_FILE), checkpoint)


def _batches(prepared: Prepared[Mapping[str, Patches]], recipe: Recipe, runtime: Runtime) -> BatchSource:
    size = stage_batch_size(recipe.mse_init, runtime)
    return BatchSource(
        prepared.training,
        recipe.crops,
        recipe.batches,
        recipe.degradation,
        size,
        recipe.seed,
        runtime.rank,
        runtime.world_size,
    )

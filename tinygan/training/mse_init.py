"""Stage ``mse-init``: the generator learns super-resolution on the pixel loss alone (Bai et al. 2018, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygan.checkpoint import WEIGHTS_FILE, Weights, save_weights
from tinygan.config import to_tree
from tinygan.data.batches import Batch, BatchSource
from tinygan.data.patches import PAIRED, Patches
from tinygan.losses import pixel_loss
from tinygan.models.generator import Generator
from tinygan.runtime import Runtime, seed_everything
from tinygan.training.loop import run_loop, stage_batch_size
from tinygan.training.prepare import Prepared, TrainingInput, prepare_patches
from tinygan.training.recipe import Recipe
from tinygan.training.run import RunFolder, finish, trained_facts
from tinygan.training.samples import HeldOut


class MseInit:
    """The generator and its optimiser.

    Args:
        recipe: sizes and schedule.
        runtime: the device.
        held_out: patches to measure and picture.
    """

    def __init__(self, recipe: Recipe, runtime: Runtime, held_out: HeldOut) -> None:
        self.runtime, self.held_out = runtime, held_out
        self.generator = Generator(recipe.generator)
        runtime.place(self.generator)
        self.optimiser = torch.optim.Adam(self.generator.parameters(), betas=(0.9, 0.999))

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """One update on the pixel loss of G1 and of G2 (Eq. 4)."""
        batch = batch.to(self.runtime.device)
        self.generator.train()
        with self.runtime.autocast():
            generated = self.generator(batch.lr)
        terms = {"pixel_g1": pixel_loss(generated.sr, batch.hr)}
        if self.generator.refine is not None:
            terms["pixel_g2"] = pixel_loss(generated.refined, batch.hr)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.runtime.average_gradients(self.generator)
        self.optimiser.step()
        return terms

    def set_learning_rate(self, rate: float) -> None:
        """Set the optimiser's rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Generator and optimiser."""
        self.runtime.average_buffers(self.generator)
        return {"generator": self.generator.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put both back."""
        self.generator.load_state_dict(state["generator"])
        self.optimiser.load_state_dict(state["optimiser"])

    def evaluate(self) -> dict[str, float]:
        """PSNR of bicubic, G1 and G2 on held-out patches, in dB."""
        return self.held_out.psnr(self.generator, self.runtime)

    def draw_samples(self, path: Path) -> None:
        """A sheet LR | bicubic | G1 | G2 | HR."""
        self.held_out.draw(self.generator, self.runtime, path)


def train_mse_init(data: TrainingInput, recipe: Recipe, folder: RunFolder, runtime: Runtime) -> list[str]:
    """Run the stage to its end; the folder then holds ``model.safetensors`` of kind ``generator``.

    Returns:
        A line for every image that could not be read.
    """
    prepared = prepare_patches(data, recipe, folder.file("patches"), runtime, streams=(PAIRED,))
    seed_everything(recipe.seed)
    stage = MseInit(recipe, runtime, HeldOut(prepared.holdout, recipe))
    run_loop(stage, _batches(prepared, recipe, runtime).draw, recipe.mse_init, folder, runtime)
    tensors = {f"generator.{name}": value for name, value in stage.generator.state_dict().items()}
    weights = Weights("generator", to_tree(recipe), tensors, trained_facts(prepared))
    if runtime.is_main:
        save_weights(folder.file(WEIGHTS_FILE), weights)
        finish(folder, prepared)
    return prepared.unreadable


def _batches(prepared: Prepared[Mapping[str, Patches]], recipe: Recipe, runtime: Runtime) -> BatchSource:
    size = stage_batch_size(recipe.mse_init, runtime)
    return BatchSource(
        prepared.training, recipe.crops, recipe.batches, recipe.degradation, size, recipe.seed, runtime.rank
    )

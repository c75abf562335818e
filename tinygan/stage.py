"""What training stages share: batch size, averaged weights, what a checkpoint remembers, the end of a run."""

from __future__ import annotations

import json
import shutil
from typing import Any, Protocol

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinygan.checkpoint import name_hash
from tinygan.errors import ConfigError
from tinygan.formats.files import write_atomically
from tinygan.loop import FINISHED_FILE, LoopConfig, RunFolder
from tinygan.runtime import Runtime

HOLDOUT_FILE = "holdout.txt"


def stage_batch_size(config: LoopConfig, runtime: Runtime) -> int:
    """Patches in a step on this device.

    Raises:
        ConfigError: if the batch does not divide over the devices.
    """
    if config.batch_size % runtime.world_size:
        raise ConfigError(f"batch_size {config.batch_size} does not divide over {runtime.world_size} devices")
    return config.batch_size // runtime.world_size


def moving_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential average of a network's weights and BN statistics; ``None`` if ``decay`` is 0."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


class Prepared(Protocol):
    """What a stage trained on."""

    @property
    def training_names(self) -> list[str]:
        """Images trained on."""

    @property
    def holdout_names(self) -> list[str]:
        """Images kept out."""

    @property
    def unreadable(self) -> list[str]:
        """A line for every image that could not be read."""


def trained_facts(prepared: Prepared) -> dict[str, Any]:
    """What a checkpoint remembers of its training images, so that fusion can refuse them."""
    return {"trained_on": sorted(name_hash(name) for name in prepared.training_names)}


def finish(folder: RunFolder, prepared: Prepared) -> None:
    """List the hold-out, mark the run finished, and remove its patches."""
    write_atomically(folder.file(HOLDOUT_FILE), "".join(f"{name}\n" for name in prepared.holdout_names).encode())
    summary = {"training_images": len(prepared.training_names), "unreadable": prepared.unreadable}
    write_atomically(folder.file(FINISHED_FILE), json.dumps(summary, indent=1).encode())
    shutil.rmtree(folder.file("patches"), ignore_errors=True)

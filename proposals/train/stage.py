"""One training step of a first stage, and its figures on the hold-out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proposals.detector import DetectorNetwork, PyramidDetector
from proposals.train.recipe import DetectorRecipe, OptimiserConfig, PictureBatch
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import ConfigError, DataError
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import evaluate_wider
from tinygan.formats.images import read_image
from tinygan.pictures import before_after, save_png
from tinygan.runtime import Runtime
from tinygan.training.loop import set_rate
from tinygan.training.run import moving_average

log = logging.getLogger(__name__)
HEIGHTS_PX = (0.0, 24.0, 48.0)


class DetectorStage:
    """The network, its optimiser, and the hold-out it is evaluated on.

    Args:
        network: the network with its first weights, after :func:`freeze`.
        recipe: the losses and the optimiser.
        runtime: the device and the precision.
        images: folder of the hold-out images.
        truths: ``{image name: faces}`` of the images to evaluate on.
    """

    def __init__(
        self,
        network: DetectorNetwork[Any],
        recipe: DetectorRecipe,
        runtime: Runtime,
        images: Path,
        truths: Mapping[str, GroundTruth],
    ) -> None:
        self.network, self._recipe, self._runtime = network, recipe, runtime
        self._images, self._truths = images, truths
        runtime.place(network)
        self.optimiser = build_optimiser(network, recipe.optimiser)
        self.average = moving_average(network, recipe.optimiser.average)
        self._found: dict[str, Detections] = {}

    def step(self, batch: PictureBatch) -> Mapping[str, Tensor]:
        """One update on the weighted sum of the recipe's losses."""
        recipe, device = self._recipe, self._runtime.device
        training_mode(self.network, recipe.optimiser)
        batch = batch.to(device)
        pictures = batch.pictures.contiguous(memory_format=torch.channels_last)
        with self._runtime.autocast():
            output = self.network(pictures)
        terms = recipe.terms(self.network, output, batch)
        self.optimiser.zero_grad(set_to_none=True)
        recipe.weighted_sum(terms).backward()  # type: ignore[no-untyped-call]
        self._runtime.average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optimiser.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return terms

    @property
    def result(self) -> DetectorNetwork[Any]:
        """The network to keep."""
        result = self.network if self.average is None else self.average.module
        assert isinstance(result, DetectorNetwork)
        return result

    def set_learning_rate(self, rate: float) -> None:
        """Set the optimiser's rate."""
        set_rate(self.optimiser, rate)

    def state_dict(self) -> dict[str, Any]:
        """The state of the networks and the optimiser."""
        self._agree()
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        return state if self.average is None else {**state, "average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def evaluate(self) -> dict[str, float]:
        """Exact AP on the hold-out, for faces of at least 0, 24 and 48 px; images at their own size."""
        self._agree()
        if not self._truths:
            return {}
        self._found = self._propose(list(self._truths))
        truths = {name: self._truths[name] for name in self._found}
        result = evaluate_wider(self._found, truth_by_height(truths, HEIGHTS_PX))
        figures = {
            f"ap_{least:g}px": one.ap_exact for least, one in zip(HEIGHTS_PX, result.subsets.values(), strict=True)
        }
        return {name: round(value, 4) for name, value in figures.items() if np.isfinite(value)}

    def draw_samples(self, path: Path) -> None:
        """A hold-out image with many faces: the best boxes, green where they are faces."""
        if not self._found:
            return
        name = sorted(self._found, key=lambda name: abs(int(self._truths[name].usable.sum()) - 15))[0]
        pixels = np.asarray(read_image(self._images / name))
        faces = max(1, int(self._truths[name].usable.sum()))
        found = self._found[name]
        save_png(before_after(pixels, Detections.empty(), found, self._truths[name], faces), path)

    def _agree(self) -> None:
        """Average BN statistics over all processes."""
        for network in (self.network, self.result):
            self._runtime.average_buffers(network)

    def _propose(self, names: Sequence[str]) -> dict[str, Detections]:
        detector = PyramidDetector(self.result, self._recipe.network, self._runtime)
        found = {}
        for name in names:
            try:
                pixels = np.array(read_image(self._images / name))
            except DataError as error:
                log.warning("not measured on: %s", error)
                continue
            (found[name],) = detector.propose([torch.from_numpy(pixels).permute(2, 0, 1)])
        return found


def freeze(network: nn.Module, config: OptimiserConfig) -> None:
    """Exclude the layers of ``config.freeze`` from training.

    Raises:
        ConfigError: if a prefix fits no layer.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in config.freeze:
        if not any(_below(name, prefix) for name in names):
            layers = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ConfigError(f"optimiser.freeze: no layer '{prefix}'; there are {', '.join(layers)}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not any(_below(name, prefix) for prefix in config.freeze))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"optimiser.freeze: {', '.join(config.freeze)} leaves nothing to learn")


def training_mode(network: nn.Module, config: OptimiserConfig) -> None:
    """Switch to training mode, but keep the BN statistics of frozen layers, or of all layers."""
    network.train()
    for name, module in network.named_modules():
        frozen = config.freeze_norm or any(_below(name, prefix) for prefix in config.freeze)
        if frozen and isinstance(module, nn.BatchNorm2d):
            module.eval()


def build_optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """An optimiser with weight decay on convolutions, none on normalisation and biases."""
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in learnt if one.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [one for one in learnt if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=1e-3)
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9)


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")

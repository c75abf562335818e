"""The training loop: steps, files and resuming. It works for any :class:`Stage` and knows nothing of GANs."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tinygan.checkpoint import load_state, save_state
from tinygan.errors import ConfigError, TinyGanError
from tinygan.pictures import loss_curves
from tinygan.runtime import Runtime, restore_rng_state, rng_state
from tinygan.training.board import Board
from tinygan.training.run import CURVES_FILE, STATE_FILE, RunFolder

log = logging.getLogger(__name__)
BatchT = TypeVar("BatchT")
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length and learning rate of a stage.

    Attributes:
        epochs: number of epochs, of ``patches_per_epoch`` patches each (the paper: 6 in stage ``gan``; of stage
            ``mse-init`` no schedule is stated in the paper).
        patches_per_epoch: number of patches drawn per epoch. Not stated in the paper.
        batch_size: number of patches per step, all devices together. Not stated in the paper.
        learning_rate: learning rate at the start (the paper: 1e-4).
        decay: ``step``: x0.1 after half the epochs (the paper: 3 epochs at 1e-4, 3 at 1e-5); ``cosine``: to 0.
        milestones: epochs after each of which ``step`` multiplies the learning rate by 0.1; empty: half the epochs.
        warmup_steps: number of steps, at the start, in which the learning rate rises linearly to its full value.
        warmup_from: learning rate of the first of them; 0: the ``warmup_steps``-th part of the full value.
        log_every: number of steps from one line of ``metrics.jsonl`` to the next.
        save_every: number of steps from one save of the resumable state to the next.
    """

    epochs: int = 6
    patches_per_epoch: int = 60_000
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = ()
    warmup_steps: int = 0
    warmup_from: float = 0.0
    log_every: int = 20
    save_every: int = 200

    def __post_init__(self) -> None:
        for name in ("epochs", "patches_per_epoch", "batch_size", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.milestones and (self.decay == "cosine" or min(self.milestones) < 1):
            raise ValueError(f"milestones are epochs from 1 on, for decay: step alone; got {self.milestones}")
        if not 0 <= self.warmup_from <= self.learning_rate:
            raise ValueError(f"warmup_from lies in [0, learning_rate], got {self.warmup_from}")

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps per epoch."""
        return max(1, self.patches_per_epoch // self.batch_size)

    @property
    def steps(self) -> int:
        """Number of steps of the whole stage."""
        return self.epochs * self.steps_per_epoch

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.learning_rate * self._warmth(step)
        if self.decay == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        drops = self.milestones or (math.ceil(self.epochs / 2),)
        return rate * 0.1 ** sum(step // self.steps_per_epoch >= epoch for epoch in drops)

    def _warmth(self, step: int) -> float:
        """The share of the learning rate that the warm-up allows at a step."""
        if step >= self.warmup_steps:
            return 1.0
        if not self.warmup_from:
            return (step + 1) / self.warmup_steps
        start = self.warmup_from / self.learning_rate
        return start + (1 - start) * step / self.warmup_steps


class Stage(Protocol[BatchT_contra]):
    """What the loop trains: networks, their optimisers, and one training step."""

    def step(self, batch: BatchT_contra) -> Mapping[str, Tensor]:
        """Update the networks once; return each loss term, unweighted, as a scalar."""

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all optimisers."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the networks and optimisers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data, by name; called at the end of each epoch."""

    def draw_samples(self, path: Path) -> None:
        """Write a picture that shows what the networks can do by now."""


def descend(loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer, runtime: Runtime) -> None:
    """Update a network once on a loss, with the gradients of all devices."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    runtime.average_gradients(network)
    optimiser.step()


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def states_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of a stage's networks, optimisers and averages by name."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(parts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Restore what :func:`states_of` returned; ``state`` may hold more."""
    for name, part in parts.items():
        part.load_state_dict(state[name])


def run_loop(
    stage: Stage[BatchT], draw: Callable[[int], BatchT], config: LoopConfig, folder: RunFolder, runtime: Runtime
) -> None:
    """Train ``stage`` to the end of its schedule, continuing from the folder's state if there is one.

    Args:
        stage: the networks, their optimisers and one training step.
        draw: function that returns the batch of a step; it is called from other threads and must be pure.
        config: the schedule.
        folder: the run folder, into which metrics, samples and the resumable state are written.
        runtime: the device and the precision.

    Raises:
        TinyGanError: if a loss, or a weight that is about to be saved, is not finite.
    """
    first = _restore(stage, folder, runtime)
    if runtime.is_main:
        folder.keep_metrics_before(first)
    started = time.monotonic()
    with (
        Prefetcher(draw, first, config.steps) as batches,
        _progress(config, first, runtime) as bar,
        Board(folder.path, first, runtime.is_main) as board,
    ):
        for step, batch in batches:
            stage.set_learning_rate(config.rate_at(step))
            terms = stage.step(batch)
            _check_finite(terms, step)
            last_of_epoch = (step + 1) % config.steps_per_epoch == 0
            if step % config.log_every == 0 or last_of_epoch:
                row = _row(step, config, terms, time.monotonic() - started)
                if last_of_epoch:
                    row.update(stage.evaluate())
                if runtime.is_main:
                    folder.append_metrics(row)
                    board.add(row)
                bar.set_postfix({name: f"{value:.4g}" for name, value in row.items() if name in terms})
            bar.update()
            if runtime.is_main and last_of_epoch:
                stage.draw_samples(folder.sample((step + 1) // config.steps_per_epoch))
                loss_curves(folder.metrics(), folder.file(CURVES_FILE))
            if (step + 1) % config.save_every == 0 or last_of_epoch:
                state: dict[str, Any] = {
                    "step": step + 1,
                    "stage": stage.state_dict(),
                    "rng": rng_state(runtime.device),
                }  # on every device
                _check_saved(state["stage"], step)
                if runtime.is_main:
                    save_state(folder.file(STATE_FILE), state)


class Prefetcher(Generic[BatchT]):
    """Draws the next batches on other threads while the networks train.

    Args:
        draw: function that returns the batch of a step.
        first: number of the first step.
        steps: number of the last step plus one.
        ahead: largest number of batches that are drawn before they are needed.
    """

    def __init__(self, draw: Callable[[int], BatchT], first: int, steps: int, ahead: int = 4) -> None:
        self._draw, self._first, self._steps, self._ahead = draw, first, steps, ahead
        self._pool = ThreadPoolExecutor(max_workers=2)

    def __enter__(self) -> Iterator[tuple[int, BatchT]]:
        return self._iterate()

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _iterate(self) -> Iterator[tuple[int, BatchT]]:
        waiting: deque[tuple[int, Future[BatchT]]] = deque()
        for step in range(self._first, self._steps + self._ahead):
            if step < self._steps:
                waiting.append((step, self._pool.submit(self._draw, step)))
            if waiting and (len(waiting) >= self._ahead or step >= self._steps):
                number, batch = waiting.popleft()
                yield number, batch.result()


def _restore(stage: Stage[Any], folder: RunFolder, runtime: Runtime) -> int:
    file = folder.file(STATE_FILE)
    if not file.is_file():
        return 0
    state = load_state(file)
    stage.load_state_dict(state["stage"])
    restore_rng_state(state["rng"], runtime.device)
    log.info("resuming at step %d", state["step"])
    return int(state["step"])


def _check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    if torch.stack(list(terms.values())).isfinite().all():
        return
    name = next(name for name, value in terms.items() if not value.isfinite())
    raise _diverged(f"loss '{name}' is {float(terms[name])} at step {step}")


def _check_saved(state: Mapping[str, Any], step: int) -> None:
    """A loss shows the weights of before its step: those after it may be spoilt, and would replace the last good ones.

    Raises:
        TinyGanError: naming the first tensor that is not finite.
    """
    for name, tensor in _tensors(state, ""):
        if not tensor.isfinite().all():
            raise _diverged(f"'{name}' is not finite after step {step}")


def _tensors(tree: object, above: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state, nested in any way, with their names."""
    if isinstance(tree, Tensor):
        yield above, tree
    elif isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(value, f"{above}.{key}".lstrip("."))


def _diverged(what: str) -> TinyGanError:
    return TinyGanError(
        f"{what}: the training diverged; the last good state is kept; start again with a lower learning_rate, or with "
        "--precision 32"
    )


def _row(step: int, config: LoopConfig, terms: Mapping[str, Tensor], seconds: float) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in terms.items()}
    return {"step": step, "learning_rate": config.rate_at(step), "seconds": round(seconds, 1), **values}


def _progress(config: LoopConfig, first: int, runtime: Runtime) -> tqdm[Any]:
    return tqdm(total=config.steps, initial=first, unit="step", disable=None if runtime.is_main else True)


def stage_batch_size(config: LoopConfig, runtime: Runtime) -> int:
    """Number of patches per step on this device.

    Raises:
        ConfigError: if the batch cannot be divided evenly among the devices.
    """
    if config.batch_size % runtime.world_size:
        raise ConfigError(f"batch_size {config.batch_size} does not divide over {runtime.world_size} devices")
    return config.batch_size // runtime.world_size

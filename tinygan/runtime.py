"""Device, precision, seeds and several devices: the only module that knows CUDA, autocast and Fabric."""

from __future__ import annotations

import logging
import os
import random
import time
import timeit
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tinygan.errors import ConfigError

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every choice of ours
Precision = Literal["auto", "bf16", "32"]
CPUINFO = Path("/proc/cpuinfo")
CLEARLY, ROUNDS = 0.9, 10  # share of the time; measurements of each


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Where and how networks run.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``bf16`` (autocast), ``32``, or ``auto``: bf16 on GPUs that multiply it natively, and on CPUs that do
            and are measured to be faster by it.
        threads: CPU threads; ``None`` for as many as there are cores.
    """

    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None

    def exact(self) -> RuntimeOptions:
        """The same in single precision, unless bf16 was asked for: what first stages run in.

        bf16 moves boxes of a few pixels, which costs 0.4 points of AP on WIDER-mini, and depthwise convolutions take a
        third longer in it on a CPU.
        """
        return replace(self, precision="32") if self.precision == "auto" else self


class Runtime:
    """One process's device. Under ``torchrun`` several of them train together.

    Args:
        options: what the user asked for.

    Raises:
        ConfigError: if the device does not exist.
    """

    def __init__(self, options: RuntimeOptions) -> None:
        torch.set_num_threads(options.threads or available_cores())
        accelerator, devices = _pick_device(options.device)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        self.precision = "bf16" if options.precision == "bf16" or _prefers_bf16(options, accelerator) else "32"
        self._fabric = Fabric(
            accelerator=accelerator,
            devices=local if world > 1 else devices,
            num_nodes=max(world // max(local, 1), 1),
            strategy="ddp" if world > 1 else "auto",
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
        )
        self._fabric.launch()

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._fabric.device

    @property
    def rank(self) -> int:
        """This process's number among all."""
        return int(self._fabric.global_rank)

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return int(self._fabric.world_size)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and progress."""
        return self.rank == 0

    def place(self, module: nn.Module) -> None:
        """Move a network to the device, channels-last (which bf16 convolutions want)."""
        module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run."""
        context: AbstractContextManager[Any] = self._fabric.autocast()
        return context

    def average_gradients(self, module: nn.Module) -> None:
        """Average gradients over all processes; nothing to do with one."""
        if self.world_size == 1:
            return
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad = self._mean(parameter.grad)

    def average_buffers(self, module: nn.Module) -> None:
        """Average BN statistics over all processes; nothing to do with one."""
        if self.world_size == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self._mean(buffer))

    def _mean(self, tensor: Tensor) -> Tensor:
        mean = self._fabric.all_reduce(tensor, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def barrier(self) -> None:
        """Wait for all processes."""
        self._fabric.barrier()


def available_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that weights start equal on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Tensor]:
    """The random state of torch on all devices."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _pick_device(name: str) -> tuple[str, int | list[int]]:
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this machine or this build of torch has no CUDA device; use --device cpu")
    if kind == "cpu" or not torch.cuda.is_available():
        return "cpu", 1
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return "cuda", [int(number or 0)]


def _prefers_bf16(options: RuntimeOptions, accelerator: str) -> bool:
    if options.precision != "auto":
        return False
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        with CPUINFO.open(encoding="ascii", errors="replace") as cpuinfo:
            flags = cpuinfo.read(20_000)
    except OSError:
        return False
    return ("avx512_bf16" in flags or "amx_bf16" in flags) and bf16_is_faster()


@cache
def bf16_is_faster() -> bool:
    """Whether this CPU convolves faster in bf16, measured in CPU time, which other processes hardly touch.

    The instructions alone do not tell: where the matrix unit is missing, or hidden by a virtual machine, bf16 may take
    twice the time of single precision.
    """
    seconds: dict[torch.dtype, float] = {}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for dtype in (torch.float32, torch.bfloat16):
                picture, filters = (torch.ones(shape, dtype=dtype) for shape in ((16, 64, 16, 16), (64, 64, 3, 3)))
                picture = picture.to(memory_format=torch.channels_last)
                convolve = partial(nn.functional.conv2d, picture, filters, padding=1)
                convolve()
                taken = timeit.timeit(convolve, timer=time.process_time, number=1)
                seconds[dtype] = min(taken, seconds.get(dtype, taken))
    return seconds[torch.bfloat16] < CLEARLY * seconds[torch.float32]

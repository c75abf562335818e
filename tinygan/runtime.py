"""Device, precision, threads, seeds and several devices: the only module that knows CUDA, autocast and Fabric."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tinygan.concurrency import ordered_map
from tinygan.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item")
Result = TypeVar("Result")
Device: TypeAlias = "str | int | torch.device | None"
Precision = Literal["auto", "bf16", "32"]
Backend = Literal["torch", "onnxruntime", "openvino"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
AHEAD = 4  # calls side by side per thread, whose results wait or are still to come
CPUINFO = Path("/proc/cpuinfo")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Exported:
    """A folder of networks that ``tinygan-export --format openvino`` wrote, and what a run notes of them.

    Attributes:
        folder: where they are, one ``<name>.xml`` and ``.bin`` per network.
        precision: ``int8`` if one of them computes in it, or ``32`` for single precision.
        weights: :meth:`tinygan.checkpoint.Checkpoint.digest` of the weights that they were made from.
        digest: SHA-256 of the files.
    """

    folder: Path
    precision: Literal["int8", "32"]
    weights: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Where and how networks run.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``bf16`` (autocast), ``32``, or ``auto``: bf16 on GPUs that multiply it natively, on CPUs with a
            matrix unit for it (AMX) and on AMD's with AVX512-BF16, which judge 1.5 times as fast in it; else 32. Other
            CPUs that have bf16 in their vector instructions only may take twice the time.
        threads: number of CPU threads of torch in this process; ``None`` leaves it as the host program set it. Commands
            use :func:`command_threads`.
        backend: what runs trained networks: ``torch``, or on CPUs ``onnxruntime`` or ``openvino``.
        exported: networks of the second stage that backend ``openvino`` reads instead of making them from the
            checkpoint; :func:`tinygan.models.exported.open_exported` opens them.
    """

    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    backend: Backend = "torch"
    exported: Exported | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend {self.backend}: expected {', '.join(BACKENDS)}")
        if self.exported is not None and self.backend != "openvino":
            raise ConfigError(
                f"{self.exported.folder}: exported networks are for backend openvino, got backend {self.backend}"
            )
        if self.backend == "torch":
            return
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"backend {self.backend} computes on the CPU alone, got device {self.device}; use cpu")
        if self.backend == "onnxruntime" and self.precision == "bf16":
            raise ConfigError("backend onnxruntime has no precision bf16 on CPUs; use 32, or backend openvino")

    def exact(self) -> RuntimeOptions:
        """These options, but in single precision unless the user chose bf16; first stages are trained with them."""
        return self.of_first_stage(half=False)

    def of_first_stage(self, half: bool) -> RuntimeOptions:
        """These options for a first stage, whose networks are never read from a folder.

        Args:
            half: whether its boxes are as good in bf16. A YuNet's are; of a RetinaFace bf16 shifts boxes of a few
                pixels, which costs 0.4 points of AP on WIDER-mini.
        """
        single = self.precision == "auto" and not half
        return replace(self, precision="32" if single else self.precision, exported=None)


class Runtime:
    """The device of one process. Under ``torchrun`` several processes train together.

    Args:
        options: the device, precision and threads that the user chose.

    Attributes:
        options: what the user chose.
        device: the device of this process.
        precision: ``bf16`` or ``32``; decided by the machine alone, so that equal commands give equal results.
        exported: networks that are read, not made.
        backend: ``torch``, ``onnxruntime`` or ``openvino``.
        threads: number of CPU threads that networks run on.
        rank: number of this process, from 0.
        world_size: number of processes that train together.

    Raises:
        ConfigError: if the device does not exist.
    """

    def __init__(self, options: RuntimeOptions) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options = options
        self.backend, self.threads, self.exported = options.backend, torch.get_num_threads(), options.exported
        self.device = _pick_device(options.device if self.backend == "torch" else "cpu")
        self.rank, self.world_size = 0, int(os.environ.get("WORLD_SIZE", "1"))
        self._fabric: Fabric | None = None
        if self.world_size > 1:
            self._fabric = _join_processes(self.device.type, self.world_size)
            self.device, self.rank = self._fabric.device, int(self._fabric.global_rank)
        self.precision = _decide_precision(options.precision, self.device, self.backend)
        self._process = os.getpid()

    def __str__(self) -> str:
        count = self.threads
        backend = "" if self.backend == "torch" else f", {self.backend}"
        if self.exported is not None:
            backend += f" with networks in {self.exported.precision} of {self.exported.folder}"
        return f"{self.device}, {count} thread{'' if count == 1 else 's'}, precision {self.precision}{backend}"

    def settings(self) -> dict[str, str]:
        """What of the runtime a result depends on, for a run to note; one with other settings is not continued."""
        backend: str = self.backend
        if self.exported is not None:
            backend += f" with networks in {self.exported.precision}, SHA-256 {self.exported.digest[:16]}"
        return {"precision": self.precision, "backend": backend}

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def place(self, module: nn.Module) -> None:
        """Move a network to the device, channels-last, the faster layout for convolutions.

        On one thread PyTorch hands 1x1 convolutions of fewer than 16 pictures to a routine of its own that leaves this
        layout, so that every map is copied there and back. Dilated ones it hands to oneDNN, as all others. Dilation
        changes nothing in a filter of one pixel; a YuNet takes two thirds of the time.
        """
        module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.dilation = (2, 2)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context in which forward passes run, including the code that prepares their input and reads their output.

        In a process forked from the one that made this runtime, they run on one thread: torch's own threads exist in
        the parent only, and the child would wait for them forever.
        """
        half = torch.autocast(self.device.type, dtype=torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with half, nullcontext() if os.getpid() == self._process else one_thread():
            yield

    @property
    def side_by_side(self) -> int:
        """How many calls of networks are worth running at the same time by :func:`on_own_threads`."""
        alone = self.backend != "torch" or self.device.type != "cpu" or os.getpid() != self._process
        return 1 if alone else self.threads

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
        assert self._fabric is not None
        mean = self._fabric.all_reduce(tensor, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def barrier(self) -> None:
        """Wait for all processes."""
        if self._fabric is not None:
            self._fabric.barrier()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone; afterwards the setting is restored."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def on_own_threads(function: Callable[[Item], Result], items: Iterable[Item], side_by_side: int) -> Iterator[Result]:
    """Like ``map``, with several calls at the same time, in each of which torch computes on one thread alone.

    A layer of a small network is too little work to be shared: a second core that shared each saved ``tinygan-rescore``
    a twentieth of its time, one with chunks of its own saves a quarter. Results do not depend on how many run at once.

    Args:
        function: what runs networks; it must allow several threads to call it.
        items: its arguments; read lazily, few ahead.
        side_by_side: number of calls at the same time; 1: here, on as many threads as torch has.
    """
    if side_by_side == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    try:
        ahead = AHEAD * side_by_side  # enough for others to go on beside one that takes long
        yield from ordered_map(function, items, side_by_side, ahead, partial(torch.set_num_threads, 1))
    finally:
        torch.set_num_threads(threads)  # of threads that start later


def command_threads(requested: int | None = None) -> int:
    """How many CPU threads a command uses.

    Args:
        requested: the number given by ``--threads``, or ``None``.

    Returns:
        The number requested; without one, the least of these: the number of cores that this process may use,
        ``OMP_NUM_THREADS`` if it is set, and the CPU quota of its control groups (containers), rounded up.
    """
    if requested is not None:
        return requested
    limits = [available_cores(), *map(math.ceil, _quotas())]
    wanted = (
        os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    )  # OpenMP allows a list, one number per level of nesting
    if wanted.isdigit():
        limits.append(int(wanted))
    return max(1, min(limits))


def available_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that weights start equal on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The random state of torch on the CPU and on a device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def device_name(device: Device) -> str:
    """A device as :class:`RuntimeOptions` names it; a number N is ``cuda:N``, ``None`` is ``auto``."""
    if device is None:
        return "auto"
    return f"cuda:{device}" if isinstance(device, int) else str(device)


def _pick_device(name: str) -> torch.device:
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this machine or this build of torch has no CUDA device; use --device cpu")
    if kind == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", int(number or 0))


def _join_processes(kind: str, world: int) -> Fabric:
    """Join the other processes of ``torchrun``. Fabric takes a second to import, so it is imported only here."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every choice of ours
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=max(world // max(local, 1), 1), strategy="ddp")
    fabric.launch()
    return fabric


def _decide_precision(requested: Precision, device: torch.device, backend: Backend) -> Literal["bf16", "32"]:
    """``bf16`` or ``32``, by a rule that depends on the machine alone, so that equal commands give equal results."""
    if requested != "auto":
        return requested
    if backend == "onnxruntime":
        return "32"
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = set(_text(CPUINFO).split())
        native = "amx_bf16" in flags or {"AuthenticAMD", "avx512_bf16"} <= flags
    return "bf16" if native else "32"


def _quotas() -> Iterator[float]:
    """CPU quotas, in cores, of this process's control groups (cgroup v1 and v2) and of all their parent groups."""
    for line in _text(OWN_CGROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for group in (
            inside,
            *inside.parents,
        ):  # in a container the path may be the host's, of which only the root exists
            if controllers:
                folder = CGROUPS / "cpu" / group
                words = [*_text(folder / "cpu.cfs_quota_us").split(), *_text(folder / "cpu.cfs_period_us").split()]
            else:
                words = _text(CGROUPS / group / "cpu.max").split()
            if len(words) == 2 and words[0].isdigit():  # without a quota: "max", or -1
                yield int(words[0]) / int(words[1])


def _text(file: Path) -> str:
    """The text of one of the kernel's files; empty if there is no such file."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

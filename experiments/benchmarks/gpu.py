"""How many regions per second the judges of ``lite`` take on a GPU: single precision, bf16, channels-last, compiled.

    python -m experiments.benchmarks.gpu --out runs/benchmarks

Takes less than nine minutes and writes each row as soon as it is known; after ``--minutes`` no further one is begun.
Crops come as bytes from pinned memory, as they would from cutting. ``--device cpu`` tries the script without a GPU. We
had none: nothing of this was measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.benchmarks.networks import LOOKS, gflop
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.files import write_atomically
from tinygan.models.graphs import Graph
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.graphs import second_stage_graphs


class Way(NamedTuple):
    """How a network runs."""

    half: bool = False
    channels_last: bool = False
    compiled: bool = False


WAYS = {
    "f32": Way(),
    "f32, channels-last": Way(channels_last=True),
    "bf16": Way(half=True),
    "bf16, channels-last": Way(half=True, channels_last=True),
    "bf16, channels-last, compiled": Way(half=True, channels_last=True, compiled=True),
}


@dataclass(frozen=True)
class Row:
    """One judge, one way, one batch size.

    Attributes:
        look: which judge.
        way: a key of :data:`WAYS`.
        batch: regions at once.
        rois_per_s: regions per second of wall time, with their transfer.
        tflop_s: arithmetic per second, a multiplication and an addition counted as two.
        peak: that as a share of a product of large matrices in the same precision.
        error: the largest difference of a face logit from that in single precision.
    """

    look: str
    way: str
    batch: int
    rois_per_s: float
    tflop_s: float
    peak: float
    error: float


def measure_all(device: str, batches: Sequence[int], seconds: float, until: float) -> Iterator[Row]:
    """A row for every judge, batch size and way.

    Args:
        device: where the networks run, as ``--device`` of the commands.
        batches: regions at once.
        seconds: how long each is measured, after a call that does not count.
        until: value of :func:`time.monotonic` after which no further row is begun.
    """
    runtimes = {
        half: Runtime(RuntimeOptions(device=device, precision="bf16" if half else "32")) for half in (False, True)
    }
    peaks = {half: _matrix_flops(runtime, seconds) for half, runtime in runtimes.items()}
    for look in LOOKS:
        for batch in batches:
            exact: Tensor | None = None
            for name, way in WAYS.items():
                if time.monotonic() > until:
                    return
                weights = load_checkpoint(packaged_weights("lite"), ("fused",))
                graph = next(one for one in second_stage_graphs(weights) if one.name == look)
                work = gflop(graph) * 1e9
                run = _judge(graph, way, runtimes[way.half], batch)
                logits = run()
                exact = logits if exact is None else exact
                speed = batch / _seconds_per_call(run, seconds)
                error = float((logits - exact).abs().max())
                share = speed * work / peaks[way.half]
                yield Row(
                    look, name, batch, round(speed), round(speed * work / 1e12, 3), round(share, 4), round(error, 4)
                )


def _judge(graph: Graph, way: Way, runtime: Runtime, batch: int) -> Callable[[], Tensor]:
    """A function that sends a batch to the device, judges it, and leaves the face logits there."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = graph.network.to(runtime.device, memory_format=layout)  # type: ignore[call-overload]
    if way.compiled:
        network = torch.compile(network)
    generator = torch.Generator().manual_seed(0)
    sides = [int(port.shape[-1]) for port in graph.inputs]
    pixels = [torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, generator=generator) for side in sides]
    if runtime.device.type != "cpu":
        pixels = [each.pin_memory() for each in pixels]

    @torch.inference_mode()
    def run() -> Tensor:
        sent = [each.to(runtime.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255 for each in pixels]
        with runtime.autocast():
            face_logits: Tensor = network(*(each.contiguous(memory_format=layout) for each in sent))[0]
        return face_logits.float()

    return run


def _matrix_flops(runtime: Runtime, seconds: float) -> float:
    side, kind = 512 if runtime.device.type == "cpu" else 8192, torch.bfloat16 if runtime.precision == "bf16" else None
    left, right = (torch.rand(side, side, device=runtime.device, dtype=kind) for _ in range(2))
    return 2 * side**3 / _seconds_per_call(lambda: left @ right, seconds)


def _seconds_per_call(run: Callable[[], Tensor], seconds: float) -> float:
    """Mean wall time of calls, which follow one another without waiting, ten at a time."""
    _wait(run())
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        _wait([run() for _ in range(10)][-1])
        calls += 10
    return (time.perf_counter() - started) / calls


def _wait(result: Tensor) -> None:
    """Until the device has computed it, and all before it."""
    result.flatten()[:1].cpu()


def main(argv: Sequence[str] | None = None) -> int:
    """Print rows and write ``gpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no further row is begun")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    until = time.monotonic() + 60 * arguments.minutes
    for row in measure_all(arguments.device, arguments.batch_size, arguments.seconds, until):
        rows.append(row)
        print(
            f"{row.look:12} {row.way:30} {row.batch:5d} at once: {row.rois_per_s:9.0f} regions/s, "
            f"{row.tflop_s:8.3f} TFLOP/s, {row.peak:5.1%} of a matrix product, logits within {row.error:g}",
            flush=True,
        )
        report = {"device": arguments.device, "torch": torch.__version__, "rows": [asdict(one) for one in rows]}
        write_atomically(arguments.out / "gpu.json", (json.dumps(report, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

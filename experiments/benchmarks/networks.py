"""Time of the networks that ship by every backend, side by side in one run.

    python -m experiments.benchmarks.networks --out runs/benchmarks [--exported exported]

Takes a minute. Backends that are not installed are left out. All run in turn, and the least CPU time of each counts, so
that other work on the machine tells little.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.errors import CheckpointError, MissingDependency
from tinygan.files import write_atomically
from tinygan.models.backends import deploy
from tinygan.models.exported import open_exported
from tinygan.models.graphs import Graph
from tinygan.proposers import choose_proposer
from tinygan.runtime import Backend, Exported, Precision, Runtime, RuntimeOptions
from tinygan.second_stage.graphs import second_stage_graphs

WAYS: dict[str, tuple[Backend, Precision]] = {
    "torch f32": ("torch", "32"),
    "torch bf16": ("torch", "bf16"),
    "onnxruntime f32": ("onnxruntime", "32"),
    "OpenVINO f32": ("openvino", "32"),
    "OpenVINO bf16": ("openvino", "bf16"),
    "OpenVINO int8": ("openvino", "32"),
}
LOOKS = {"judge": "first look, per region", "second_judge": "second look, per region"}
FIRST_STAGES = ("retinaface", "yunet")
PICTURE = (768, 1024)  # height and width


@dataclass(frozen=True)
class Row:
    """A network by one backend.

    Attributes:
        network: what was run.
        way: backend and precision.
        ms: least CPU time per region or picture.
        ratio: that of torch in single precision over it.
        gflop_s: arithmetic per second of CPU time, a multiplication and an addition counted as two; of a judge alone.
        peak: that as a share of what this machine reaches in a product of large matrices in single precision.
    """

    network: str
    way: str
    ms: float
    ratio: float
    gflop_s: float | None = None
    peak: float | None = None


def time_judges(batch: int, repeats: int, threads: int, exported: Exported | None = None) -> list[Row]:
    """Time the judges of both looks of ``lite`` per region; the crops lie in memory, as bytes.

    Args:
        batch: regions at once.
        repeats: how often each network runs.
        threads: CPU threads.
        exported: int8 networks, if there are any.
    """
    weights, peak = load_checkpoint(packaged_weights("lite"), ("fused",)), gemm_gflop_s(repeats)
    rows = []
    for name, meaning in LOOKS.items():
        runs = {}
        for way, (backend, precision) in WAYS.items():
            networks = exported if way.endswith("int8") else None
            if way.endswith("int8") and networks is None:
                continue
            runtime = Runtime(
                RuntimeOptions(device="cpu", precision=precision, backend=backend, threads=threads, exported=networks)
            )
            judge = next(
                one for one in second_stage_graphs(weights) if one.name == name
            )  # a backend may change its layout
            sides = [int(port.shape[-1]) for port in judge.inputs]
            inputs = [  # stored channels-last
                torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2) for side in sides
            ]
            try:
                runs[way] = _run(deploy(judge, runtime), inputs, runtime)
            except MissingDependency as missing:
                print(missing)
        work = gflop(judge)
        for row in _rows(meaning, fastest(runs, repeats), batch):
            speed = work / row.ms * 1000
            rows.append(replace(row, gflop_s=round(speed, 1), peak=round(speed / peak, 3)))
    return rows


def gflop(graph: Graph) -> float:
    """Arithmetic of a network per example, in GFLOP."""
    examples = graph.examples()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        graph.network(*examples)
    return float(counter.get_total_flops()) / len(examples[0]) / 1e9


def gemm_gflop_s(repeats: int, side: int = 1024) -> float:
    """What the product of two large matrices in single precision reaches, in GFLOP per second of CPU time.

    The better of two libraries: that of matrices and, by a convolution of 1 x 1, that of convolutions.
    """
    left, right = torch.rand(side, side), torch.rand(side, side)
    weight = torch.rand(side // 4, side // 4, 1, 1)
    picture = torch.rand(16, side // 4, 32, 32).to(memory_format=torch.channels_last)  # as many sums of products
    products = {"matrices": lambda: left @ right, "convolution": lambda: torch.nn.functional.conv2d(picture, weight)}
    with torch.inference_mode():
        return 2 * side**3 / min(fastest(products, max(repeats, 5)).values()) / 1e9


def time_first_stage(name: str, weights: Path | None, repeats: int, threads: int) -> list[Row]:
    """Time a whole first stage, with NMS, per picture of 1024 x 768 px; bf16 is not for it."""
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *PICTURE), dtype=np.uint8))
    runs: dict[str, Callable[[], object]] = {}
    for way, (backend, precision) in WAYS.items():
        if precision == "bf16" or way.endswith("int8"):
            continue
        runtime = Runtime(RuntimeOptions(device="cpu", precision=precision, backend=backend, threads=threads))
        try:
            proposer = choose_proposer(name, weights, overrides=["overview_px=0"]).build(runtime)
        except MissingDependency as missing:
            print(missing)
            continue
        runs[way] = partial(proposer.propose, [picture])
    return _rows(f"{name}, per picture", fastest(runs, repeats), 1)


def fastest(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least CPU seconds of each function, called in turn ``repeats`` times after a call that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - started)
    return {name: min(times) for name, times in seconds.items()}


def _run(network: Callable[..., Sequence[Tensor]], inputs: list[Tensor], runtime: Runtime) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> object:
        with runtime.autocast():
            return network(*inputs)

    return run


def _rows(network: str, seconds: Mapping[str, float], count: int) -> list[Row]:
    plain = seconds["torch f32"]
    return [Row(network, way, round(1000 * one / count, 3), round(plain / one, 2)) for way, one in seconds.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and write ``networks.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--yunet", type=Path, help="weights of YuNet, which is left out without them")
    parser.add_argument("--exported", type=Path, help="int8 judges of tinygan-export, which are left out without them")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    exported = None if arguments.exported is None else open_exported(arguments.exported)
    rows = time_judges(arguments.batch_size, arguments.repeats, arguments.threads, exported)
    for name, weights in (("retinaface", None), ("yunet", arguments.yunet)):
        try:
            rows += time_first_stage(name, weights, arguments.repeats, arguments.threads)
        except CheckpointError as error:
            print(f"left out: {error}")
    report = {"machine": f"{platform.machine()}, {arguments.threads} thread(s)", "rows": [asdict(row) for row in rows]}
    write_atomically(arguments.out / "networks.json", (json.dumps(report, indent=1) + "\n").encode())
    print_rows(rows)
    return 0


def print_rows(rows: Sequence[Row]) -> None:
    """A line per network and backend."""
    for row in rows:
        speed = "" if row.gflop_s is None else f"  {row.gflop_s:6.1f} GFLOP/s  {row.peak:5.0%} of a matrix product"
        print(f"{row.network:26}  {row.way:16} {row.ms:8.2f} ms  {row.ratio:5.2f}x{speed}")


if __name__ == "__main__":
    raise SystemExit(main())

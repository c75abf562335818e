"""Time and peak memory of ``tinygan-evaluate`` as a user runs it: start-up, reading and figures.

    python -m experiments.benchmarks.run --out runs/benchmarks
    python -m experiments.benchmarks.run --out runs/benchmarks --ground-truth EVAL --detections D

Takes about 3 minutes. The first form draws a million detections on 3,226 images and evaluates them as CSV and as an
archive of a folder. The second also evaluates detections of yours against WIDER FACE's official files, without and with
``--details`` and ``--baseline``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tinygan.detections import Detections, GroundTruth
from tinygan.files import write_atomically
from tinygan.formats.tabular import save_csv
from tinygan.formats.wider import format_ground_truth
from tinygan.formats.writing import write_wider

IMAGES, FACES, BOXES = 3226, 12, 310  # faces and boxes per image: a million boxes in all
COMMAND = [sys.executable, "-c", "from tinygan.cli.evaluate import main; raise SystemExit(main())"]


@dataclass(frozen=True)
class Timing:
    """One command, the fastest of several runs.

    Attributes:
        name: description of what was run.
        limit_s: largest time it may take in seconds; None without a limit.
        seconds: wall-clock time from start to exit.
        cpu_seconds: processor time, which says more where the machine has other work.
        peak_mb: largest resident memory.
    """

    name: str
    limit_s: float | None
    seconds: float
    cpu_seconds: float
    peak_mb: float


def draw_crowd(folder: Path, images: int = IMAGES) -> tuple[Path, Path, Path]:
    """Draw faces and detections of them at random, from a seed.

    Args:
        folder: where to write.
        images: number of images.

    Returns:
        The ground truth (``*_bbx_gt.txt``), the detections as CSV and as ``.tar.gz``.
    """
    rng = np.random.default_rng(0)
    truth, found = {}, {}
    for number in range(images):
        name = f"{number % 61}--Event/image_{number}.jpg"
        corner = rng.uniform(0, 900, (FACES, 2))
        faces = np.concatenate([corner, corner + rng.uniform(8, 120, (FACES, 1)) * [0.8, 1.0]], axis=1)
        truth[name] = GroundTruth(faces.round(), np.zeros(FACES, dtype=np.bool_))
        strays = rng.uniform(0, 900, (BOXES - FACES, 2))
        boxes = np.concatenate([strays, strays + rng.uniform(8, 120, (BOXES - FACES, 1))], axis=1)
        scores = np.concatenate([rng.beta(4, 2, FACES), rng.beta(1, 8, BOXES - FACES)])
        moved = np.concatenate([faces + rng.normal(0, 2, faces.shape), boxes])
        found[name] = Detections(np.concatenate([moved[:, :2], np.maximum(moved[:, :2], moved[:, 2:])], axis=1), scores)
    paths = folder / "crowd_bbx_gt.txt", folder / "crowd.csv", folder / "crowd.tar.gz"
    write_atomically(paths[0], format_ground_truth(truth).encode())
    save_csv(paths[1], found)
    write_wider(paths[2], found)
    return paths


def measure(
    name: str,
    arguments: Sequence[str],
    limit_s: float | None = None,
    repeats: int = 3,
    command: Sequence[str] = COMMAND,
) -> Timing:
    """Run a command several times and keep the fastest.

    Args:
        name: what is done, for the table.
        arguments: of the command.
        limit_s: what it may take.
        repeats: number of runs.
        command: default: ``tinygan-evaluate``.

    Raises:
        RuntimeError: if the command fails.
    """
    seconds, cpu_seconds, peak_mb = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            raise RuntimeError(f"{name}: {' '.join(arguments)} failed with {process.returncode}")
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(usage.ru_utime + usage.ru_stime)
        peak_mb.append(usage.ru_maxrss / 1024)
    return Timing(name, limit_s, min(seconds), min(cpu_seconds), max(peak_mb))


def time_crowd(folder: Path, repeats: int) -> list[Timing]:
    """Time the evaluation of a million drawn detections."""
    truth, table, archive = map(str, draw_crowd(folder))
    common = ["wider", "--ground-truth", truth, "--detections"]
    return [
        measure("start-up (--help)", ["--help"], None, repeats),
        measure("1 million detections, CSV", [*common, table], 60.0, repeats),
        measure("1 million detections, .tar.gz", [*common, archive], None, repeats),
    ]


def time_own(ground_truth: Path, detections: Path, repeats: int) -> list[Timing]:
    """Time the evaluation of one's own detections."""
    plain = ["wider", "--ground-truth", str(ground_truth), "--detections", str(detections)]
    against = [*plain, "--baseline", str(detections)]
    return [
        measure(f"{detections.name}", plain, 6.0, repeats),
        measure(f"{detections.name}, --details", [*plain, "--details"], None, repeats),
        measure(f"{detections.name}, --baseline", against, None, repeats),
        measure(f"{detections.name}, --baseline --details", [*against, "--details"], None, 1),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and write ``results.json``; 1 if a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--ground-truth", type=Path)
    parser.add_argument("--detections", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    if (arguments.ground_truth is None) != (arguments.detections is None):
        parser.error("--ground-truth and --detections go together")
    arguments.out.mkdir(parents=True, exist_ok=True)
    timings = time_crowd(arguments.out, arguments.repeats)
    if arguments.detections is not None:
        timings += time_own(arguments.ground_truth, arguments.detections, arguments.repeats)
    missed = [timing for timing in timings if timing.limit_s is not None and timing.seconds > timing.limit_s]
    machine = f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}, Python {platform.python_version()}"
    report = {"machine": machine, "timings": [asdict(timing) for timing in timings]}
    write_atomically(arguments.out / "results.json", (json.dumps(report, indent=1) + "\n").encode())
    print(machine)
    for timing in timings:
        limit = "" if timing.limit_s is None else f"  (limit {timing.limit_s:.0f} s)"
        cpu = f"{timing.cpu_seconds:7.2f} s CPU"
        print(f"{timing.seconds:7.2f} s  {cpu}  {timing.peak_mb:6.0f} MB  {timing.name}{limit}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

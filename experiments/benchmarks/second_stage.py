"""How fast the second stage is, and how its time and memory grow.

    python -m experiments.benchmarks.second_stage --out runs/benchmarks [--exported exported] [--large]

First ``tinygan-rescore`` as a user runs it, on pictures tiled from a photograph, with more and more images, boxes and
megapixels: CPU time and peak memory. Then the judges by every backend, side by side
(:mod:`experiments.benchmarks.networks`). Takes 2 minutes of CPU time; with ``--large``, up to 1,000 images, 100,000
boxes and 100 megapixels, 6.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from experiments.benchmarks.networks import print_rows, time_judges
from experiments.benchmarks.run import measure
from tinygan.detections import Detections, FloatArray
from tinygan.files import write_atomically
from tinygan.formats.writing import write_wider
from tinygan.models.exported import open_exported

COMMAND = [sys.executable, "-W", "ignore", "-c", "from tinygan.cli.rescore import main; raise SystemExit(main())"]
USUAL = {"images": 10, "boxes": 50, "megapixels": 1.0}
GROWTH: dict[str, tuple[float, ...]] = {
    "images": (10, 30, 100),
    "boxes": (10, 100, 1000, 10_000),
    "megapixels": (1, 4, 12, 25),
}
LARGE = {"images": 1000, "boxes": 100_000, "megapixels": 100}
TILE, FACE = 256, (85, 35, 140, 100)  # px: side of the photograph, and where its face is


@dataclass(frozen=True)
class Point:
    """A run of ``tinygan-rescore``.

    Attributes:
        grows: which of the three numbers is larger than usual.
        images: number of images, all links to one file.
        boxes: boxes per image; the second stage judges 600 at most.
        megapixels: size of an image.
        cpu_seconds: processor time from start to exit.
        peak_mb: largest resident memory.
    """

    grows: str
    images: int
    boxes: int
    megapixels: float
    cpu_seconds: float
    peak_mb: float


def draw(folder: Path, images: int, boxes: int, megapixels: float) -> tuple[Path, Path]:
    """Tile a photograph of a face, and draw boxes, half of them near faces.

    Args:
        folder: where to write.
        images: number of images.
        boxes: boxes per image.
        megapixels: size of an image, of the shape 4:3.

    Returns:
        The folder of images, and that of proposals.
    """
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    tile = np.asarray(Image.fromarray(data.astronaut()).resize((TILE, TILE)))
    rows, columns = -(-height // TILE), -(-width // TILE)
    (folder / "images").mkdir(parents=True)
    first = folder / "images/0.jpg"
    Image.fromarray(np.tile(tile, (rows, columns, 1))[:height, :width]).save(first, quality=90)
    rng = np.random.default_rng(0)
    near: FloatArray = np.array(FACE) + TILE * np.stack(
        [rng.integers(0, columns, boxes), rng.integers(0, rows, boxes)] * 2, axis=1
    )
    near = near + rng.normal(0, 4, (boxes, 4))
    corner = rng.uniform(0, 1, (boxes, 2)) * [width - 60, height - 60]
    found = np.where(rng.random((boxes, 1)) < 0.5, near, np.concatenate([corner, corner + 40], axis=1))
    proposals = {}
    for number in range(images):
        if number:
            (folder / f"images/{number}.jpg").symlink_to(first.resolve())
        proposals[str(number)] = Detections(found, rng.beta(1, 6, boxes))
    write_wider(folder / "proposals", proposals)
    return folder / "images", folder / "proposals"


def run_point(folder: Path, grows: str, value: float, options: Sequence[str] = ()) -> Point:
    """Draw pictures and rescore them; every box within the limit of 600 is judged.

    Args:
        folder: where to draw.
        grows: a key of :data:`USUAL`.
        value: its value.
        options: further ones of ``tinygan-rescore``.
    """
    size = {**USUAL, grows: value}
    images, boxes = int(size["images"]), int(size["boxes"])
    if grows != "images":
        images = 2
    pictures, proposals = draw(folder, images, boxes, size["megapixels"])
    words = ["--images", str(pictures), "--proposals", str(proposals), "--out", str(folder / "out"), "--threads", "1"]
    words += ["--set", "least_log_odds=null", "--set", "calibration=none", "--max-pixels", str(10**9), *options]
    timing = measure(f"{grows} {value:g}", words, repeats=1, command=COMMAND)
    return Point(grows, images, boxes, size["megapixels"], round(timing.cpu_seconds, 2), round(timing.peak_mb))


def judged(point: Point) -> int:
    """Number of boxes that a run judged."""
    return point.images * min(point.boxes, 600)


def plot(points: Sequence[Point], file: Path) -> None:
    """CPU time and peak memory against each number, both axes logarithmic but memory's."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(GROWTH), figsize=(12, 6))
    for column, grows in enumerate(GROWTH):
        own = [point for point in points if point.grows == grows]
        sizes = [getattr(point, grows) for point in own]
        panels[0, column].loglog(sizes, [point.cpu_seconds for point in own], "o-")
        panels[1, column].semilogx(sizes, [point.peak_mb for point in own], "o-")
        panels[1, column].set_ylim(bottom=0)
        panels[1, column].set_xlabel(
            {"boxes": "boxes per image", "megapixels": "megapixels per image"}.get(grows, grows)
        )
    panels[0, 0].set_ylabel("CPU seconds")
    panels[1, 0].set_ylabel("peak memory, MB")
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables; write ``second_stage.json`` and ``second_stage.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--exported", type=Path, help="int8 judges of tinygan-export, which are left out without them")
    parser.add_argument("--large", action="store_true", help="also 1,000 images, 100,000 boxes and 100 megapixels")
    parser.add_argument("--repeats", type=int, default=10, help="of the networks")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    exported = None if arguments.exported is None else open_exported(arguments.exported)
    report: dict[str, object] = {"machine": platform.machine()}
    points = grow(arguments.large)  # first: a command's peak memory is at least that of the process that starts it
    report["growth"] = [asdict(point) for point in points]
    rows = time_judges(arguments.batch_size, arguments.repeats, 1, exported)
    report["networks"] = [asdict(row) for row in rows]
    print_rows(rows)
    write_atomically(arguments.out / "second_stage.json", (json.dumps(report, indent=1) + "\n").encode())
    plot(points, arguments.out / "second_stage.png")
    return 0


def grow(large: bool) -> list[Point]:
    """Run and print all points of :data:`GROWTH`, and of :data:`LARGE` if asked."""
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        for grows, values in GROWTH.items():
            for value in (*values, LARGE[grows]) if large else values:
                points.append(run_point(Path(folder) / f"{grows}_{value:g}", grows, value))
                print(format_point(points[-1]), flush=True)
    for grows in ("images", "megapixels"):
        print(format_fit([point for point in points if point.grows == grows]))
    return points


def format_fit(points: Sequence[Point]) -> str:
    """The straight line through the times of one number's growth."""
    grows = points[0].grows
    sizes, seconds = np.array([[getattr(point, grows), point.cpu_seconds] for point in points]).T
    slope, start = np.polyfit(sizes, seconds, 1)
    left = ((seconds - slope * sizes - start) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    return f"{grows}: {start:.1f} s + {slope:.3f} s each, R² {1 - left:.3f}"


def format_point(point: Point) -> str:
    """A line of the table."""
    return (
        f"{point.images:5d} images x {point.boxes:6d} boxes, {point.megapixels:5.1f} MP: "
        f"{point.cpu_seconds:7.1f} s of CPU, {1000 * point.cpu_seconds / judged(point):6.1f} ms per judged box, "
        f"{point.peak_mb:5.0f} MB"
    )


if __name__ == "__main__":
    raise SystemExit(main())

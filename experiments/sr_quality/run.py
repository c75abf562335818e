"""PSNR and SSIM of bicubic, G1 and G2 on faces of WIDER_val, and a sheet LR | bicubic | G1 | G2 | HR.

    python -m experiments.sr_quality.run --checkpoint runs/mse --data ROOT --out runs/sr_quality

Every usable face whose crop (``context`` x its longer side) is at least ``hr_size`` px wide is cut at its annotated
box, shrunk 4x (clean bicubic) and super-resolved; figures are means over patches.

With ``--mse RUN --proposals P`` it makes the full table of :mod:`experiments.sr_quality.table` instead, on the hold-out
of WIDER_train and on LFW, in two minutes on one core; ``--checkpoint`` is then the run folder of stage ``gan``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinygan.boxes import longer_side
from tinygan.checkpoint import load_checkpoint
from tinygan.config import build_config
from tinygan.data.cutting import CropConfig, DegradationConfig, cut_patch, make_lr, upscale
from tinygan.data.patches import PAIRED, SMALL, stream_of
from tinygan.detections import ByteArray
from tinygan.errors import DataError, TinyGanError
from tinygan.evaluate.image_quality import psnr, ssim
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.wider import load_split
from tinygan.models.build import load_generator
from tinygan.models.pixels import to_bytes
from tinygan.pictures import save_png, sr_sheet
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.samples import generate

Figures = dict[str, dict[str, float]]


def measure(checkpoint: Path, root: Path, limit: int | None = None, rows: int = 8) -> tuple[Figures, ByteArray]:
    """Measure a checkpoint's generator on WIDER_val.

    Args:
        checkpoint: run folder or file of any kind.
        root: WIDER FACE root.
        limit: largest number of faces, taken at even spacing; ``None``: all.
        rows: number of faces of each kind on the sheet.

    Returns:
        ``{picture: {"psnr": dB, "ssim": …, "patches": N}}``, and the sheet: clean faces above, wild ones below.
    """
    weights = load_checkpoint(checkpoint, ("generator", "gan", "fused"))
    crops = build_config(CropConfig, weights.recipe["crops"])
    runtime, generator = Runtime(RuntimeOptions()), load_generator(weights)
    runtime.place(generator)
    faces = cut_faces(root, crops)
    hr = faces[PAIRED] if limit is None else faces[PAIRED][:: max(1, -(-len(faces[PAIRED]) // limit))]
    if not len(hr):
        raise DataError(f"{root}: no face of WIDER_val has a crop of {crops.hr_size} px or more")
    rng = np.random.default_rng(0)
    lr = np.stack([make_lr(patch, DegradationConfig(), rng) for patch in hr])
    pictures = _pictures(generator, runtime, lr)
    figures = {name: _mean_quality(hr, pictures[name]) for name in ("bicubic", "G1", "G2")}
    wild = faces[SMALL][:: max(1, len(faces[SMALL]) // rows)][:rows]
    sheet = _rows(pictures, hr, rows)
    if len(wild):
        sheet += _rows(_pictures(generator, runtime, wild), None, rows)
    return figures, sr_sheet(sheet)


def cut_faces(root: Path, crops: CropConfig) -> dict[str, ByteArray]:
    """The usable faces of WIDER_val at their annotated boxes: ``paired`` at hr_size, ``small`` at lr_size."""
    split = load_split(root, "val")
    cut: dict[str, list[ByteArray]] = {PAIRED: [], SMALL: []}
    for name, truth in split.faces.items():
        if not truth.usable.any():
            continue
        image = read_image(split.images / name)
        squares = crops.squares(truth.boxes[truth.usable], image.width, image.height)
        for square, side_px in zip(squares, longer_side(squares), strict=True):
            stream = stream_of(side_px, crops)
            if stream in cut:
                cut[stream].append(cut_patch(image, square, crops.hr_size if stream == PAIRED else crops.lr_size))
    sizes = {PAIRED: crops.hr_size, SMALL: crops.lr_size}
    return {
        stream: np.stack(patches) if patches else np.zeros((0, sizes[stream], sizes[stream], 3), np.uint8)
        for stream, patches in cut.items()
    }


def _pictures(generator, runtime: Runtime, lr: ByteArray) -> dict[str, ByteArray]:  # type: ignore[no-untyped-def]
    generated = generate(generator, lr, runtime)
    bicubic = np.stack([upscale(patch) for patch in lr])
    return {"LR": lr, "bicubic": bicubic, "G1": to_bytes(generated.sr), "G2": to_bytes(generated.refined)}


def _mean_quality(hr: ByteArray, picture: ByteArray) -> dict[str, float]:
    pairs = [(a.astype(np.float32) / 255, b.astype(np.float32) / 255) for a, b in zip(hr, picture, strict=True)]
    return {
        "psnr": float(np.mean([psnr(a, b) for a, b in pairs])),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
        "patches": len(pairs),
    }


def _rows(pictures: dict[str, ByteArray], hr: ByteArray | None, count: int) -> list[dict[str, ByteArray | None]]:
    total = len(pictures["LR"])
    chosen = range(0, total, max(1, total // count))[:count]
    return [
        {**{name: stack[row] for name, stack in pictures.items()}, "HR": None if hr is None else hr[row]}
        for row in chosen
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; write ``results.json`` and ``sheet.png`` into ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--limit", type=int, help="faces measured; of each source and size in the full table")
    parser.add_argument("--mse", type=Path, metavar="RUN", help="stage mse-init: asks for the full table")
    parser.add_argument("--proposals", type=Path, nargs="+", default=[], help="full table: detectors to rescore")
    parser.add_argument("--lfw", type=Path, metavar="DIR", help="full table: pictures of LFW")
    arguments = parser.parse_args(argv)
    if (arguments.mse is None) != (not arguments.proposals):
        parser.error("the full table needs --mse RUN and --proposals P")
    try:
        if arguments.mse is not None:
            return _full(arguments)
        figures, sheet = measure(arguments.checkpoint, arguments.data, arguments.limit)
    except TinyGanError as error:
        print(f"sr_quality: error: {error}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "results.json", json.dumps(figures, indent=1).encode())
    save_png(sheet, arguments.out / "sheet.png")
    for name, figure in figures.items():
        print(f"{name:8s}  PSNR {figure['psnr']:.2f} dB  SSIM {figure['ssim']:.4f}  over {figure['patches']} faces")
    return 0


def _full(arguments: argparse.Namespace) -> int:
    from experiments.sr_quality.table import Inputs, full_table, markdown

    table = full_table(
        Inputs(
            arguments.mse, arguments.checkpoint, arguments.data, arguments.lfw, arguments.proposals,
            arguments.limit or 300,
        )
    )  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "table.json", json.dumps(table, indent=1).encode())
    write_atomically(arguments.out / "table.md", markdown(table).encode())
    print(markdown(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

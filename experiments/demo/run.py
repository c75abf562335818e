"""The whole path in one command: train small networks, rescore, evaluate, show. ``make demo-train`` runs it.

    python -m experiments.demo.run --out runs/demo [--data ROOT --proposals P]

Takes about 7 minutes on two cores. Without ``--data`` it first draws the sample crowd set. Figures on that set show
that every step works, no more, and are labelled "sample". Every step is a command as a user would type it; steps that
an earlier run finished are not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.demo.crowd import make_crowd
from experiments.sr_quality.run import Figures, measure
from tinygan.boxes import iou
from tinygan.cli import evaluate as evaluate_command
from tinygan.cli import rescore as rescore_command
from tinygan.cli import train as train_command
from tinygan.cli.common import SOME_SKIPPED
from tinygan.detections import Detections, GroundTruth
from tinygan.formats.images import read_image
from tinygan.formats.names import match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.pictures import before_after, save_png

CONFIG = Path(__file__).parent / "demo.yaml"
COMMANDS = {
    "tinygan-train": train_command.main,
    "tinygan-rescore": rescore_command.main,
    "tinygan-evaluate": evaluate_command.main,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole demonstration; returns 1 if inputs were skipped, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, help="WIDER FACE root; default: the sample crowd set, made here")
    parser.add_argument("--proposals", type=Path, help="a first stage's proposals on its images")
    parser.add_argument("--config", default=str(CONFIG), help="training preset (default: demo.yaml)")
    arguments = parser.parse_args(argv)
    if (arguments.data is None) != (arguments.proposals is None):
        parser.error("give both --data and --proposals (make demo-train DATA=… PROPOSALS=…), or neither")
    started = time.monotonic()
    root, proposals = arguments.data, arguments.proposals
    out: Path = arguments.out if root is None else arguments.out / _folder_name(root, proposals)
    if root is None:
        root, proposals = _sample(out)
    codes = [_step(*words) for words in _steps(root, proposals, out, arguments.config)]
    faithful, _ = measure(out / "mse", root, limit=400)
    sharpened, sheet = measure(out / "gan", root, limit=400)
    save_png(sheet, out / "sheet.png")
    _picture(root, proposals, out)
    figures = {"bicubic": faithful["bicubic"]}
    for stage, of_stage in (("mse-init", faithful), ("gan", sharpened)):
        figures |= {f"{name}, {stage}": of_stage[name] for name in ("G1", "G2")}
    label = "the sample crowd set (drawn: a sample)" if arguments.data is None else str(arguments.data)
    _table(out, figures, label, time.monotonic() - started)
    return max(codes)


def _folder_name(root: Path, proposals: Path) -> str:
    """A folder for each pair of inputs, so that one data set's models are never taken for another's."""
    inputs = f"{root.resolve()} {proposals.resolve()}"
    return f"{root.resolve().name}-{hashlib.sha256(inputs.encode()).hexdigest()[:6]}"


def _sample(out: Path) -> tuple[Path, Path]:
    root, proposals = out / "crowd" / "data", out / "crowd" / "proposals"
    if not root.exists():
        print("making the sample crowd set", flush=True)
        make_crowd(root, proposals)
    return root, proposals


def _steps(root: Path, proposals: Path, out: Path, config: str) -> Iterator[list[str]]:
    """The five commands of the main job, as words."""
    train = ["tinygan-train", "--data", str(root), "--resume", "--stage"]
    detector = ["--proposals", str(proposals)]
    subset = str(root / "wider_face_split" / "wider_face_val_bbx_gt.txt")
    mse, gan, fused, rescored = (str(out / name) for name in ("mse", "gan", "fused", "rescored"))
    yield [*train, "mse-init", "--config", config, "--out", mse]
    yield [*train, "gan", "--config", config, *detector, "--init", mse, "--out", gan]
    yield [*train, "fusion", *detector, "--init", gan, "--out", fused]
    yield [
        "tinygan-rescore", *detector, "--images", str(root / "WIDER_val" / "images"), "--subset", subset,
        "--checkpoint", fused, "--out", rescored, "--report", str(out / "rescore.json"), "--overwrite", "--no-opinion",
    ]  # fmt: skip
    yield [
        "tinygan-evaluate", "wider", "--detections", rescored, "--baseline", str(proposals), "--ground-truth", subset,
        "--json", str(out / "evaluation.json"), "--plot", str(out / "precision_recall.png"),
    ]  # fmt: skip


def _step(name: str, *arguments: str) -> int:
    """Run a command as a user would and show what was typed; returns 0, or 1 if inputs were skipped."""
    print(f"\n$ {name} {' '.join(arguments)}", flush=True)
    code = COMMANDS[name](arguments)
    if code > SOME_SKIPPED:
        raise SystemExit(code)
    return code


def _picture(root: Path, proposals: Path, out: Path) -> None:
    """Boxes before and after on two crowded val images: the one that gains most, and the median one."""
    split = load_split(root, "val")
    files_before, files_after = open_detections(proposals), open_detections(out / "rescored")
    before, after = match_names(files_before, split.faces), match_names(files_after, split.faces)
    crowded = [name for name in before if name in after and split.faces[name].usable.sum() >= 4]
    if not crowded:
        return
    gains = {
        name: _hits(files_after[after[name]], split.faces[name]) - _hits(files_before[before[name]], split.faces[name])
        for name in crowded
    }
    ranked = sorted(gains, key=lambda name: gains[name])
    for label, name in (("best", ranked[-1]), ("typical", ranked[len(ranked) // 2])):
        truth = split.faces[name]
        picture = before_after(
            np.asarray(read_image(split.images / name)),
            files_before[before[name]],
            files_after[after[name]],
            truth,
            top=int(truth.usable.sum()),
        )
        save_png(picture, out / f"before_after_{label}.png")


def _hits(detections: Detections, truth: GroundTruth) -> float:
    """Share of the faces found among as many best-scored boxes as there are faces."""
    faces = truth.boxes[truth.usable]
    best = detections.sorted()[: len(faces)]
    return float((iou(best.boxes, faces).max(axis=0, initial=0.0) >= 0.5).mean()) if len(faces) else 0.0


def _table(out: Path, figures: Figures, label: str, seconds: float) -> None:
    """The one table: AP before, after and their difference; PSNR of bicubic, G1 and G2."""
    evaluation = json.loads((out / "evaluation.json").read_text())
    print(f"\nResults on {label}, {seconds / 60:.1f} minutes in all")
    print(f"  {'exact AP':14s} {'before':>8s} {'after':>8s} {'points':>8s}  95 % interval")
    for name, change in evaluation["difference"]["subsets"].items():
        before, after = (evaluation[role]["subsets"][name]["ap_exact"] for role in ("baseline", "detections"))
        interval = f"[{change['low']:+.1f}, {change['high']:+.1f}]"
        print(f"  {name:14s} {before:8.3f} {after:8.3f} {change['points']:+8.1f}  {interval}")
    print(
        f"  {'super-resolution':14s} {'PSNR dB':>6s} {'SSIM':>8s}   mean over {figures['bicubic']['patches']:.0f} faces"
    )
    for name, figure in figures.items():
        print(f"  {name:14s} {figure['psnr']:8.2f} {figure['ssim']:8.3f}")
    print("Pictures:", *(str(path) for path in sorted(out.glob("*.png"))), sep="\n  ")


if __name__ == "__main__":
    raise SystemExit(main())

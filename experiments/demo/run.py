"""The main job on one screen: train small, rescore, evaluate, show. ``make demo`` runs this.

    python -m experiments.demo.run --out runs/demo [--data ROOT --proposals P]

Without ``--data`` it makes the sample crowd set first; its figures show that every step works, no
more, and are labelled "sample". Every step is the command a user would type; steps that an earlier
run finished are reused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.demo.crowd import make_crowd
from experiments.sr_quality.run import Figures, measure
from tinygan.boxes import iou
from tinygan.cli import evaluate as evaluate_command
from tinygan.cli import rescore as rescore_command
from tinygan.cli import train as train_command
from tinygan.detections import Detections, GroundTruth
from tinygan.formats.files import open_detections
from tinygan.formats.images import read_image
from tinygan.formats.names import match_names
from tinygan.formats.wider import load_split
from tinygan.viz import before_after, save_png

CONFIG = Path(__file__).parent / "demo.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole demonstration; returns the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, help="WIDER FACE root; default: the sample crowd set, made here")
    parser.add_argument("--proposals", type=Path, help="a first stage's proposals on its images")
    parser.add_argument("--config", default=str(CONFIG), help="training preset (default: demo.yaml)")
    arguments = parser.parse_args(argv)
    if (arguments.data is None) != (arguments.proposals is None):
        parser.error("give both --data and --proposals (make demo DATA=… PROPOSALS=…), or neither")
    started = time.monotonic()
    root, proposals = arguments.data, arguments.proposals
    out: Path = arguments.out if root is None else arguments.out / _folder_name(root, proposals)
    if root is None:
        root, proposals = _sample(out)
    code = _train(root, proposals, out, arguments.config) or _rescore(root, proposals, out)
    if code:
        return code
    figures, sheet = measure(out / "gan", root, limit=400)
    save_png(sheet, out / "sheet.png")
    _picture(root, proposals, out)
    _table(
        out,
        figures,
        "the sample crowd set (a sample: drawn, not photographed)" if arguments.data is None else str(arguments.data),
        time.monotonic() - started,
    )
    return 0


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


def _train(root: Path, proposals: Path, out: Path, config: str) -> int:
    common = ["--data", str(root), "--resume"]
    with_proposals = [*common, "--proposals", str(proposals)]
    return (
        _step(train_command.main, "--stage", "mse-init", "--config", config, *common, "--out", str(out / "mse"))
        or _step(
            train_command.main, "--stage", "gan", "--config", config, *with_proposals,
            "--init", str(out / "mse"), "--out", str(out / "gan"),
        )
        or _step(
            train_command.main, "--stage", "fusion", *with_proposals,
            "--init", str(out / "gan"), "--out", str(out / "fused"),
        )
    )  # fmt: skip


def _rescore(root: Path, proposals: Path, out: Path) -> int:
    subset = str(root / "wider_face_split" / "wider_face_val_bbx_gt.txt")
    return _step(
        rescore_command.main, "--proposals", str(proposals), "--images", str(root / "WIDER_val" / "images"),
        "--out", str(out / "rescored"), "--checkpoint", str(out / "fused"), "--subset", subset,
        "--report", str(out / "rescore.json"), "--overwrite",
    ) or _step(
        evaluate_command.main, "wider", "--detections", str(out / "rescored"), "--baseline", str(proposals),
        "--ground-truth", subset, "--json", str(out / "evaluation.json"), "--plot", str(out / "precision_recall.png"),
    )  # fmt: skip


def _step(command: Callable[[Sequence[str]], int], *arguments: str) -> int:
    """Run a command as a user would, and show what was typed."""
    name = command.__module__.rpartition(".")[2]
    print(f"\n$ tinygan-{name} {' '.join(arguments)}", flush=True)
    return command(arguments)


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
    print(f"  {'super-resolution':14s} {'PSNR dB':>6s} {'SSIM':>8s}   mean over {figures['G2']['patches']:.0f} faces")
    for name, figure in figures.items():
        print(f"  {name:14s} {figure['psnr']:8.2f} {figure['ssim']:8.3f}")
    print("Pictures:", *(str(path) for path in sorted(out.glob("*.png"))), sep="\n  ")


if __name__ == "__main__":
    raise SystemExit(main())

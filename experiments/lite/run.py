"""The recipe of the shipped ``lite`` checkpoint, from the data to its figures, in one command.

    python -m experiments.lite.run --data ROOT --proposals P1 P2 P3 --extra-images LFW --out runs/lite

Every step is the command a user would type; finished steps are reused and a cut-off one goes on, so the
command can be repeated until it is through. Steps: ``look`` (sheets of patches), ``mse``, ``gan`` and
``fusion`` (the model that ships), ``widths`` (short runs of three discriminators), ``unseen`` (a copy that never
saw the last detector), ``report`` (WIDER_val, once, at the end; the only step that reads it).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.lite import look
from experiments.lite.flops import giga_flops
from experiments.lite.holdout import holdout_gains
from experiments.lite.report import compare, format_table, truth_of
from experiments.sr_quality import run as sr_quality
from tinygan.cli import rescore as rescore_command
from tinygan.cli import train as train_command
from tinygan.cli.common import SOME_SKIPPED
from tinygan.formats.files import open_detections, write_atomically
from tinygan.formats.wider import load_split
from tinygan.loop import FINISHED_FILE, METRICS_FILE

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "tinygan-train": train_command.main,
    "tinygan-rescore": rescore_command.main,
    "experiments.lite.look": look.main,
    "experiments.sr_quality.run": sr_quality.main,
}
SHORT = "gan.epochs=2"
WIDTHS = {  # discriminators beside the shipped one, whose short run is "gan_standard"
    "narrow": "[8,32,64,96,128]",
    "narrowest": "[8,16,32,64,96]",
}
RUNS = ("mse", "gan", "gan_standard", "gan_unseen", "gan_narrow", "gan_narrowest")
STEPS = ("look", "mse", "gan", "fusion", "unseen", "widths", "report")


@dataclass
class Inputs:
    """What the command was given, and what it found out."""

    data: Path
    proposals: Sequence[Path]
    extra_images: Path | None
    out: Path
    config: str
    results: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str) -> Path:
        """A run folder."""
        return self.out / name

    def detector(self, path: Path) -> str:
        """A detector's name: that of its file."""
        return path.name.partition(".")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--proposals", type=Path, nargs="+", required=True, help="two detectors or more")
    parser.add_argument("--extra-images", type=Path, help="further pictures of faces for stage mse-init, such as LFW")
    parser.add_argument("--out", type=Path, default=Path("runs/lite"))
    parser.add_argument("--config", default="lite")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    arguments = parser.parse_args(argv)
    if len(arguments.proposals) < 2:
        parser.error("--proposals: give two detectors or more; the last one is the unseen one")
    inputs = Inputs(arguments.data, arguments.proposals, arguments.extra_images, arguments.out, arguments.config)
    results = arguments.out / "results.json"
    if results.is_file():
        inputs.results = json.loads(results.read_text())
    steps = {"look": _look, "mse": _mse, "gan": _gan, "fusion": _fusion}
    steps |= {"unseen": _unseen, "widths": _widths, "report": _report}
    for name in STEPS:
        if name in arguments.steps:
            steps[name](inputs)
            inputs.results["training"] = {run: found for run in RUNS if (found := _training(inputs.run(run)))}
            write_atomically(results, json.dumps(inputs.results, indent=1).encode())
    return 0


def _look(inputs: Inputs) -> None:
    _do("experiments.lite.look", "--data", inputs.data, "--proposals", *inputs.proposals, "--config", inputs.config,
        "--out", inputs.run("look"))  # fmt: skip


def _mse(inputs: Inputs) -> None:
    extra = [] if inputs.extra_images is None else ["--extra-images", inputs.extra_images]
    _do("tinygan-train", "--stage", "mse-init", "--config", inputs.config, "--data", inputs.data, *extra,
        "--out", inputs.run("mse"), "--resume")  # fmt: skip


def _gan(inputs: Inputs) -> None:
    _train(inputs, "gan", inputs.proposals, [])


def _fusion(inputs: Inputs) -> None:
    _fuse(inputs, "gan", inputs.proposals)


def _unseen(inputs: Inputs) -> None:
    """A shorter run of the same networks that never sees the last detector, in two parts."""
    _train(inputs, "gan_standard", inputs.proposals[:-1], [SHORT])
    _train(inputs, "gan_unseen", inputs.proposals[:-1], ["gan.epochs=3"], init="gan_standard")
    _fuse(inputs, "gan_unseen", inputs.proposals[:-1])


def _widths(inputs: Inputs) -> None:
    """As short, with other discriminators; every figure on the hold-out."""
    for name, widths in WIDTHS.items():
        _train(inputs, f"gan_{name}", inputs.proposals[:-1], [SHORT, f"discriminator.lite_widths={widths}"])
    runs = {
        "narrowest": "gan_narrowest",
        "narrow": "gan_narrow",
        "standard": "gan_standard",
        "shipped, full length": "gan",
    }
    inputs.results["widths"] = {
        label: {
            "giga_flops": giga_flops(inputs.run(name)),
            "holdout": holdout_gains(inputs.run(name), inputs.data, inputs.proposals),
        }
        for label, name in runs.items()
        if (inputs.run(name) / "model.safetensors").is_file()
    }


def _report(inputs: Inputs) -> None:
    """WIDER_val: before and after with the shipped fusion, and with the copy on the detector it never saw."""
    subset = inputs.data / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    split = load_split(inputs.data, "val")
    names = list(split.faces)
    truth = truth_of(inputs.data, split, names)

    def after(run: str, path: Path) -> Path:
        out = inputs.run(f"val_{run}_{inputs.detector(path)}")
        _do("tinygan-rescore", "--proposals", path, "--images", inputs.data / "WIDER_val" / "images",
            "--subset", subset, "--checkpoint", inputs.run(run), "--out", out, "--report", f"{out}.json",
            "--overwrite")  # fmt: skip
        return out

    def table(run: str, paths: Sequence[Path]) -> dict[str, Any]:
        pairs = {inputs.detector(p): (open_detections(p), open_detections(after(run, p))) for p in paths}
        compared = compare(pairs, truth, names)
        print(f"\n{run}, {subset.name}, {len(names)} images: points of exact AP, 95 % intervals")
        print(format_table(compared), flush=True)
        return compared

    inputs.results["giga_flops"] = giga_flops(inputs.run("fused"))
    inputs.results["val"] = table("fused", inputs.proposals)
    inputs.results["val_pooled_without_first"] = compare(
        {
            inputs.detector(p): (open_detections(p), open_detections(inputs.run(f"val_fused_{inputs.detector(p)}")))
            for p in inputs.proposals[1:]
        },
        truth,
        names,
    ).get("pooled")
    inputs.results["val_unseen"] = table("fused_unseen", inputs.proposals[-1:])
    _do("experiments.sr_quality.run", "--checkpoint", inputs.run("fused"), "--data", inputs.data,
        "--out", inputs.run("sr_quality"))  # fmt: skip


def _training(run: Path) -> dict[str, float] | None:
    """Length of a finished run and its last figures on the hold-out: PSNR in dB, area under the ROC curve."""
    if not (run / FINISHED_FILE).is_file():
        return None
    rows = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    figures = {name: round(value, 4) for name, value in rows[-1].items() if name.startswith(("psnr", "auc"))}
    return {"steps": rows[-1]["step"] + 1, "minutes": round(rows[-1]["seconds"] / 60, 1), **figures}


def _train(inputs: Inputs, run: str, proposals: Sequence[Path], settings: Sequence[str], init: str = "mse") -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    _do("tinygan-train", "--stage", "gan", "--config", inputs.config, *options, "--data", inputs.data,
        "--proposals", *proposals, "--init", inputs.run(init), "--out", inputs.run(run), "--resume")  # fmt: skip


def _fuse(inputs: Inputs, run: str, proposals: Sequence[Path]) -> None:
    _do("tinygan-train", "--stage", "fusion", "--data", inputs.data, "--proposals", *proposals,
        "--init", inputs.run(run), "--out", inputs.run(run.replace("gan", "fused")), "--resume")  # fmt: skip


def _do(name: str, *arguments: object) -> None:
    """Run a command as a user would and show what was typed."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {name} {' '.join(words)}", flush=True)
    code = COMMANDS[name](words)
    if code > SOME_SKIPPED:
        raise SystemExit(code)


if __name__ == "__main__":
    raise SystemExit(main())

"""The recipe of the shipped ``lite`` checkpoint, from the data to its figures, in one command.

    python -m experiments.lite.run --data ROOT --proposals P1 P2 P3 --also P4 P5 --extra-images LFW --surroundings W \
        --out runs/lite

Every step is the command a user would type; finished steps are reused and a cut-off one goes on, so the
command can be repeated until it is through. Steps: ``look`` (sheets of patches), ``mse``, ``gan``, ``judge``,
``second_look`` (a narrow copy of it), ``first_look`` and ``fusion`` (the model that ships, ``lite.safetensors``),
``widths`` (short runs of three discriminators), ``unseen`` (a copy that never saw the detectors of ``--also``), and at
the end, the only steps that read WIDER_val, ``report`` (what ships) and ``report_unseen`` (the copy, behind those
detectors).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.lite import left_out, look
from experiments.lite.flops import giga_flops
from experiments.lite.holdout import holdout_gains
from experiments.lite.report import compare, format_table, truth_of
from experiments.sr_quality import run as sr_quality
from experiments.steps import do, training_figures
from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli import rescore as rescore_command
from tinygan.cli import train as train_command
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "tinygan-train": train_command.main,
    "tinygan-rescore": rescore_command.main,
    "experiments.lite.left_out": left_out.main,
    "experiments.lite.look": look.main,
    "experiments.sr_quality.run": sr_quality.main,
}
SHORT = "gan.epochs=2"
JUDGE = (  # as it shipped: pictures resized instead of super-resolved, and no more regions of a crowd than of others
    "crops.route_px=0",
    "rois.regions_per_image=180",
    "judge.epochs=4",
)
FIRST_LOOK = (  # another network for the first look, a third of the cost; 1,000 steps are enough, more overfit
    *JUDGE[:-1],
    "judge.epochs=1",
    "judge_training.backbone=centerface",
    "judge_training.backbone_rate=0.1",
    "judge_training.surroundings_rate=0.1",
    "judge_training.ema_decay=0",  # over so few steps an average keeps much of the first weights
)
SECOND_LOOK = (  # a narrow copy of that judge, which it teaches: as good for two thirds of the time
    *JUDGE[:-1],
    "judge.epochs=3",
    "judge_training.widths=[16,48,64,112,192]",
)
SHIPPED = "lite.safetensors"
WIDTHS = {  # discriminators beside the shipped one, whose short run is "gan_standard"
    "narrow": "[8,32,64,96,128]",
    "narrowest": "[8,16,32,64,96]",
}
RUNS = ("mse", "gan", "judge", "second_look", "first_look", "unseen", "gan_standard", "gan_narrow", "gan_narrowest")
STEPS = (
    "look", "mse", "gan", "judge", "second_look", "first_look", "fusion", "left_out", "unseen", "widths", "report",
    "report_unseen",
)  # fmt: skip


@dataclass
class Inputs:
    """What the command was given, and what it found out."""

    data: Path
    proposals: Sequence[Path]
    extra_images: Path | None
    out: Path
    config: str
    surroundings: Path | None = None
    start: Path | None = None
    also: Sequence[Path] = ()
    unseen_second: Path | None = None
    second: Path | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str) -> Path:
        """A run folder; for stage ``gan`` the checkpoint to start from, if one was given."""
        return self.start if name == "gan" and self.start is not None else self.out / name

    def detector(self, path: Path) -> str:
        """A detector's name: that of its file."""
        return path.name.partition(".")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--proposals", type=Path, nargs="+", required=True, help="two detectors or more")
    parser.add_argument(
        "--also", type=Path, nargs="+", default=[], help="further detectors for stages judge and fusion; reported apart"
    )
    parser.add_argument("--extra-images", type=Path, help="further pictures of faces for stage mse-init, such as LFW")
    parser.add_argument("--out", type=Path, default=Path("runs/lite"))
    parser.add_argument("--config", default="lite")
    parser.add_argument(
        "--surroundings", type=Path, help="RetinaFace-MobileNet0.25 (.pth) the judge's second tower starts from"
    )
    parser.add_argument(
        "--start", type=Path, help="a checkpoint whose networks stage judge starts from, instead of stage gan's"
    )
    parser.add_argument(
        "--unseen-second",
        type=Path,
        help="a judge that never saw the detectors of --also, for step unseen's second look",
    )
    parser.add_argument(
        "--second",
        type=Path,
        help="a checkpoint whose judge takes the second look; steps judge and second_look train none, and first_look "
        "starts from --start",
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    arguments = parser.parse_args(argv)
    if len(arguments.proposals) < 2:
        parser.error("--proposals: give two detectors or more")
    if arguments.second is not None and arguments.start is None:
        parser.error("--second: give the checkpoint that the first judge starts from, too: --start")
    inputs = Inputs(
        arguments.data, arguments.proposals, arguments.extra_images, arguments.out, arguments.config,
        arguments.surroundings, arguments.start, arguments.also, arguments.unseen_second, arguments.second,
    )  # fmt: skip
    results = arguments.out / "results.json"
    if results.is_file():
        inputs.results = json.loads(results.read_text())
    steps = {"look": _look, "mse": _mse, "gan": _gan, "judge": _judge}
    steps |= {
        "second_look": _second_look,
        "first_look": _first_look,
        "fusion": _fusion,
        "left_out": _left_out,
        "unseen": _unseen,
        "widths": _widths,
        "report": _report,
        "report_unseen": _report_unseen,
    }
    for name in STEPS:
        if name in arguments.steps:
            steps[name](inputs)
            trained = {run: found for run in RUNS if (found := training_figures(inputs.run(run)))}
            inputs.results["training"] = {**inputs.results.get("training", {}), **trained}
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
    if inputs.start is None:
        _train(inputs, "gan", inputs.proposals, [])


def _judge(inputs: Inputs) -> None:
    if inputs.second is None:
        _train(inputs, "judge", [*inputs.proposals, *inputs.also], JUDGE, init="gan", stage="judge")


def _second_look(inputs: Inputs) -> None:
    """The judge that looks from the second time on: a narrow copy of the one before, which teaches it."""
    everyone = [*inputs.proposals, *inputs.also]
    if inputs.second is None:
        _train(inputs, "second_look", everyone, SECOND_LOOK, init="judge", stage="judge", teacher="judge")


def _first_look(inputs: Inputs) -> None:
    """The judge that looks first; its tower for the surroundings starts from that of the other one."""
    init = "judge" if inputs.second is None else "gan"
    _train(inputs, "first_look", [*inputs.proposals, *inputs.also], FIRST_LOOK, init=init, stage="judge")


def _fusion(inputs: Inputs) -> None:
    """The checkpoint that ships, with both judges, its filters in half precision."""
    second = inputs.second or inputs.run("second_look")
    _fuse(inputs, "first_look", [*inputs.proposals, *inputs.also], "--second", second, out="fused")
    fused = load_checkpoint(inputs.run("fused"), ("fused",))
    save_checkpoint(inputs.run(SHIPPED), replace(fused, tensors=halved(fused.tensors)))


def _left_out(inputs: Inputs) -> None:
    """Every detector behind a fusion that never saw it, on the hold-out."""
    file = inputs.out / "left_out.json"
    _do("experiments.lite.left_out", "--run", inputs.run("fused"), "--data", inputs.data, "--json", file)
    inputs.results["left_out"] = json.loads(file.read_text())


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Filters in half precision; biases and BN statistics as they are, which may exceed what half precision holds."""
    return {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}


def _unseen(inputs: Inputs) -> None:
    """The judge that looks first, and fusion, without the detectors of ``--also``."""
    _train(inputs, "unseen", inputs.proposals, FIRST_LOOK, stage="judge", init="gan")
    second = [] if inputs.unseen_second is None else ["--second", inputs.unseen_second]
    _fuse(inputs, "unseen", inputs.proposals, *second, out="fused_unseen")


def _widths(inputs: Inputs) -> None:
    """Short runs with other discriminators; every figure on the hold-out."""
    _train(inputs, "gan_standard", inputs.proposals[:-1], [SHORT])
    for name, widths in WIDTHS.items():
        _train(inputs, f"gan_{name}", inputs.proposals[:-1], [SHORT, f"discriminator.lite_widths={widths}"])
    runs = {
        "narrowest": "gan_narrowest",
        "narrow": "gan_narrow",
        "standard": "gan_standard",
        "as shipped, full length": "gan",
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
    """WIDER_val: before and after with the checkpoint that ships, also without a second opinion or moved boxes."""
    inputs.results["giga_flops"] = giga_flops(inputs.run(SHIPPED))
    for key, options in (("", ()), ("_without_opinion", ("--no-opinion",))):
        _compare_on_val(inputs, f"val{key}", SHIPPED, inputs.proposals, *options)
        if inputs.also:
            _compare_on_val(inputs, f"val_also{key}", SHIPPED, inputs.also, *options)
    _compare_on_val(inputs, "val_without_boxes", SHIPPED, inputs.proposals, "--no-boxes")
    _do("experiments.sr_quality.run", "--checkpoint", inputs.run("fused"), "--data", inputs.data,
        "--out", inputs.run("sr_quality"))  # fmt: skip


def _report_unseen(inputs: Inputs) -> None:
    """WIDER_val: the copy behind the detectors that it never saw, without a second opinion, with one and a search."""
    _compare_on_val(inputs, "val_unseen", "fused_unseen", inputs.also)
    _compare_on_val(inputs, "val_unseen_without_opinion", "fused_unseen", inputs.also, "--no-opinion")
    _compare_on_val(inputs, "val_unseen_search", "fused_unseen", inputs.also, "--search")


def _compare_on_val(inputs: Inputs, key: str, run: str, paths: Sequence[Path], *options: str) -> None:
    """Rescore as a user does, and note exact AP before and after; with boxes moved also at IoU 0.7."""
    subset = inputs.data / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    split = load_split(inputs.data, "val")
    names = list(split.faces)
    truth = truth_of(inputs.data, split, names)
    pairs = {}
    for path in paths:
        detector = inputs.detector(path)
        out = inputs.run(f"val_{run.removesuffix('.safetensors')}{''.join(options)}_{detector}")
        _do("tinygan-rescore", "--proposals", path, "--images", inputs.data / "WIDER_val" / "images",
            "--subset", subset, "--checkpoint", inputs.run(run), "--out", out, "--report", f"{out}.json",
            "--overwrite", *options)  # fmt: skip
        pairs[detector] = (open_detections(path), open_detections(out))
    for iou_threshold in (0.5, 0.7) if set(options) <= {"--no-opinion"} else (0.5,):
        compared = compare(pairs, truth, names, iou_threshold)
        if iou_threshold == 0.5:
            inputs.results[f"{key}_binned_points"] = {
                detector: left_out.binned_points(*pair, truth, names) for detector, pair in pairs.items()
            }
        title = f"{run} {' '.join(options)}, {subset.name}, {len(names)} images, IoU {iou_threshold}"
        print(f"\n{title}: points of exact AP, 95 % intervals\n{format_table(compared)}", flush=True)
        inputs.results[key if iou_threshold == 0.5 else f"{key}_iou_{iou_threshold}"] = compared


def _train(
    inputs: Inputs,
    run: str,
    proposals: Sequence[Path],
    settings: Sequence[str],
    init: str = "mse",
    stage: str = "gan",
    teacher: str | None = None,
) -> None:
    options: list[object] = [word for setting in settings for word in ("--set", setting)]
    options += [] if teacher is None else ["--teacher", inputs.run(teacher)]
    knows = init == "judge" or (inputs.run(init) == inputs.start and run != "unseen")  # the start may have seen them
    if stage == "judge" and inputs.surroundings is not None and not knows:
        options += ["--surroundings", inputs.surroundings]
    _do("tinygan-train", "--stage", stage, "--config", inputs.config, *options, "--data", inputs.data,
        "--proposals", *proposals, "--init", inputs.run(init), "--out", inputs.run(run), "--resume")  # fmt: skip


def _fuse(inputs: Inputs, run: str, proposals: Sequence[Path], *options: object, out: str | None = None) -> None:
    folder = inputs.run(out or run.replace("judge", "fused"))
    _do("tinygan-train", "--stage", "fusion", "--data", inputs.data, "--proposals", *proposals,
        "--init", inputs.run(run), *options, "--out", folder, "--resume")  # fmt: skip


def _do(name: str, *arguments: object) -> None:
    do(COMMANDS[name], name, *arguments)


if __name__ == "__main__":
    raise SystemExit(main())

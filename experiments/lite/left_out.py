"""What the second stage is worth behind a detector that fusion never saw, on the hold-out.

    python -m experiments.lite.left_out --run runs/lite/fused --data ROOT

For every detector whose judged proposals stage ``fusion`` left in its run folder, fusion is fitted on all the others
and rescores this one; images and faces are the hold-out's, of which the judge saw none. (The judge may have seen other
proposals of this detector; the README says which judge saw which.) Beside exact AP with paired intervals: the official
binned AP, and the same with a budget, where proposals of low log-odds are not looked at. Nothing of WIDER_val is read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lite.report import compare, format_table, truth_of
from tinygan.checkpoint import load_checkpoint
from tinygan.config import build_config
from tinygan.detections import Detections
from tinygan.evaluate.truth import EvaluationTruth
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.names import match_names
from tinygan.formats.wider import load_split
from tinygan.second_stage.judging import LOOK_LOGIT, Judged
from tinygan.second_stage.rescoring import RescoreConfig, rescore_judged
from tinygan.training.fusion_fit import calibration_of, fit_fusion
from tinygan.training.holdout import load_judged
from tinygan.training.recipe import Recipe
from tinygan.training.run import CONFIG_FILE

BUDGETS = (None, -8.0, -7.0, -6.0, -5.0, -4.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, rescore and print, one detector after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--run", type=Path, required=True, help="run folder of stage fusion, with two detectors or more"
    )
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="leave out these in turn; default: each")
    parser.add_argument("--json", type=Path, help="write every figure")
    arguments = parser.parse_args(argv)
    recipe = build_config(Recipe, load_checkpoint(arguments.run, ("fused",)).recipe)
    split = load_split(arguments.data, "train")
    judged = {name: load_judged(file) for name, file in detectors_of(arguments.run).items()}
    truth = truth_of(arguments.data, split, list(split.faces))
    found: dict[str, Any] = {}
    for name in arguments.detectors or judged:
        images = judged[name]
        others = [one for other, one in judged.items() if other != name]
        fusion = fit_fusion(others, split.faces, recipe.rois, recipe.fusion_search)
        calibration = calibration_of(images, fusion)
        before = {image: one.proposals for image, one in images.items()}
        found[name] = {}
        for least in BUDGETS:
            config = RescoreConfig(fusion=fusion, least_log_odds=least)
            looked = [one.first(config.count_judged(one.proposals, calibration)) for one in images.values()]
            after = dict(zip(images, rescore_judged(looked, config, calibration), strict=True))
            table = compare({name: (before, after)}, truth, list(images))
            closer = compare({name: (before, after)}, truth, list(images), iou_threshold=0.7)
            budget = "all" if least is None else f"{least:g}"
            looks = count_looks(looked) / sum(len(one) for one in before.values())
            found[name][budget] = {
                "exact": table[name],
                "exact_iou_0.7": closer[name],
                "binned_points": binned_points(before, after, truth, list(images)),
                "looks_per_proposal": looks,
            }
            print(f"{budget:4s} {looks:.2f} looks per proposal  {format_table(table)}", flush=True)
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(found, indent=1).encode())
    return 0


def count_looks(judged: Sequence[Judged]) -> int:
    """First looks, and about as many second ones as there are logits (means of both looks) that ask for one."""
    return sum(len(one.face_logits) + int((one.face_logits >= LOOK_LOGIT).sum()) for one in judged)


def binned_points(
    before: Mapping[str, Detections], after: Mapping[str, Detections], truth: EvaluationTruth, names: Sequence[str]
) -> dict[str, float]:
    """Difference in official binned AP by subset, in points, on the named images."""
    known = list(match_names(names, truth.names, "images"))
    results = []
    for side in (before, after):
        files = match_names(side, known, "detections")
        results.append(evaluate_wider({name: side[file] for name, file in files.items()}, truth, known).subsets)
    return {subset: 100 * (results[1][subset].ap_binned - results[0][subset].ap_binned) for subset in truth.subsets}


def detectors_of(run: Path) -> dict[str, Path]:
    """Judged proposals by the detector's name, which the run's ``config.yaml`` notes."""
    for line in (run / CONFIG_FILE).read_text().splitlines():
        if line.startswith("# proposals: "):
            names = [Path(word).name.partition(".")[0] for word in line.removeprefix("# proposals: ").split()]
            unique = [name if names.count(name) == 1 else f"{name}_{at}" for at, name in enumerate(names)]
            return {name: run / "judged" / f"detector_{at:02d}.npz" for at, name in enumerate(unique)}
    raise SystemExit(f"{run / CONFIG_FILE}: expected a line '# proposals: …' of stage fusion")


if __name__ == "__main__":
    raise SystemExit(main())

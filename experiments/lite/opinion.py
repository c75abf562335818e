"""What a second opinion is worth, on the hold-out, and what its settings are: exact AP behind each detector.

    python -m experiments.lite.opinion --run runs/lite/fused --data ROOT [--set closer=1.5] --json opinion.json

Proposals that stage ``fusion`` judged are rescored by its fusion, alone and with what the CenterFace of the first stage
that ships finds; ``--set`` says otherwise where it looks (``tinygan-propose --show-config``). The rows after that tell
what other rules would make of the same answers. Nothing of WIDER_val is read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from experiments.lite.left_out import detectors_of
from experiments.lite.report import compare, truth_of
from tinygan.checkpoint import load_checkpoint
from tinygan.cli.tables import Table, format_tables, points
from tinygan.detections import Detections
from tinygan.files import write_atomically
from tinygan.formats.plausible import score_logit
from tinygan.formats.wider import load_split
from tinygan.joining import CONFIRMED_IOU, LESS_SURE, confirm_detections
from tinygan.proposers import DEFAULT, choose_proposer
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.fusion import Fusion, stored_fusion
from tinygan.second_stage.opinion import Adviser, SecondOpinion
from tinygan.second_stage.rescoring import RescoreConfig, rescore_judged
from tinygan.training.fusion_fit import calibration_of
from tinygan.training.holdout import load_judged

ALONE, SHIPS = "judges alone", "as it ships"


@dataclass(frozen=True)
class Rule:
    """How an opinion counts: least overlap, weight of the less sure, and what is added to its log-odds."""

    overlap: float = CONFIRMED_IOU
    less_sure: float = LESS_SURE
    trust: float = 0.0


RULES = {
    SHIPS: Rule(),
    **{f"overlap {overlap:g}": Rule(overlap=overlap) for overlap in (0.55, 0.5, 0.3, 0.2)},
    **{f"weight of the less sure {share:g}": Rule(less_sure=share) for share in (0.1, 0.3, 0.4)},
    **{f"its log-odds {trust:+g}": Rule(trust=trust) for trust in (-1.0, -0.5, 0.5, 1.0)},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, rescore, print and write; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="run folder of stage fusion")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="default: each that was judged")
    parser.add_argument("--images", type=int, metavar="N", help="take N images, spread evenly; default: all")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the first stage")
    parser.add_argument("--json", type=Path, help="write every figure")
    arguments = parser.parse_args(argv)
    fusion = stored_fusion(load_checkpoint(arguments.run, ("fused",))) or Fusion()
    config, split = RescoreConfig(fusion=fusion), load_split(arguments.data, "train")
    choice = choose_proposer(DEFAULT, overrides=arguments.set)
    adviser = choice.build(choice.runtime(RuntimeOptions(threads=1)))
    assert isinstance(adviser, Adviser)
    ask = SecondOpinion(adviser, config)
    report: dict[str, dict[str, dict[str, float]]] = {name: {} for name in (ALONE, *RULES)}
    for detector, file in detectors_of(arguments.run).items():
        if arguments.detectors and detector not in arguments.detectors:
            continue
        judged = load_judged(file)
        calibration = calibration_of(judged, fusion)
        names = list(judged)[:: max(1, len(judged) // (arguments.images or len(judged)))]
        truth = truth_of(arguments.data, split, names)
        looked = {name: judged[name].first(config.count_judged(judged[name].proposals, calibration)) for name in names}
        opinions = {name: ask(looked[name], split.images / name) for name in tqdm(names, detector, disable=None)}
        before = {name: judged[name].proposals for name in names}
        alone = dict(zip(names, rescore_judged(list(looked.values()), config, calibration), strict=True))
        for rule, found in report.items():
            after = alone
            if rule != ALONE:
                after = {name: confirmed(alone[name], opinions[name], RULES[rule]) for name in names}
            rows = compare({detector: (before, after)}, truth, names)[detector]
            found[detector] = {subset: row["points"] for subset, row in rows.items()}
    print(format_tables([tabulate(report, len(names))], markdown=True))
    if arguments.json is not None:
        write_atomically(arguments.json, (json.dumps(report, indent=1) + "\n").encode())
    return 0


def confirmed(alone: Detections, opinion: Detections | None, rule: Rule) -> Detections:
    """What the judges alone made of an image, with an opinion as a rule trusts it."""
    if opinion is None:
        return alone
    scores = expit(score_logit(opinion.scores) + rule.trust)
    trusted = Detections(opinion.boxes, scores)
    return confirm_detections(alone, trusted, same_iou=rule.overlap, share=rule.less_sure)


def tabulate(report: Mapping[str, Mapping[str, Mapping[str, float]]], images: int) -> Table:
    """A line per rule: the mean of the detectors, and the hardest subset behind each of them."""
    first = next(iter(report.values()))
    subsets = list(next(iter(first.values())))
    lines = [["", *(f"mean {subset}" for subset in subsets), *first]]
    for rule, found in report.items():
        means = [float(np.mean([one[subset] for one in found.values()])) for subset in subsets]
        hardest = [one[subsets[-1]] for one in found.values()]
        lines.append([rule, *(points(value / 100) for value in (*means, *hardest))])
    return Table(f"points of exact AP on {images} hold-out images; {subsets[-1]} by detector", lines)


if __name__ == "__main__":
    raise SystemExit(main())

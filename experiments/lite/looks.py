"""What fewer looks cost, on the hold-out: exact AP and looks per picture, behind each detector.

    python -m experiments.lite.looks --data ROOT --proposals P … --out runs/looks

Every proposal is judged with one look, two and three. From these answers those of any rule are put together: which
proposals are looked at (``least_log_odds``), and from which face logit on again (``again_from``). Nothing of WIDER_val
is read. Writes ``looks.json`` and ``looks.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments.lite.report import compare, truth_of
from tinygan.boxes import longer_side
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.cli.tables import Table, format_tables
from tinygan.detections import Detections, IntArray
from tinygan.files import write_atomically
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.fusion import Fusion, stored_fusion
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import LOOK_LOGIT, THIRD_LOOK_PX, Judged
from tinygan.second_stage.rescoring import RescoreConfig, rescore_judged
from tinygan.training.fusion_fit import calibration_of
from tinygan.training.holdout import judge_proposals

RULES = ((-5.0, -2.0), (-5.0, -1.5), (-4.0, -2.0), (-4.0, -1.5), (-4.0, -1.0), (-3.0, -1.5))
BATCH, MAX_ROIS = 64, 600
MEAN = "mean"


@dataclass(frozen=True)
class Found:
    """Of one detector by one rule: exact AP by subset, and first, second and third looks per picture."""

    ap: Mapping[str, float]
    looks: tuple[float, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Judge, choose and compare; print the table and write it; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--proposals", type=Path, nargs="+", required=True, metavar="P", help="of one detector each")
    parser.add_argument("--precision", choices=["auto", "bf16", "32"], default="auto")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    weights = load_checkpoint(packaged_weights("lite"), ("fused",))
    fusion = stored_fusion(weights) or Fusion()
    split = load_split(arguments.data, "train")
    names = [name for name in split.faces if not weights.was_trained_on(name)]
    truth = truth_of(arguments.data, split, names)
    judge = Judge.from_weights(weights, Runtime(RuntimeOptions(precision=arguments.precision, threads=1)))
    report: dict[str, dict[str, Found]] = {f"{least:g}, {again:g}": {} for least, again in RULES}
    for path in arguments.proposals:
        looks = [
            judge_proposals(judge, path, split, names, BATCH, MAX_ROIS, [], looks=count)
            for count in range(1, fusion.looks + 1)
        ]
        calibration = calibration_of(looks[-1], fusion)
        for (least, again), found in zip(RULES, report.values(), strict=True):
            config = RescoreConfig(fusion=fusion, least_log_odds=least, again_from=again)
            taken = {
                name: by_rule([look[name] for look in looks], config.count_judged(one.proposals, calibration), again)
                for name, one in looks[-1].items()
            }
            after = dict(
                zip(taken, rescore_judged([one for one, _ in taken.values()], config, calibration), strict=True)
            )
            nothing = {name: Detections.empty() for name in names}
            rows = compare({"after": (nothing | after, nothing | after)}, truth, names)["after"]
            counts = np.sum([count for _, count in taken.values()], axis=0) / len(names)
            detector = path.name.removesuffix(".tar.gz")
            found[detector] = Found({subset: row["after"] for subset, row in rows.items()}, tuple(counts.tolist()))
    table = format_tables([tabulate(report, len(names))], markdown=True)
    print(table)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tree = {rule: {name: vars(one) for name, one in found.items()} for rule, found in report.items()}
    write_atomically(arguments.out / "looks.json", (json.dumps(tree, indent=1) + "\n").encode())
    write_atomically(arguments.out / "looks.md", table.encode())
    return 0


def by_rule(looks: Sequence[Judged], count: int, again_from: float) -> tuple[Judged, IntArray]:
    """What a rule makes of the answers of one image with one look, two and three.

    Args:
        looks: judged with so many looks, each from the usual logit on.
        count: how many proposals are judged, the best ones.
        again_from: face logit from which they are looked at again; the usual one or a higher one.

    Returns:
        The judgement, and first, second and third looks, int64 [3].
    """
    taken = looks[0].first(count)
    again = np.ones(count, np.bool_)
    counts = [count]
    for number, look in enumerate(looks[1:], 2):
        again &= taken.face_logits >= max(again_from, LOOK_LOGIT)
        if number > 2:
            again &= longer_side(taken.best.boxes) < THIRD_LOOK_PX
        seen = look.first(count)
        taken = replace(
            taken,
            face_logits=np.where(again, seen.face_logits, taken.face_logits),
            boxes=np.where(again[:, None], seen.boxes, taken.boxes),
        )
        counts.append(int(again.sum()))
    return taken, np.array(counts)


def tabulate(report: Mapping[str, Mapping[str, Found]], images: int) -> Table:
    """A line per rule: the looks and the AP, in the mean and on the hardest subset behind each detector."""
    first = next(iter(next(iter(report.values())).values()))
    detectors = list(next(iter(report.values())))
    lines = [["least log-odds, again from", "looks", *(f"{MEAN} {s}" for s in first.ap), *detectors]]
    for rule, found in report.items():
        looks = np.mean([one.looks for one in found.values()], axis=0)
        means = [float(np.mean([one.ap[subset] for one in found.values()])) for subset in first.ap]
        hardest = [list(one.ap.values())[-1] for one in found.values()]
        cells = [f"{100 * value:.2f}" for value in (*means, *hardest)]
        lines.append([rule, " + ".join(f"{count:.0f}" for count in looks), *cells])
    return Table(f"exact AP on {images} hold-out images, in per cent; looks per picture; hard by detector", lines)


if __name__ == "__main__":
    raise SystemExit(main())

"""What a checkpoint's judge is worth on the hold-out, with fusion fitted on other images of it.

    python -m experiments.lite.holdout --run runs/lite/gan --data ROOT --proposals P1 P2 P3 [--fit P1 P2]

Five folds over images: fusion is fitted on four and rescores the fifth, so no image's labels choose its own
scores. Nothing of WIDER_val is read: this is the figure to tune by.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from experiments.lite.report import Row, compare, format_table, truth_of
from tinygan.checkpoint import load_checkpoint
from tinygan.config import load_config
from tinygan.detections import Detections
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged
from tinygan.training.fusion import holdout_names
from tinygan.training.fusion_fit import calibration_of, fit_fusion, rescored
from tinygan.training.holdout import judge_proposals
from tinygan.training.recipe import Recipe

FOLDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line a detector."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="run folder of stage gan or judge")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--proposals", type=Path, nargs="+", required=True)
    parser.add_argument("--fit", type=Path, nargs="+", help="detectors to fit fusion on; default: all")
    parser.add_argument("--no-boxes", action="store_true", help="leave every box where the detector put it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="fusion_search.KEY=VALUE", help="of the recipe's fusion"
    )
    arguments = parser.parse_args(argv)
    found = holdout_gains(
        arguments.run,
        arguments.data,
        arguments.proposals,
        arguments.fit,
        not arguments.no_boxes,
        settings=arguments.set,
    )
    print(format_table(found))
    return 0


def holdout_gains(
    run: Path,
    root: Path,
    proposals: Sequence[Path],
    fit_on: Sequence[Path] | None = None,
    boxes: bool = True,
    max_rois: int = 150,
    settings: Sequence[str] = (),
    generator: nn.Module | None = None,
) -> dict[str, dict[str, Row]]:
    """Exact AP before and after on the hold-out.

    Args:
        run: run folder of stage ``gan`` or ``judge``.
        root: WIDER FACE root with ``eval/``.
        proposals: detectors to rescore.
        fit_on: detectors whose proposals fit the fusion; default: all.
        boxes: whether boxes may move and merge, if the judge finds boxes.
        max_rois: proposals judged of an image; the others are left out, before and after.
        settings: overrides of the recipe, such as ``fusion_search.looks=1``.
        generator: makes the pictures instead of the run's own.

    Returns:
        As :func:`experiments.lite.report.compare`; with boxes also ``"<detector> at IoU 0.7"``.
    """
    weights = load_checkpoint(run, ("gan",))
    split = load_split(root, "train")
    names = holdout_names(split, weights, None, run)
    judge = Judge.from_weights(weights, Runtime(RuntimeOptions()), generator)
    recipe = load_config(Recipe, None, list(settings), base=weights.recipe)
    looks = recipe.fusion_search.looks if boxes and judge.finds_boxes else 1
    unreadable: list[str] = []
    judged = {
        path: judge_proposals(judge, path, split, names, 128, max_rois, unreadable, looks=looks) for path in proposals
    }
    if not boxes:
        judged = {path: {n: _standing(one) for n, one in images.items()} for path, images in judged.items()}
    after: dict[Path, dict[str, Detections]] = {path: {} for path in proposals}
    for fold in range(FOLDS):
        held = names[fold::FOLDS]
        seen = [
            {name: one for name, one in judged[path].items() if name not in held}
            for path in (proposals if fit_on is None else fit_on)
        ]
        fusion = fit_fusion(seen, split.faces, recipe.rois, recipe.fusion_search)
        for path, images in judged.items():
            here = {name: images[name] for name in held if name in images}
            after[path] |= rescored(here, fusion, calibration_of(images, fusion))
    pairs = {
        path.name.partition(".")[0]: ({name: one.proposals for name, one in images.items()}, after[path])
        for path, images in judged.items()
    }
    truth = truth_of(root, split, names)
    table = compare(pairs, truth, names)
    if boxes and judge.finds_boxes:
        closer = compare(pairs, truth, names, iou_threshold=0.7)
        table |= {f"{detector} at IoU 0.7": row for detector, row in closer.items()}
    return table


def _standing(judged: Judged) -> Judged:
    return replace(judged, boxes=np.full_like(judged.boxes, np.nan))


if __name__ == "__main__":
    raise SystemExit(main())

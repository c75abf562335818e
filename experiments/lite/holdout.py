"""What a checkpoint's judge is worth on the hold-out, with fusion fitted on other images of it.

    python -m experiments.lite.holdout --run runs/lite/gan --data ROOT --proposals P1 P2 P3 [--fit P1 P2]

Five folds over images: fusion is fitted on four and rescores the fifth, so no image's labels choose its own
scores. Nothing of WIDER_val is read: this is the figure to tune by.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.lite.report import Row, compare, format_table, truth_of
from tinygan.checkpoint import load_weights
from tinygan.config import build_config
from tinygan.detections import Detections
from tinygan.formats.wider import load_split
from tinygan.fusion import fuse, view_detector
from tinygan.judge import Judge
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.train.fusion import columns_of, fit_fusion, holdout_names, judge_proposals
from tinygan.train.recipe import Recipe

FOLDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line a detector."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="run folder of stage gan")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--proposals", type=Path, nargs="+", required=True)
    parser.add_argument("--fit", type=Path, nargs="+", help="detectors to fit fusion on; default: all")
    arguments = parser.parse_args(argv)
    print(format_table(holdout_gains(arguments.run, arguments.data, arguments.proposals, arguments.fit)))
    return 0


def holdout_gains(
    run: Path, root: Path, proposals: Sequence[Path], fit_on: Sequence[Path] | None = None, max_rois: int = 150
) -> dict[str, dict[str, Row]]:
    """Exact AP before and after on the hold-out.

    Args:
        run: run folder of stage ``gan``.
        root: WIDER FACE root with ``eval/``.
        proposals: detectors to rescore.
        fit_on: detectors whose proposals fit the fusion; default: all.
        max_rois: proposals judged of an image; the others are left out, before and after.

    Returns:
        As :func:`experiments.lite.report.compare`.
    """
    weights = load_weights(run, ("gan",))
    split = load_split(root, "train")
    names = holdout_names(split, weights, None, run)
    judge = Judge.from_weights(weights, Runtime(RuntimeOptions()))
    recipe = build_config(Recipe, weights.config)
    unreadable: list[str] = []
    judged = {path: judge_proposals(judge, path, split, names, 128, max_rois, unreadable) for path in proposals}
    after: dict[Path, dict[str, Detections]] = {path: {} for path in proposals}
    for fold in range(FOLDS):
        held = names[fold::FOLDS]
        seen = [
            {name: one for name, one in judged[path].items() if name not in held}
            for path in (proposals if fit_on is None else fit_on)
        ]
        fusion = fit_fusion(seen, recipe.rois, recipe.fusion)
        for path, images in judged.items():
            view = view_detector(fusion, *columns_of(images.values())) or fusion.usual_view
            for name in held:
                if name in images:
                    one = images[name]
                    scores = fuse("logit", fusion, *columns_of([one]), view)
                    after[path][name] = Detections(one.detections.boxes, scores)
    pairs = {
        path.name.partition(".")[0]: ({name: one.detections for name, one in images.items()}, after[path])
        for path, images in judged.items()
    }
    return compare(pairs, truth_of(root, split, names), names)


if __name__ == "__main__":
    raise SystemExit(main())

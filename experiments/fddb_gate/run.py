"""Compares our curves of MTCNN's detections on FDDB with those that the official program printed.

    python -m experiments.fddb_gate.run --data DATA/fddb --json experiments/fddb_gate/results.json

Takes about 8 s on one core. The official program clips every shape to its image. Without the images their sizes are
unknown, so the curves are computed under three assumptions, which bracket the truth: images have no right and lower
border; no side is longer than 450 px, which is the evaluator's own assumption; every image is as small as its face
centres and boxes allow.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinygan.detections import Detections
from tinygan.evaluate.fddb import LONGEST_SIDE_PX, FddbScores, RocCurve, evaluate_fddb
from tinygan.evaluate.shapes import ImageSize
from tinygan.formats.fddb import FddbTruth, RocPoints, bounding_boxes, load_fddb, load_folds, load_roc

UNBOUNDED = (1_000_000, 1_000_000)


def main() -> None:
    """Print the table; write it with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with FDDB-folds/ and mtcnn/")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    mtcnn = arguments.data / "mtcnn"
    truth, detections = load_folds(arguments.data / "FDDB-folds"), load_fddb(mtcnn)
    official = {"discrete": load_roc(mtcnn / "MTCNNDiscROC.txt"), "continuous": load_roc(mtcnn / "MTCNNContROC.txt")}

    sizes = {
        "unbounded": dict.fromkeys(truth.names, UNBOUNDED),
        "assumed (450 x 450)": None,
        "smallest": smallest_sizes(truth, detections),
    }
    rows = {}
    for label, known in sizes.items():
        start = time.process_time()
        scores = evaluate_fddb(detections, truth, image_sizes=known).merged
        rows[label] = {**compare(scores, official), "cpu_s": round(time.process_time() - start, 1)}
    crossing = count_crossing(truth)
    for label, figures in rows.items():
        print(label, *(f"{name} {value:.6g}" for name, value in figures.items()), sep="\n  ")
    print(*(f"{name}: {value:,}" for name, value in crossing.items()), sep="\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"sizes": rows, "ellipses": crossing}, indent=2) + "\n")


def smallest_sizes(truth: FddbTruth, detections: Mapping[str, Detections]) -> dict[str, ImageSize]:
    """The smallest images that contain all face centres and detected boxes (MTCNN's boxes are inside its images)."""
    sizes = {}
    for name, ellipses in truth.ellipses.items():
        corners = [*ellipses[:, 3:5].tolist(), *detections[name].boxes[:, 2:].tolist(), [1.0, 1.0]]
        width, height = np.max(corners, axis=0).tolist()
        sizes[name] = (math.ceil(width), math.ceil(height))
    return sizes


def compare(scores: FddbScores, official: Mapping[str, RocPoints]) -> dict[str, float]:
    """Differences between our true positive rate and the official one."""
    figures: dict[str, float] = {}
    for kind, curve in {"discrete": scores.discrete, "continuous": scores.continuous}.items():
        theirs = official[kind]
        budgets = np.arange(int(theirs.false_positives.max()) + 1)
        ours_at = np.array([curve.at(int(budget)).tpr for budget in budgets])
        theirs_at = np.array([theirs.tpr[theirs.false_positives <= budget].max() for budget in budgets])
        figures[f"{kind}: largest difference at equal false positives"] = float(np.abs(ours_at - theirs_at).max())
        figures[f"{kind}: at this many"] = int(np.abs(ours_at - theirs_at).argmax())
        figures[f"{kind}: largest difference at equal threshold"] = at_equal_threshold(curve, theirs)
        figures[f"{kind}: last point"] = float(curve.tpr[-1])
        figures[f"{kind}: last point, official"] = float(theirs.tpr[0])
    figures["false positives at the last point (official 249)"] = int(scores.discrete.false_positives[-1])
    return figures


def at_equal_threshold(curve: RocCurve, official: RocPoints) -> float:
    """Largest difference of the true positive rate at equal threshold.

    Both curves have one point per distinct score; the official one has a further point without detections.
    """
    return float(np.abs(curve.points.tpr - official.tpr[:-1]).max())


def count_crossing(truth: FddbTruth) -> dict[str, int]:
    """How many annotated ellipses cross a border whose position is known."""
    every = np.concatenate([bounding_boxes(rows) for rows in truth.ellipses.values()])
    return {
        "ellipses": len(every),
        "over the left or upper border": int((every[:, :2] < 0).any(axis=1).sum()),
        "over 450 px on the right or below": int((every[:, 2:] > LONGEST_SIDE_PX).any(axis=1).sum()),
    }


if __name__ == "__main__":
    main()

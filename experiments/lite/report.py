"""Before and after, detector by detector and pooled: exact AP with paired intervals over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tinygan.detections import Detections, FloatArray
from tinygan.evaluate.curves import bootstrap_weights, resampled_ap
from tinygan.evaluate.truth import EvaluationTruth, load_evaluation_truth, truth_of_faces
from tinygan.evaluate.wider import WiderResult, evaluate_wider
from tinygan.formats.names import match_names
from tinygan.formats.wider import WiderSplit

RESAMPLES, SEED, LEVEL = 1000, 0, 0.95
Row = dict[str, float]
Pair = tuple[Mapping[str, Detections], Mapping[str, Detections]]  # before, after


def compare(
    pairs: Mapping[str, Pair], truth: EvaluationTruth, names: Sequence[str], iou_threshold: float = 0.5
) -> dict[str, dict[str, Row]]:
    """Exact AP before and after for every detector and subset.

    Args:
        pairs: ``{detector: (before, after)}``, by any names that match the ground truth's.
        truth: faces and subsets.
        names: images to evaluate.
        iou_threshold: smallest IoU of a hit.

    Returns:
        ``{detector: {subset: {"before", "after", "points", "low", "high"}}}``, AP in [0, 1], differences in points
        with a paired bootstrap interval over images. With several detectors also ``pooled``: the mean of their
        differences, all resampled with the same images.
    """
    known = match_names(names, truth.names, "images")
    chosen = [name for name in truth.names if name in known]
    weights = bootstrap_weights(len(chosen), RESAMPLES, SEED)
    table: dict[str, dict[str, Row]] = {}
    pooled: dict[str, list[tuple[float, FloatArray]]] = {}
    for detector, pair in pairs.items():
        before, after = (evaluate_wider(_by_truth(side, truth), truth, chosen, iou_threshold) for side in pair)
        table[detector] = {}
        for subset in truth.subsets:
            points, drawn = _difference(before, after, subset, weights)
            values = {"before": before.subsets[subset].ap_exact, "after": after.subsets[subset].ap_exact}
            table[detector][subset] = {**values, **_interval(points, drawn)}
            pooled.setdefault(subset, []).append((points, drawn))
    if len(pairs) > 1:
        means = {
            s: (np.mean([p for p, _ in rows]), np.mean([d for _, d in rows], axis=0)) for s, rows in pooled.items()
        }
        table["pooled"] = {subset: _interval(float(points), drawn) for subset, (points, drawn) in means.items()}
    return table


def truth_of(root: Path, split: WiderSplit, names: Sequence[str]) -> EvaluationTruth:
    """The official subsets of these images where ``eval/`` has them all, else one subset of all valid faces."""
    if (root / "eval").is_dir():
        official = load_evaluation_truth(root / "eval")
        if len(match_names(names, official.names, "images")) == len(names):
            return official
    return truth_of_faces({name: split.faces[name] for name in names})


def format_table(table: Mapping[str, Mapping[str, Row]]) -> str:
    """The table for people: one line a detector, points of exact AP with their interval."""
    lines = []
    for detector, subsets in table.items():
        cells = [f"{s} {r['points']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for s, r in subsets.items()]
        lines.append(f"{detector:26s} {'   '.join(cells)}")
    return "\n".join(lines)


def _by_truth(detections: Mapping[str, Detections], truth: EvaluationTruth) -> dict[str, Detections]:
    return {name: detections[file] for name, file in match_names(detections, truth.names, "detections").items()}


def _difference(before: WiderResult, after: WiderResult, subset: str, weights: FloatArray) -> tuple[float, FloatArray]:
    old, new = before.subsets[subset], after.subsets[subset]
    drawn = resampled_ap(new.outcomes, weights) - resampled_ap(old.outcomes, weights)
    return 100 * (new.ap_exact - old.ap_exact), 100 * drawn


def _interval(points: float, drawn: FloatArray) -> Row:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return {"points": points, "low": low, "high": high}

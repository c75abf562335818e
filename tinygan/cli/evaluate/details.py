"""``tinygan-evaluate wider --details``: tables and JSON of the figures that say why an AP moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.evaluate.files import BOOTSTRAP, LEVEL, RESAMPLES, SEED, describe_difference
from tinygan.cli.tables import NONE, Table, ap, count, interval, points

if TYPE_CHECKING:
    from tinygan.evaluate.breakdown import Breakdown, BreakdownDifference, Slice
    from tinygan.evaluate.curves import Difference
    from tinygan.evaluate.truth import EvaluationTruth
    from tinygan.evaluate.wider import WiderResult

_COMPARED = ["AP before", "after", "difference", "95 %"]


@dataclass(frozen=True)
class Details:
    """Breakdowns of an evaluation.

    Attributes:
        after: evaluation of ``--detections``.
        before: evaluation of ``--baseline``, if there is one.
        difference: between the two.
    """

    after: Breakdown
    before: Breakdown | None
    difference: BreakdownDifference | None


def measure_details(ground_truth: Path, truth: EvaluationTruth, results: Mapping[str, WiderResult]) -> Details:
    """Break the evaluations down.

    Args:
        ground_truth: read again for the attributes.
        truth: what was evaluated against.
        results: ``detections`` and perhaps ``baseline``.
    """
    from tinygan.evaluate.attributes import group_faces
    from tinygan.evaluate.breakdown import break_down, compare_breakdowns
    from tinygan.formats.truths import load_faces

    groups = group_faces(truth.faces, load_faces(ground_truth))
    parts = {role: break_down(result, truth, groups) for role, result in results.items()}
    after, before = parts["detections"], parts.get("baseline")
    difference = None if before is None else compare_breakdowns(before, after, RESAMPLES, SEED, LEVEL)
    return Details(after, before, difference)


def tabulate_details(details: Details) -> list[Table]:
    """AP by IoU, false positives by recall with the recall ceiling, and AP and recall by kind of face."""
    return [_tabulate_iou(details), _tabulate_false_positives(details), _tabulate_groups(details)]


def describe_details(details: Details) -> dict[str, object]:
    """Every figure, for the JSON report."""
    report: dict[str, object] = {"detections": _describe_parts(details.after)}
    if details.before is not None and details.difference is not None:
        report["baseline"] = _describe_parts(details.before)
        report["difference"] = {
            "measure": "exact AP, detections minus baseline, in points (1/100)",
            "bootstrap": BOOTSTRAP,
            "ap_by_iou": _described(details.difference.by_iou),
            "groups": _described(details.difference.groups),
        }
    return report


def _tabulate_iou(details: Details) -> Table:
    title = "exact AP by IoU threshold"
    after, before, change = details.after, details.before, details.difference
    if before is None or change is None:
        thresholds = [f"{iou:.1f}" for iou in next(iter(after.by_iou.values()))]
        rows = [[subset, *(ap(part.ap) for part in parts.values())] for subset, parts in after.by_iou.items()]
        return Table(title, [["subset", *thresholds], *rows])
    rows = [
        [f"{subset} {iou:.1f}", *_compared(before.by_iou[subset][iou], part, change.by_iou[subset][iou])]
        for subset, parts in after.by_iou.items()
        for iou, part in parts.items()
    ]
    return Table(title, [["subset, IoU", *_COMPARED], *rows])


def _tabulate_false_positives(details: Details) -> Table:
    parts = {"": details.after} if details.before is None else {" before": details.before, " after": details.after}
    rows = []
    for subset, counts in details.after.false_positives.items():
        for label, breakdown in parts.items():
            found = [count(breakdown.false_positives[subset][percent]) for percent in counts]
            rows.append([f"{subset}{label}", *found, ap(breakdown.recall_ceiling[subset])])
        if details.before is not None:
            rows.append([f"{subset} change", *_count_changes(details.before, details.after, subset)])
    percents = next(iter(details.after.false_positives.values()))
    heading = ["subset", *(f"{percent} %" for percent in percents), "recall ceiling"]
    return Table("false positives at recall (IoU 0.5), and the recall of all boxes", [heading, *rows])


def _count_changes(before: Breakdown, after: Breakdown, subset: str) -> list[str]:
    changes = []
    for percent, now in after.false_positives[subset].items():
        then = before.false_positives[subset][percent]
        changes.append(NONE if now is None or then is None else f"{now - then:+,}")
    return [*changes, points(after.recall_ceiling[subset] - before.recall_ceiling[subset])]


def _tabulate_groups(details: Details) -> Table:
    title = "exact AP and recall by kind of face (IoU 0.5, all valid faces)"
    after, before, change = details.after, details.before, details.difference
    if before is None or change is None:
        rows = [
            [f"{attribute} {value}", count(part.faces), ap(part.ap), ap(part.recall)]
            for attribute, values in after.groups.items()
            for value, part in values.items()
        ]
        return Table(title, [["faces of", "faces", "AP", "recall"], *rows])
    heading = ["faces of", "faces", *_COMPARED, "recall before", "after"]
    rows = []
    for attribute, values in after.groups.items():
        for value, part in values.items():
            then = before.groups[attribute][value]
            compared = _compared(then, part, change.groups[attribute][value])
            rows.append([f"{attribute} {value}", count(part.faces), *compared, ap(then.recall), ap(part.recall)])
    return Table(title, [heading, *rows])


def _compared(before: Slice, after: Slice, change: Difference) -> Sequence[str]:
    return [ap(before.ap), ap(after.ap), points(change.value), interval(change.low, change.high)]


def _describe_parts(breakdown: Breakdown) -> dict[str, object]:
    return {
        "ap_by_iou": {s: {iou: part.ap for iou, part in parts.items()} for s, parts in breakdown.by_iou.items()},
        "false_positives_at_recall_percent": breakdown.false_positives,
        "recall_ceiling": breakdown.recall_ceiling,
        "groups": {
            attribute: {v: {"faces": p.faces, "ap": p.ap, "recall": p.recall} for v, p in values.items()}
            for attribute, values in breakdown.groups.items()
        },
    }


def _described(
    differences: Mapping[str, Mapping[str, Difference]] | Mapping[str, Mapping[float, Difference]],
) -> object:
    return {key: {k: describe_difference(d) for k, d in parts.items()} for key, parts in differences.items()}

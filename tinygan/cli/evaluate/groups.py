"""``tinygan-evaluate wider --groups``: recall at equal precision by group of faces, as a table and for the report."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.evaluate.files import BOOTSTRAP, LEVEL, RESAMPLES, SEED
from tinygan.cli.tables import NONE, Table, count, interval, points
from tinygan.errors import ConfigError

if TYPE_CHECKING:
    from tinygan.detections import GroundTruth
    from tinygan.evaluate.groups import Estimate, GroupComparison, GroupRecall
    from tinygan.evaluate.wider import WiderResult

PRECISION = 0.9
_SMALL = "*"


def check_groups(arguments: argparse.Namespace) -> None:
    """Refuse ``--precision`` that has no meaning.

    Raises:
        ConfigError: if it is 0, or goes without ``--groups``.
    """
    if arguments.precision is not None and arguments.groups is None:
        raise ConfigError(f"--precision {arguments.precision:g} is for --groups; give that too")
    if arguments.precision == 0:
        raise ConfigError("--precision 0: expected a number above 0, at most 1")


def measure_groups(
    table: Path, precision: float | None, faces: Mapping[str, GroundTruth], results: Mapping[str, WiderResult]
) -> GroupComparison:
    """Recall by group at equal precision.

    Args:
        table: the groups, as CSV.
        precision: of all detections, in (0, 1]; default: :data:`PRECISION`.
        faces: every annotated face of the ground truth.
        results: ``detections`` and perhaps ``baseline``.
    """
    from tinygan.evaluate.groups import compare_groups
    from tinygan.formats.face_groups import load_face_groups

    members = load_face_groups(table, {name: len(truth) for name, truth in faces.items()})
    return compare_groups(results, faces, members, precision or PRECISION, RESAMPLES, SEED, LEVEL)


def tabulate_groups(comparison: GroupComparison) -> Table:
    """One line per group."""
    from tinygan.evaluate.groups import FEW_FACES, FEW_IMAGES

    lowest = ", ".join(
        f"{role} from score {threshold:.4g}" if math.isfinite(threshold) else f"{role} never, so none is kept"
        for role, threshold in comparison.thresholds.items()
    )
    compared = "baseline" in comparison.thresholds
    heading = ["recall" if not compared else "recall before", "95 %"]
    heading += ["after", "95 %", "difference", "95 %"] if compared else []
    rows = [["faces of", "faces", "images", *heading]]
    for attribute, values in comparison.groups.items():
        for value, group in values.items():
            label = f"{attribute} {value}{_SMALL if group.is_small else ''}"
            rows.append([label, count(group.faces), count(group.images), *_figures(group)])
    return Table(
        f"recall in percent at precision {comparison.precision:g} on all valid faces ({lowest})",
        rows,
        f"{_SMALL} fewer than {FEW_FACES} faces or {FEW_IMAGES} images: too few to conclude from; intervals by "
        f"bootstrap over images ({RESAMPLES:,} draws), of the difference paired",
    )


def describe_groups(arguments: argparse.Namespace, comparison: GroupComparison) -> dict[str, object]:
    """Every figure, for the JSON report."""
    return {
        "file": str(arguments.groups),
        "measure": "recall at equal precision on all valid faces, IoU 0.5, in percent; difference in points",
        "precision": comparison.precision,
        "thresholds": dict(comparison.thresholds),
        "bootstrap": BOOTSTRAP,
        "attributes": {
            attribute: {value: _described(group) for value, group in values.items()}
            for attribute, values in comparison.groups.items()
        },
    }


def _figures(group: GroupRecall) -> list[str]:
    cells = []
    for estimate in (group.before, group.after):
        if estimate is not None:
            cells += [_percent(estimate.value), f"[{_percent(estimate.low)}, {_percent(estimate.high)}]"]
    if group.difference is not None:
        cells += [points(group.difference.value), interval(group.difference.low, group.difference.high)]
    return cells


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else NONE


def _described(group: GroupRecall) -> dict[str, object]:
    estimates = {"detections": group.after, "baseline": group.before, "difference": group.difference}
    counts = {"faces": group.faces, "images": group.images, "small": group.is_small}
    return {**counts, **{name: _in_percent(one) for name, one in estimates.items() if one is not None}}


def _in_percent(estimate: Estimate) -> dict[str, float]:
    return {"value": 100 * estimate.value, "low": 100 * estimate.low, "high": 100 * estimate.high}

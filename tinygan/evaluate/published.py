"""Published curves of WIDER FACE (precision-recall) and FDDB (ROC), in the files of the official tools."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinygan.detections import FloatArray
from tinygan.errors import DataError
from tinygan.evaluate.curves import Curve, average_precision
from tinygan.formats import wider_mat
from tinygan.formats.fddb import RocPoints, load_roc

_FILE_NAME = re.compile(r"wider_pr_info_(?P<method>.+)_(?P<subset>easy|medium|hard)_val\.mat")
_ROC_NAME = re.compile(r"(?P<method>.+?)[-_ ]?(?P<kind>Disc|Cont)ROC\.txt", re.IGNORECASE)
_KINDS = {"disc": "discrete", "cont": "continuous"}
_KEY = "pr_cruve"  # as the official files spell it


@dataclass(frozen=True, eq=False)
class PublishedCurve:
    """One method's curve on one subset.

    Attributes:
        method: its name in the official legends.
        subset: ``easy``, ``medium`` or ``hard``.
        curve: 1,000 points on scores normalised to [0, 1].
        ap: the curve's average precision in [0, 1].
    """

    method: str
    subset: str
    curve: Curve
    ap: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ap", average_precision(self.curve))


def load_published_curves(folder: Path) -> dict[str, list[PublishedCurve]]:
    """Read every ``wider_pr_info_<method>_<subset>_val.mat`` (MATLAB v5 or v7.3) in a folder or below.

    Args:
        folder: e.g. ``plot/baselines/Val/setting_int`` of the official ``eval_tools.zip``.

    Returns:
        ``{subset: curves by falling AP}``.

    Raises:
        DataError: if the folder is absent or holds none, or a file is damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of published curves")
    found: dict[str, list[PublishedCurve]] = {}
    for path in sorted(folder.rglob("wider_pr_info_*.mat")):
        named = _FILE_NAME.fullmatch(path.name)
        if named:
            found.setdefault(named["subset"], []).append(load_published_curve(path, named["subset"]))
    if not found:
        raise DataError(
            f"{folder}: expected wider_pr_info_<method>_<easy|medium|hard>_val.mat in it or below, found none"
        )
    return {subset: sorted(curves, key=lambda c: (-c.ap, c.method)) for subset, curves in found.items()}


def load_published_rocs(folder: Path) -> dict[str, dict[str, RocPoints]]:
    """Read every ``<method>DiscROC.txt`` and ``<method>ContROC.txt`` in a folder or below.

    Args:
        folder: e.g. of the result files on FDDB's web page.

    Returns:
        ``{"discrete" or "continuous": {method: curve by rising false positives}}``, by name.

    Raises:
        DataError: if the folder is absent or holds none, or a file is malformed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of published curves")
    found: dict[str, dict[str, RocPoints]] = {}
    for path in sorted(folder.rglob("*.txt")):
        named = _ROC_NAME.fullmatch(path.name)
        if named:
            points = load_roc(path)
            order = np.argsort(points.false_positives, kind="stable")
            rising = RocPoints(points.tpr[order], points.false_positives[order], points.thresholds[order])
            found.setdefault(_KINDS[named["kind"].lower()], {})[named["method"]] = rising
    if not found:
        raise DataError(f"{folder}: expected <method>DiscROC.txt or <method>ContROC.txt in it or below, found none")
    return found


def load_published_curve(path: Path, subset: str) -> PublishedCurve:
    """Read one file.

    Args:
        path: a ``.mat`` file with ``pr_cruve`` [K, 2], precision and recall, and ``legend_name``.
        subset: name of the subset.

    Raises:
        DataError: if the file is damaged or holds something else.
    """
    cells = wider_mat.read_mat(path, (_KEY, "legend_name"))
    name, points = cells["legend_name"], np.asarray(cells[_KEY])
    if points.dtype.kind not in "fiu" or points.ndim != 2 or points.shape[1] != 2 or not _plausible(points):
        raise DataError(
            f"{path}: expected {_KEY} [K, 2] of precision and recall in [0, 1], recall rising; "
            f"got {list(points.shape)}; copy it again from the official eval_tools.zip"
        )
    thresholds = 1.0 - np.arange(1, len(points) + 1) / len(points)
    precision, recall = np.nan_to_num(points.astype(np.float64)).T  # 0/0 where nothing is counted
    return PublishedCurve(str(name), subset, Curve(thresholds, precision, recall))


def _plausible(points: FloatArray) -> bool:
    known = np.nan_to_num(points)
    return bool(len(known) and known.min() >= 0 and known.max() <= 1 + 1e-9 and (np.diff(known[:, 1]) >= -1e-9).all())

"""FDDB's text formats: ellipse ground truth in folds, detections (one file for many images), and printed ROC curves.

Every file is a sequence of blocks: an image name, a count, and so many rows of numbers. Parsers are
pure (lines in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.boxes import xywh_to_xyxy, xyxy_to_xywh
from tinygan.detections import Detections, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.wider import read_text

ELLIPSE = "ellipse"
"""Column of ``Detections.fields`` and ``GroundTruth.fields``: float64 [N, 5], ``major minor theta cx cy``."""

MAX_RADIUS_PX = 100_000
NO_FOLD = 0
LARGEST = 1e100  # numbers are read below it
_FOLD = re.compile(r"fold-?(\d+)", re.IGNORECASE)
_TRUTH_ROW = "'major minor theta cx cy 1', six finite numbers"
_RECTANGLE_ROW = "'x y w h score', five finite numbers"
_ELLIPSE_ROW = "'major minor theta cx cy score', six finite numbers"
_RADII = f"with radii of 0 to {MAX_RADIUS_PX:,} px"


@dataclass(frozen=True, eq=False)
class FddbTruth:
    """The annotated faces of FDDB.

    Attributes:
        ellipses: ``{image name: float64 [M, 5]}``, a row ``major minor theta cx cy``: radii in pixels, the
            angle of the major axis against the x axis in radians (y points down), and the centre.
        folds: ``{image name: number of its fold}``; ``NO_FOLD`` where the file's name says none.

    Raises:
        ValueError: if a shape is wrong, a number is not finite, or the two disagree on the images.
    """

    ellipses: Mapping[str, FloatArray]
    folds: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.ellipses.keys() != self.folds.keys():
            raise ValueError("ellipses and folds must be of the same images")
        for name, rows in self.ellipses.items():
            if rows.ndim != 2 or rows.shape[1] != 5 or not np.isfinite(rows).all():
                raise ValueError(f"ellipses of '{name}' must be finite and of shape [M, 5], got {list(rows.shape)}")

    @property
    def names(self) -> list[str]:
        """The images, in file order."""
        return list(self.ellipses)

    @property
    def faces(self) -> dict[str, GroundTruth]:
        """The faces as bounding rectangles, with the column ``ellipse``; none is invalid."""
        return {
            name: GroundTruth(bounding_boxes(rows), np.zeros(len(rows), dtype=np.bool_), {ELLIPSE: rows})
            for name, rows in self.ellipses.items()
        }


@dataclass(frozen=True, eq=False)
class RocPoints:
    """A ROC curve as the official evaluation prints it, in file order.

    Attributes:
        tpr: float64 [K], true positive rate in [0, 1].
        false_positives: float64 [K].
        thresholds: float64 [K]; NaN where the file has none (continuous curves).
    """

    tpr: FloatArray
    false_positives: FloatArray
    thresholds: FloatArray


def parse_ellipses(lines: Iterable[str], source: str) -> dict[str, FloatArray]:
    """Read an ``*ellipseList.txt``.

    Args:
        lines: for each image its name, the number of faces, and one line ``major minor theta cx cy 1`` per
            face.
        source: path for error messages.

    Returns:
        ``{image name: float64 [M, 5]}`` in file order, see :class:`FddbTruth`.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    ellipses = {}
    for block in _blocks(lines, source):
        rows = block.numbers({6: _TRUTH_ROW}, empty_columns=6)
        ellipses[block.name] = block.checked_ellipses(rows)
    return ellipses


def load_folds(path: Path) -> FddbTruth:
    """Read the ground truth: a folder of ``FDDB-fold-XX-ellipseList.txt``, or one such file.

    Raises:
        DataError: if the path is absent or holds no such file, if a line is malformed, or if an image
            is annotated in two files.
    """
    files = sorted(path.rglob("*ellipseList.txt")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: expected FDDB's FDDB-fold-XX-ellipseList.txt in this folder, found none")
    ellipses: dict[str, FloatArray] = {}
    folds: dict[str, int] = {}
    for file in files:
        found = parse_ellipses(_lines(file, "FDDB's ground truth (FDDB-fold-XX-ellipseList.txt)"), str(file))
        _refuse_second(ellipses, found, file)
        ellipses.update(found)
        folds.update(dict.fromkeys(found, fold_of(file.name)))
    return FddbTruth(ellipses, folds)


def parse_fddb(lines: Iterable[str], source: str) -> dict[str, Detections]:
    """Read detections of many images.

    Args:
        lines: for each image its name, the number of detections, and one line per detection: a rectangle
            ``x y w h score`` or an ellipse ``major minor theta cx cy score``; all of an image are of one kind.
        source: path for error messages.

    Returns:
        ``{image name: detections}`` in file order; ``x2 = x + w``, ``y2 = y + h``. Ellipses are in the
        column ``ellipse`` (float64 [N, 5]), their boxes are the bounding rectangles.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    detections = {}
    for block in _blocks(lines, source):
        rows = block.numbers({5: _RECTANGLE_ROW, 6: _ELLIPSE_ROW}, empty_columns=5)
        if rows.shape[1] == 5:
            detections[block.name] = Detections(xywh_to_xyxy(rows[:, :4]), rows[:, 4])
        else:
            ellipses = block.checked_ellipses(rows)
            detections[block.name] = Detections(bounding_boxes(ellipses), rows[:, 5], {ELLIPSE: ellipses})
    return detections


def load_fddb(path: Path) -> dict[str, Detections]:
    """Read detections: one file, or a folder of them such as ``fold-XX-out.txt``.

    Where a folder holds files named after folds, those alone are read (ROC curves aside); else every
    ``.txt`` in it.

    Raises:
        DataError: if the path is absent or holds no such file, if a line is malformed, or if two files
            list one image.
    """
    files = _detection_files(path) if path.is_dir() else [path]
    detections: dict[str, Detections] = {}
    for file in files:
        found = parse_fddb(_lines(file, "detections in FDDB's format"), str(file))
        _refuse_second(detections, found, file)
        detections.update(found)
    return detections


def format_fddb(detections: Mapping[str, Detections]) -> str:
    """Detections as FDDB's text, each image by falling score; numbers read back exactly (boxes to 1e-6 px).

    An image whose detections have the column ``ellipse`` is written as ellipses, any other as rectangles.
    """
    lines: list[str] = []
    for name, found in detections.items():
        ordered = found.sorted()
        shapes = ordered.fields[ELLIPSE] if ELLIPSE in ordered.fields else xyxy_to_xywh(ordered.boxes)
        lines += _block_lines(name, np.concatenate([shapes, ordered.scores[:, None]], axis=1))
    return "\n".join(lines) + "\n" if lines else ""


def format_ellipses(ellipses: Mapping[str, FloatArray]) -> str:
    """Ground truth as the text of an ``*ellipseList.txt``."""
    lines: list[str] = []
    for name, rows in ellipses.items():
        lines += _block_lines(name, np.concatenate([rows, np.ones((len(rows), 1))], axis=1))
    return "\n".join(lines) + "\n" if lines else ""


def parse_roc(lines: Iterable[str], source: str) -> RocPoints:
    """Read a ROC curve as the official evaluation prints it.

    Args:
        lines: ``TPR FP threshold`` (discrete) or ``TPR FP`` (continuous) per line.
        source: path for error messages.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    points = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        values = _floats(line, math.inf)  # without detections the official threshold is the largest double
        if values is None or len(values) not in (2, 3):
            raise DataError(f"{source}:{number}: expected 'TPR FP' or 'TPR FP threshold', got '{line.strip()}'")
        points.append([*values, np.nan][:3])
    if not points:
        raise DataError(f"{source}:1: expected a ROC curve, 'TPR FP threshold' a line; the file is empty")
    tpr, false_positives, thresholds = np.array(points, dtype=np.float64).T
    return RocPoints(tpr, false_positives, thresholds)


def load_roc(path: Path) -> RocPoints:
    """Read a ``*DiscROC.txt`` or ``*ContROC.txt`` from disk; see :func:`parse_roc`."""
    return parse_roc(_lines(path, "a ROC curve of FDDB (*DiscROC.txt, *ContROC.txt)"), str(path))


def format_roc(points: RocPoints) -> str:
    """A ROC curve as the official evaluation prints it, ``TPR FP threshold`` or, without thresholds, ``TPR FP``."""
    columns = [points.tpr, points.false_positives, points.thresholds]
    kept = columns[:2] if np.isnan(points.thresholds).any() else columns
    lines = [" ".join(_shortest(value) for value in row) for row in np.stack(kept, axis=1).tolist()]
    return "\n".join(lines) + "\n" if lines else ""


def bounding_boxes(ellipses: FloatArray) -> FloatArray:
    """The upright rectangles around ellipses.

    Args:
        ellipses: float64 [N, 5], ``major minor theta cx cy``.

    Returns:
        float64 [N, 4], ``x1, y1, x2, y2``.
    """
    major, minor, theta, x, y = ellipses.T
    half_width = np.hypot(major * np.cos(theta), minor * np.sin(theta))
    half_height = np.hypot(major * np.sin(theta), minor * np.cos(theta))
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def fold_of(file_name: str) -> int:
    """The fold a file is named after (``FDDB-fold-07-ellipseList.txt`` is 7), or ``NO_FOLD``."""
    found = _FOLD.search(file_name)
    return int(found[1]) if found else NO_FOLD


@dataclass(frozen=True)
class _Block:
    """One image's lines: its name is on line ``at`` (from 1), its count on the next, then the rows follow."""

    name: str
    at: int
    rows: list[str]
    source: str

    def numbers(self, rows_of: Mapping[int, str], empty_columns: int) -> FloatArray:
        """The rows as float64 [N, C], for C among ``{columns: what a row is}``; the first row decides on C."""
        if not self.rows:
            return np.zeros((0, empty_columns))
        columns = len(self.rows[0].split())
        expected = rows_of.get(columns, " or ".join(rows_of.values()))
        numbers = []
        for number, row in enumerate(self.rows):
            values = _floats(row)
            if values is None or columns not in rows_of or len(values) != columns:
                raise DataError(f"{self.source}:{self.at + 2 + number}: expected {expected}; got '{row.strip()}'")
            numbers.append(values)
        return np.array(numbers, dtype=np.float64)

    def checked_ellipses(self, rows: FloatArray) -> FloatArray:
        """The first five columns, [N, 5]; radii that cannot be drawn are an error."""
        bad = np.flatnonzero(((rows[:, :2] < 0) | (rows[:, :2] > MAX_RADIUS_PX)).any(axis=1))
        if len(bad):
            raise DataError(
                f"{self.source}:{self.at + 2 + bad[0]}: expected an ellipse {_RADII}; got '{self.rows[bad[0]].strip()}'"
            )
        return rows[:, :5]


def _blocks(lines: Iterable[str], source: str) -> Iterator[_Block]:
    """The images of a file, one by one."""
    every = [line.rstrip("\r\n") for line in lines]
    seen: set[str] = set()
    at = 0
    while at < len(every):
        name = every[at].strip()
        if not name:
            at += 1
            continue
        count = every[at + 1].strip() if at + 1 < len(every) else "end of file"
        if not (count.isascii() and count.isdigit() and len(count) < 10):
            raise DataError(f"{source}:{at + 2}: expected the number of rows of '{name}', got '{count}'")
        rows = every[at + 2 : at + 2 + int(count)]
        if len(rows) < int(count):
            raise DataError(f"{source}:{at + 2}: the count says {count} rows, but the file ends after {len(rows)}")
        if name in seen:
            raise DataError(f"{source}:{at + 1}: image '{name}' is listed a second time")
        seen.add(name)
        yield _Block(name, at + 1, rows, source)
        at += 2 + len(rows)


def _block_lines(name: str, rows: FloatArray) -> list[str]:
    return [name, str(len(rows)), *(" ".join(_shortest(value) for value in row) for row in rows.tolist())]


def _shortest(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _floats(row: str, limit: float = LARGEST) -> list[float] | None:
    """The numbers of a row; None if one is not a number, or not below ``limit``: sums of two must be finite too."""
    try:
        values = [float(value) for value in row.split()]
    except ValueError:
        return None
    return values if all(abs(value) < limit for value in values) else None


def _lines(path: Path, expected: str) -> list[str]:
    return read_text(path, expected).split("\n")


def _detection_files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*.txt") if p.is_file() and not p.stem.endswith("ROC"))
    chosen = [file for file in files if fold_of(file.name) != NO_FOLD] or files
    if not chosen:
        raise DataError(f"{folder}: expected detections in FDDB's format (fold-XX-out.txt) in it, found no .txt")
    return chosen


def _refuse_second(known: Mapping[str, object], found: Iterable[str], file: Path) -> None:
    for name in found:
        if name in known:
            raise DataError(f"{file}: image '{name}' is listed in another file too; give one of the two")

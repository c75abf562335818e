"""WIDER FACE's text formats: ground truth (``*_bbx_gt.txt``), detections (one file per image), and its folder layout.

Parsers are pure (text in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tinygan.boxes import xywh_to_xyxy, xyxy_to_xywh
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.files import content_digest, listing_digest, to_utf8

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
Split = Literal["train", "val"]


def parse_detections(text: str, source: str) -> Detections:
    """Read one image's detections in the official submission format.

    Args:
        text: image name, count, then one line ``x y w h score`` per detection.
        source: path for error messages.

    Returns:
        The detections in file order; ``x2 = x + w``, ``y2 = y + h``.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    head, _, rest = text.strip().partition("\n")
    count_line, _, body = rest.partition("\n")
    try:
        count = int(count_line)
        rows = np.array([row.split() for row in body.splitlines()], dtype=np.float64)
    except ValueError:  # not numbers, or lines of different lengths
        count, rows = -1, np.zeros((0, 5))
    rows = rows if len(rows) else np.zeros((0, 5))
    if not head or rows.shape != (count, 5) or not np.isfinite(rows).all():
        raise DataError(_explain_bad_detections(text, source))
    return Detections(xywh_to_xyxy(rows[:, :4]), rows[:, 4])


def format_detections(name: str, detections: Detections) -> str:
    """One image's detections as official text, by falling score; numbers read back exactly (boxes to 1e-6 px)."""
    ordered = detections.sorted()
    lines = [name, str(len(ordered))]
    columns = np.concatenate([xyxy_to_xywh(ordered.boxes), ordered.scores[:, None]], axis=1)
    lines += [" ".join(_shortest(value) for value in row) for row in columns.tolist()]
    return "\n".join(lines) + "\n"


def parse_ground_truth(text: str, source: str) -> dict[str, GroundTruth]:
    """Read a ``*_bbx_gt.txt``.

    Each image is a name, a count, and ``x y w h blur expression illumination invalid occlusion pose``
    per face. An image without faces has the count 0 or 1 and an all-zero row, which is dropped.

    Args:
        text: the file's text.
        source: path for error messages.

    Returns:
        ``{image name: faces}`` in file order.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    lines = text.splitlines()
    faces: dict[str, GroundTruth] = {}
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        if not name:
            at += 1
            continue
        count = _parse_count(lines, at, name, source)
        # A count of 0 is still followed by one all-zero row in the official files.
        rows = count or (1 if at + 2 < len(lines) and _is_zero_row(lines[at + 2]) else 0)
        if name in faces:
            raise DataError(f"{source}:{at + 1}: image '{name}' is listed a second time")
        faces[name] = _parse_faces(lines, at + 2, rows, source)
        at += 2 + rows
    return faces


def load_ground_truth(path: Path) -> dict[str, GroundTruth]:
    """Read a ``*_bbx_gt.txt`` from disk; see :func:`parse_ground_truth`."""
    return parse_ground_truth(read_text(path, "a WIDER ground truth (*_bbx_gt.txt)"), str(path))


def format_ground_truth(faces: Mapping[str, GroundTruth]) -> str:
    """Faces as the text of a ``*_bbx_gt.txt``; an image without faces gets the official all-zero row."""
    lines: list[str] = []
    for name, truth in faces.items():
        lines += [name, str(len(truth))]
        columns = {**truth.fields, "invalid": truth.invalid}
        for row, xywh in enumerate(xyxy_to_xywh(truth.boxes).tolist()):
            flags = [int(columns[a][row]) if a in columns else 0 for a in ATTRIBUTES]
            lines.append(" ".join([*map(_shortest, xywh), *map(str, flags)]))
        if not len(truth):
            lines.append(" ".join("0" * 10))
    return "\n".join(lines) + "\n"


def load_subset(path: Path) -> list[str]:
    """Image names from a list (one per line) or from a ``*_bbx_gt.txt``.

    Raises:
        DataError: if the file is absent, malformed or empty.
    """
    text = read_text(path, "a list of image names or a *_bbx_gt.txt")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and is_count(lines[1]):
        return list(parse_ground_truth(text, str(path)))
    if not lines:
        raise DataError(f"{path}: expected image names, one a line; the file is empty")
    return lines


@dataclass(frozen=True)
class WiderSplit:
    """One split of a WIDER FACE root.

    Attributes:
        images: folder that image names are relative to.
        faces: ``{image name: faces}``.
    """

    images: Path
    faces: dict[str, GroundTruth]


def load_split(root: Path, split: Split) -> WiderSplit:
    """Read a split of ``ROOT/{WIDER_train,WIDER_val}/images`` and ``ROOT/wider_face_split/``.

    Raises:
        DataError: if a folder or file of that layout is missing.
    """
    images = root / f"WIDER_{split}" / "images"
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; --data is a WIDER FACE root with WIDER_{split}/images/ in it")
    return WiderSplit(images, load_ground_truth(root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"))


def split_digest(root: Path, split: Split) -> str:
    """A hash of a split's faces, and of the names and sizes of its pictures, for a run to note what it is made of."""
    faces = content_digest(root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt")
    images = root / f"WIDER_{split}" / "images"
    return f"{faces}{listing_digest(images) if images.is_dir() else ''}"


def read_text(path: Path, expected: str) -> str:
    """Text of a file; a :class:`DataError` that says what was expected where it cannot be read."""
    try:
        return to_utf8(path.read_bytes()).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise DataError(f"{path}: expected {expected}: {reason}") from error


def _shortest(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _explain_bad_detections(text: str, source: str) -> str:
    lines = text.strip().splitlines()
    if len(lines) < 2 or not is_count(lines[1].strip()):
        got = lines[1] if len(lines) > 1 else "end of file"
        return f"{source}:2: expected the number of boxes after the image name, got '{got}'"
    for number, row in _bad_rows(lines[2:], columns=5):
        return f"{source}:{number + 3}: expected 'x y w h score', five finite numbers; got '{row}'"
    return f"{source}:2: the count says {lines[1].strip()} boxes, but {len(lines) - 2} lines follow"


def _bad_rows(rows: list[str], columns: int) -> Iterator[tuple[int, str]]:
    for number, row in enumerate(rows):
        try:
            values = [float(value) for value in row.split()]
        except ValueError:
            yield number, row
            continue
        if len(values) != columns or not np.isfinite(values).all():
            yield number, row


def _parse_count(lines: list[str], at: int, name: str, source: str) -> int:
    text = lines[at + 1].strip() if at + 1 < len(lines) else "end of file"
    if not is_count(text):
        raise DataError(f"{source}:{at + 2}: expected the number of faces of '{name}', got '{text}'")
    return int(text)


def is_count(text: str) -> bool:
    """Whether a line is a number of boxes."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _is_zero_row(line: str) -> bool:
    values = line.split()
    return len(values) >= 4 and all(value == "0" for value in values)


def _parse_faces(lines: list[str], start: int, rows: int, source: str) -> GroundTruth:
    block = lines[start : start + rows]
    for number, row in _bad_rows(block, columns=4 + len(ATTRIBUTES)):
        raise DataError(
            f"{source}:{start + number + 1}: expected 'x y w h {' '.join(ATTRIBUTES)}', ten numbers; got '{row}'"
        )
    if len(block) < rows:
        raise DataError(f"{source}:{start}: the count says {rows} faces, but the file ends after {len(block)}")
    values = np.array([row.split() for row in block], dtype=np.float64).reshape(rows, 4 + len(ATTRIBUTES))
    if rows == 1 and not values.any():
        return GroundTruth.empty()
    with np.errstate(over="ignore"):
        corners = xywh_to_xyxy(values[:, :4])
    for row in np.flatnonzero(~np.isfinite(corners).all(axis=1)).tolist():
        raise DataError(f"{source}:{start + row + 1}: x + w or y + h is too large a number; got '{block[row]}'")
    columns = dict(zip(ATTRIBUTES, values[:, 4:].astype(np.int64).T, strict=True))
    invalid = columns.pop("invalid").astype(np.bool_)
    return GroundTruth(corners, invalid, columns)

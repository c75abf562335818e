"""RetinaFace's ``label.txt``: WIDER FACE boxes with five landmarks.

Parsers are pure (text in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinygan.boxes import xywh_to_xyxy
from tinygan.detections import FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.files import decode, read_bytes

LANDMARKS = "landmarks"
"""Column of ``GroundTruth.fields``: float64 [M, 5, 2], ``x, y`` in pixels of the left and right eye, nose, left and
right corner of the mouth (as seen in the image); NaN where there is none."""

LANDMARK_FLAGS = "landmark_flags"
"""Column of ``GroundTruth.fields``: float64 [M, 5], the third number of each landmark, as in the file; -1
where there is none."""

LANDMARK_QUALITY = "landmark_quality"
"""Column of ``GroundTruth.fields``: float64 [M], the last number of a row; NaN where there is none."""

POINTS = 5
_BOX, _WITH_POINTS, _WITH_QUALITY = 4, 4 + 3 * POINTS, 5 + 3 * POINTS
_ROW = (
    f"'x y w h', then nothing or 'x y v' of {POINTS} landmarks and a number ({_BOX}, {_WITH_POINTS} or {_WITH_QUALITY})"
)


def parse_labels(text: str, source: str) -> dict[str, GroundTruth]:
    """Read a ``label.txt``.

    Args:
        text: ``# event/name.jpg`` lines, each followed by one row per face: ``x y w h``, five times ``x y v``
            and a number; or ``x y w h`` alone, as in the validation file. A point ``-1 -1`` is none.
        source: path for error messages.

    Returns:
        ``{image name: faces}`` in file order, none invalid, with the columns ``landmarks``,
        ``landmark_flags`` and ``landmark_quality``.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    rows_of: dict[str, list[list[float]]] = {}
    rows: list[list[float]] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#"):
            name = line[1:].strip()
            if not name or name in rows_of:
                problem = f"image '{name}' is listed a second time" if name else "expected the name of an image after #"
                raise DataError(f"{source}:{number}: {problem}")
            rows = rows_of[name] = []
        elif line.strip():
            if rows is None:
                raise DataError(f"{source}:{number}: expected '# image name' before the first face, got '{line[:200]}'")
            rows.append(_parse_row(line, f"{source}:{number}"))
    return {name: _faces(np.array(values).reshape(-1, _WITH_QUALITY)) for name, values in rows_of.items()}


def load_labels(path: Path) -> dict[str, GroundTruth]:
    """Read a ``label.txt`` from disk; see :func:`parse_labels`.

    Raises:
        DataError: if the file is absent, malformed or lists no image.
    """
    faces = parse_labels(decode(read_bytes(path, "RetinaFace's label.txt"), str(path)), str(path))
    if not faces:
        raise DataError(f"{path}: expected '# image name' lines and faces (RetinaFace's label.txt), found none")
    return faces


def _parse_row(line: str, place: str) -> list[float]:
    """20 numbers; those that the row lacks are -1 (points) and NaN (quality)."""
    try:
        values = [float(value) for value in line.split()]
    except ValueError:
        values = []
    corner = [values[0] + values[2], values[1] + values[3]] if len(values) >= _BOX else []
    if len(values) not in (_BOX, _WITH_POINTS, _WITH_QUALITY) or not np.isfinite([*values, *corner]).all():
        raise DataError(f"{place}: expected {_ROW}; got '{line.strip()[:200]}'")
    points = values[_BOX:_WITH_POINTS] or [-1.0] * (3 * POINTS)
    return [*values[:_BOX], *points, *(values[_WITH_POINTS:] or [np.nan])]


def _faces(rows: FloatArray) -> GroundTruth:
    points = rows[:, _BOX:_WITH_POINTS].reshape(-1, POINTS, 3)
    absent = (points[:, :, :2] == -1).all(axis=2, keepdims=True)
    fields = {
        LANDMARKS: np.where(absent, np.nan, points[:, :, :2]),
        LANDMARK_FLAGS: points[:, :, 2],
        LANDMARK_QUALITY: rows[:, _WITH_POINTS],
    }
    return GroundTruth(xywh_to_xyxy(rows[:, :_BOX]), np.zeros(len(rows), dtype=np.bool_), fields)

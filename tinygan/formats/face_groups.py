"""Attributes of annotated faces as a CSV table: ``image, face`` and any columns, such as ``perceived_skin``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tinygan.errors import DataError
from tinygan.files import decode, read_bytes
from tinygan.formats.names import match_names

IMAGE, FACE = "image", "face"
_EXPECTED = "a CSV table with the columns image, face and one or more attributes, one face per line"

FaceGroups = Mapping[str, Mapping[str, "list[tuple[str, int]]"]]  # {attribute: {value: [(image, face)]}}


@dataclass(frozen=True)
class _Row:
    """One line: the face, its values in the order of the attributes, and where it was read."""

    image: str
    face: int
    values: list[str]
    where: str


def load_face_groups(path: Path, faces: Mapping[str, int]) -> FaceGroups:
    """Read which faces share an attribute's value.

    Args:
        path: a CSV table: ``image`` is a name as of the ground truth, ``face`` the row of the image's boxes there, from
            0 on; every other column is an attribute. Its values are taken as they are, "Not Sure" like any other; an
            empty one puts the face in no group of that attribute.
        faces: ``{image name: number of its boxes}``, of every image of the ground truth.

    Returns:
        ``{attribute: {value: [(image name as in faces, face)]}}``, values in alphabetical order.

    Raises:
        DataError: if columns are absent, an image is not in the ground truth, it has no such face, or a face comes
            twice.
    """
    attributes, rows = _read(decode(read_bytes(path, _EXPECTED), str(path)), str(path))
    image_of = {row: image for image, row in match_names({row.image: 0 for row in rows}, faces, str(path)).items()}
    seen: dict[tuple[str, int], str] = {}
    groups: dict[str, dict[str, list[tuple[str, int]]]] = {attribute: {} for attribute in attributes}
    for row in rows:
        if row.image not in image_of:
            raise DataError(
                f"{row.where}: image '{row.image}' is not among the {len(faces):,} images of the ground truth, such as "
                f"'{next(iter(faces), '')}'; give the table of this ground truth"
            )
        key = image_of[row.image], row.face
        if not 0 <= row.face < faces[key[0]]:
            raise DataError(
                f"{row.where}: face {row.face} of '{row.image}', which has {faces[key[0]]} boxes in the ground truth; "
                "faces count from 0"
            )
        if key in seen:
            raise DataError(f"{row.where}: face {row.face} of '{row.image}' was there before, at {seen[key]}")
        seen[key] = row.where
        for attribute, value in zip(attributes, row.values, strict=True):
            if value:
                groups[attribute].setdefault(value, []).append(key)
    return {attribute: dict(sorted(values.items())) for attribute, values in groups.items()}


def _read(text: str, source: str) -> tuple[list[str], list[_Row]]:
    """The attributes' names and all lines of a table."""
    lines = _lines(text, source)
    header = next(lines, ("", []))[1]
    attributes = [name for name in header if name not in (IMAGE, FACE)]
    absent = [name for name in (IMAGE, FACE) if name not in header]
    if absent or not attributes or "" in header or len(set(header)) < len(header):
        raise DataError(f"{source}:1: expected {_EXPECTED}; got the columns {', '.join(header) or '(none)'}")
    rows = []
    for where, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"{where}: expected {len(header)} columns ({', '.join(header)}), got {len(cells)}")
        row = dict(zip(header, cells, strict=True))
        try:
            face = int(row[FACE])
        except ValueError:
            raise DataError(f"{where}: expected the number of a face, from 0 on, got '{row[FACE]}'") from None
        rows.append(_Row(row[IMAGE], face, [row[name] for name in attributes], where))
    if not rows:
        raise DataError(f"{source}: there is no face below the heading; expected {_EXPECTED}")
    return attributes, rows


def _lines(text: str, source: str) -> Iterator[tuple[str, list[str]]]:
    """Every line that is not blank, and where it is."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{source}:{reader.line_num}", [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{source}:{reader.line_num}: expected a line of CSV: {error}") from error

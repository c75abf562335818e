"""Writes detections as popular tools do; :data:`tinygan.formats.registry.DIALECTS` names them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tinygan.boxes import area, xyxy_to_xywh
from tinygan.detections import Detections
from tinygan.files import encode, write_atomically
from tinygan.formats.categories import FACE
from tinygan.formats.coco import FACE_CATEGORY, ids_of
from tinygan.formats.dialect import Dialect

_CORNERS = ("x_min", "y_min", "x_max", "y_max")


def save_sahi(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    """SAHI's result: COCO results with the category's name; image ids are those of ``names``, or the names."""
    ids = ids_of(detections, dialect.names)
    entries = [
        {
            "image_id": ids[name],
            "bbox": xywh,
            "score": score,
            "category_id": FACE_CATEGORY,
            "category_name": FACE,
            "segmentation": [],
            "iscrowd": 0,
            "area": size,
        }
        for name, found in _sorted(detections)
        for xywh, score, size in zip(
            xyxy_to_xywh(found.boxes).tolist(), found.scores.tolist(), area(found.boxes).tolist(), strict=True
        )
    ]
    _save_json(path, entries)


def save_supervision_json(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    """What supervision's ``JSONSink`` writes if it gets ``{"image_name": ...}`` with each image's detections."""
    _save_json(path, list(_supervision_rows(detections)))


def save_supervision_csv(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    """What supervision's ``CSVSink`` writes if it gets ``{"image_name": ...}`` with each image's detections."""
    header = [*_CORNERS, "class_id", "confidence", "tracker_id", "image_name"]
    _save_csv(path, header, (list(row.values()) for row in _supervision_rows(detections)))


def save_pandas(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    """The columns of YOLOv5's ``results.pandas().xyxy``, after the image's name."""
    rows = (
        [name, *box, score, 0, FACE]
        for name, found in _sorted(detections)
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True)
    )
    _save_csv(path, ["image", "xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"], rows)


def save_detect(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    """The images of ``detections.json`` as ``tinygan-detect`` writes it, without the pictures' sizes."""
    images = []
    for name, found in _sorted(detections):
        columns = {"box": found.boxes, "score": found.scores, **found.fields}
        rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        images.append({"name": name, "faces": [dict(zip(columns, row, strict=True)) for row in rows]})
    _save_json(path, {"images": images})


def _supervision_rows(detections: Mapping[str, Detections]) -> Iterator[dict[str, object]]:
    for name, found in _sorted(detections):
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
            rest = {"class_id": 0, "confidence": score, "tracker_id": "", "image_name": name}
            yield {**dict(zip(_CORNERS, box, strict=True)), **rest}


def _sorted(detections: Mapping[str, Detections]) -> Iterator[tuple[str, Detections]]:
    return ((name, found.sorted()) for name, found in detections.items())


def _save_json(path: Path, content: object) -> None:
    write_atomically(path, encode(json.dumps(content, indent=1) + "\n", path))


def _save_csv(path: Path, header: list[str], rows: Iterator[list[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, encode(text.getvalue(), path))

"""Detections as JSON: COCO's results and what else popular tools write, told apart by their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError
from tinygan.files import decode, read_bytes
from tinygan.formats import coco, label_studio
from tinygan.formats.coco_json import expecting, load_naming, parse_json
from tinygan.formats.dialect import Dialect, Order
from tinygan.formats.folders import ParsedDetections
from tinygan.formats.tabular import parse_records

_FACES = "{'name', 'faces': [{'box': [x1, y1, x2, y2], 'score'}]}"


class Table(NamedTuple):
    """Detections by image name, and what the four numbers of a box are in the file."""

    detections: Mapping[str, Detections]
    order: Order


@dataclass(frozen=True)
class Shape:
    """A shape that JSON of detections comes in.

    Attributes:
        has: whether parsed JSON is of this shape.
        read: reads it, given the text it was parsed from, its path and what it leaves unsaid.
    """

    has: Callable[[Any], bool]
    read: Callable[[Any, str, str, Dialect], Table]


def load_json(path: Path, dialect: Dialect) -> ParsedDetections:
    """Read detections in any of :data:`SHAPES`; what is none of them, as COCO results.

    Raises:
        DataError: if the file is absent, is no JSON or malformed.
    """
    source = str(path)
    text = decode(read_bytes(path, "COCO results (JSON)"), source)
    content = parse_json(text, source)
    with expecting("detections as JSON", source):
        shape = next((shape for shape in SHAPES.values() if shape.has(content)), SHAPES["coco"])
        table = shape.read(content, text, source, dialect)
        return ParsedDetections(table.detections, path, table.order)


def _first(content: Any) -> Mapping[str, Any]:
    return content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}


def _entries(content: Any, key: str) -> Sequence[Mapping[str, Any]]:
    entries = content.get(key) if isinstance(content, dict) else None
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _read_results(content: Any, text: str, source: str, dialect: Dialect) -> Table:
    naming = load_naming(dialect.names)
    return Table(coco.read_results(content, text, source, naming, dialect.categories), "xywh")


def _read_annotations(content: Any, text: str, source: str, dialect: Dialect) -> Table:
    naming = load_naming(dialect.names)
    return Table(coco.read_scored_annotations(content, source, naming, dialect.categories), "xywh")


def _read_records(content: Any, text: str, source: str, dialect: Dialect) -> Table:
    if not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{source}: expected a list of objects, one per box")
    found = parse_records(content, source, dialect.categories)
    return Table(found, found.order)


def _read_tasks(content: Any, text: str, source: str, dialect: Dialect) -> Table:
    return Table(label_studio.load_detections(content, source, dialect.categories), "xyxy")


def _read_found(content: Any, text: str, source: str, dialect: Dialect) -> Table:
    """``detections.json`` of ``tinygan-detect``; a frame of a video is an image ``clip.mp4/12``."""
    detections: dict[str, Detections] = {}
    for number, image in enumerate(content["images"]):
        try:
            name = f"{image['name']}/{image['frame']}" if "frame" in image else str(image["name"])
            detections[name] = _faces(image["faces"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{source}: images[{number}]: expected {_FACES}: {error}") from error
    return Table(detections, "xyxy")


def _faces(faces: Sequence[Mapping[str, Any]]) -> Detections:
    boxes: FloatArray = np.array([face["box"] for face in faces], np.float64).reshape(-1, 4)
    fields = {
        key: np.array([face[key] for face in faces], np.float64)
        for key in ("proposal_score", "face_logit", "proposal_box", "landmarks")
        if faces and all(key in face for face in faces)
    }
    return Detections(boxes, np.array([face["score"] for face in faces], np.float64), fields)


SHAPES: dict[str, Shape] = {
    "coco": Shape(lambda content: "bbox" in _first(content), _read_results),
    "detect": Shape(lambda content: any("faces" in one for one in _entries(content, "images")), _read_found),
    "fiftyone": Shape(
        lambda content: any("score" in one for one in _entries(content, "annotations")), _read_annotations
    ),
    "label-studio": Shape(label_studio.is_label_studio, _read_tasks),
    "records": Shape(lambda content: bool(_first(content)) and "image_id" not in _first(content), _read_records),
}
"""By the tool that writes it; SAHI and Ultralytics write COCO results, supervision and pandas records."""

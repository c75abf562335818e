"""COCO's JSON: results (a list of detections), the names behind image ids, and annotations.

Parsers are pure (text in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinygan.boxes import xywh_to_xyxy, xyxy_to_xywh
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.files import decode, encode, read_bytes, write_atomically
from tinygan.formats.names import match_names
from tinygan.formats.rows import GroupedRows, Rows
from tinygan.formats.writing import check_sizes

ImageId: TypeAlias = "int | str"
FACE = "face"
FACE_CATEGORY = 1
_RESULT = "{'image_id', 'category_id', 'bbox': [x, y, w, h], 'score'} with finite numbers"
_ANNOTATION = "{'image_id', 'category_id', 'bbox': [x, y, w, h]} with finite numbers"
_GIVE_NAMES = "give the names with --names (a COCO annotation file, or any JSON with 'images')"


def parse_results(text: str, source: str, names: Mapping[ImageId, str] | None = None) -> Mapping[str, Detections]:
    """Read COCO results.

    Args:
        text: a JSON list of ``{image_id, category_id, bbox: [x, y, w, h], score}``, of one category.
        source: path for error messages.
        names: names of the images by id, see :func:`parse_names`. Without them ids have to be names.

    Returns:
        ``{image name: detections}`` in file order; images without detections are not in it.

    Raises:
        DataError: naming ``source:line`` of the first bad entry.
    """
    entries = _parse_json(text, source)
    if not isinstance(entries, list):
        raise DataError(
            f"{source}:1: expected COCO results, a list of {_RESULT}; got a single JSON value. "
            "Annotations (an object with 'images' and 'annotations') are no detections"
        )
    try:
        boxes = _boxes([entry["bbox"] for entry in entries])
        scores = _numbers([entry["score"] for entry in entries])
        ids = [entry["image_id"] for entry in entries]
        categories = {entry.get("category_id") for entry in entries}
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(_explain(text, source, entries, _is_result, _RESULT)) from error
    if len(categories) > 1:
        other = next(n for n, entry in enumerate(entries) if entry.get("category_id") != entries[0].get("category_id"))
        raise DataError(
            f"{source}:{_line_of(text, other)}: entry {other + 1}: expected detections of faces alone, got categories "
            f"{_some(categories)}; keep one of them"
        )
    images = _name_images(ids, names or {}, lambda entry: f"{source}:{_line_of(text, entry)}")
    return GroupedRows(Rows(images, boxes, scores, {}))


def load_results(path: Path, names: Path | None = None) -> Mapping[str, Detections]:
    """Read COCO results from disk; ``names`` is read by :func:`load_names`."""
    by_id = None if names is None else load_names(names)
    return parse_results(decode(read_bytes(path, "COCO results (JSON)"), str(path)), str(path), by_id)


def format_results(detections: Mapping[str, Detections], ids: Mapping[str, ImageId] | None = None) -> str:
    """Detections as COCO results, one entry per line, each image by falling score; fields are left out.

    Args:
        detections: ``{image name: detections}``.
        ids: ``{image name: image id}``; the names themselves if not given.

    Returns:
        JSON; scores read back exactly, boxes to 1e-6 px. An image without detections leaves no trace.
    """
    entries = []
    for name, found in detections.items():
        ordered = found.sorted()
        start = (
            f'{{"image_id": {json.dumps(name if ids is None else ids[name])}, "category_id": {FACE_CATEGORY}, "bbox"'
        )
        rows = zip(xyxy_to_xywh(ordered.boxes).tolist(), ordered.scores.tolist(), strict=True)
        entries += [f'{start}: {box}, "score": {score!r}}}' for box, score in rows]
    return "[\n" + ",\n".join(entries) + "\n]\n"


def save_results(path: Path, detections: Mapping[str, Detections], names: Path | None = None) -> None:
    """Write COCO results atomically, with the image ids of ``names`` if given.

    Raises:
        DataError: if ``names`` lacks an image, or a box cannot be written.
    """
    for name, found in detections.items():
        check_sizes(found, name, path)
    ids = None if names is None else _ids_of(detections, load_names(names), names)
    write_atomically(path, encode(format_results(detections, ids), path))


def parse_names(text: str, source: str) -> dict[ImageId, str]:
    """Read names of images: ``{"images": [{"id", "file_name"}, ...], ...}``, as in annotations, or that list alone.

    Returns:
        ``{image id: file name}``.

    Raises:
        DataError: if there is no such list, or it holds an id or a name twice.
    """
    return _names_of(_parse_json(text, source), source)


def load_names(path: Path) -> dict[ImageId, str]:
    """Read names of images from disk; see :func:`parse_names`."""
    return parse_names(decode(read_bytes(path, "a COCO annotation file (JSON)"), str(path)), str(path))


def parse_annotations(text: str, source: str) -> dict[str, GroundTruth]:
    """Read COCO annotations.

    Faces are the category called ``face``, or all annotations where there is one category or none. Those
    marked ``iscrowd`` or ``ignore`` are invalid.

    Args:
        text: ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "bbox": [x, y, w, h], ...}]}``.
        source: path for error messages.

    Returns:
        ``{file name: faces}`` of all images, in the order of ``images``.

    Raises:
        DataError: naming the file, and the line where the JSON cannot be read.
    """
    content = _parse_json(text, source)
    names = _names_of(content, source)
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{source}: expected COCO annotations, an object with the lists 'images' and 'annotations'")
    bad = next((number for number, entry in enumerate(entries) if not _is_annotation(entry)), None)
    if bad is not None:
        raise DataError(f"{source}: annotations[{bad}]: expected {_ANNOTATION}, got {_short(entries[bad])}")
    category = _face_category(content, source)
    faces = [entry for entry in entries if category is None or entry.get("category_id") == category]
    images = _name_images([entry["image_id"] for entry in faces], names, lambda _: source)
    rows_of: dict[str, list[int]] = {name: [] for name in names.values()}
    for row, image in enumerate(images):
        if image not in rows_of:
            raise DataError(f"{source}: 'images' lacks the image_id {image!r} of an annotation")
        rows_of[image].append(row)
    boxes = _boxes([entry["bbox"] for entry in faces])
    invalid = np.array([bool(entry.get("iscrowd")) or bool(entry.get("ignore")) for entry in faces], dtype=np.bool_)
    return {name: _faces_at(boxes, invalid, rows) for name, rows in rows_of.items()}


def load_annotations(path: Path) -> dict[str, GroundTruth]:
    """Read COCO annotations from disk; see :func:`parse_annotations`."""
    return parse_annotations(decode(read_bytes(path, "COCO annotations (JSON)"), str(path)), str(path))


def _faces_at(boxes: FloatArray, invalid: BoolArray, rows: Sequence[int]) -> GroundTruth:
    return GroundTruth(boxes[rows], invalid[rows]) if rows else GroundTruth.empty()


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source}:{error.lineno}: expected JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets without end
        raise DataError(f"{source}:1: expected JSON that can be read: {error}") from error


def _names_of(content: Any, source: str) -> dict[ImageId, str]:
    images = content.get("images") if isinstance(content, dict) else content
    if not isinstance(images, list):
        raise DataError(f"{source}: expected JSON with the list 'images' of {{'id', 'file_name'}}")
    names: dict[ImageId, str] = {}
    for number, image in enumerate(images):
        key, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if not isinstance(key, (int, str)) or isinstance(key, bool) or not isinstance(name, str) or not name:
            raise DataError(f"{source}: images[{number}]: expected {{'id', 'file_name'}}, got {_short(image)}")
        if key in names:
            raise DataError(f"{source}: images[{number}]: id {key!r} is listed a second time")
        names[key] = name
    if len(set(names.values())) < len(names):
        double = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise DataError(f"{source}: file_name '{double}' stands at two ids; give each image a name of its own")
    return names


def _name_images(ids: Sequence[object], names: Mapping[ImageId, str], place: Any) -> list[str]:
    """Names of the images; an id that is a string and not in ``names`` is a name itself."""
    known = dict(names)
    images = []
    for number, key in enumerate(ids):
        name = known.get(key) if isinstance(key, (int, str)) and not isinstance(key, bool) else None
        if name is None:
            if not isinstance(key, str) or not key:
                reason = "which the names lack" if names else f"which is no name; {_GIVE_NAMES}"
                raise DataError(f"{place(number)}: got image_id {_short(key)}, {reason}")
            name = known[key] = key
        images.append(name)
    return images


def _ids_of(images: Iterable[str], names: Mapping[ImageId, str], source: Path) -> dict[str, ImageId]:
    images = list(images)
    id_of = {name: key for key, name in names.items()}
    ids = {image: id_of[name] for name, image in match_names(images, id_of, str(source)).items()}
    missing = [image for image in images if image not in ids]
    if missing:
        raise DataError(f"{source}: 'images' lacks {len(missing)} of {len(images)} images, such as '{missing[0]}'")
    return ids


def _face_category(content: Mapping[str, Any], source: str) -> object:
    """The id of the category ``face``; None where there is no choice."""
    categories = content.get("categories")
    if not isinstance(categories, list) or len(categories) < 2:
        return None
    found = [c for c in categories if isinstance(c, dict) and str(c.get("name")).casefold() == FACE]
    if len(found) != 1:
        given = _some({str(c.get("name")) if isinstance(c, dict) else _short(c) for c in categories})
        raise DataError(f"{source}: expected one category called '{FACE}' among several, got {given}")
    category: object = found[0].get("id")
    return category


def _boxes(rows: Sequence[Any]) -> FloatArray:
    """float64 [N, 4], ``x1, y1, x2, y2``. Raises ValueError or TypeError if a row is not four finite numbers."""
    if not set(map(type, rows)) <= {list} or not set(map(len, rows)) <= {4}:
        raise ValueError("expected four numbers a box")
    xywh = _numbers(list(chain.from_iterable(rows))).reshape(-1, 4)
    with np.errstate(over="ignore"):
        boxes = xywh_to_xyxy(xywh)
    if not np.isfinite(boxes).all():
        raise ValueError("expected finite numbers")
    return boxes


def _numbers(values: Sequence[Any]) -> FloatArray:
    """float64 [N]. Raises ValueError or OverflowError if a value is no finite number; true and "1" are none."""
    array = np.array(values, dtype=np.float64) if set(map(type, values)) <= {int, float} else np.full(1, np.nan)
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers")
    return array


def _is_result(entry: Any) -> bool:
    try:
        return _is_annotation(entry) and _numbers([entry["score"]]).shape == (1,)
    except (KeyError, ValueError, OverflowError):
        return False


def _is_annotation(entry: Any) -> bool:
    try:
        hashable = isinstance(entry.get("category_id"), (int, str, type(None)))
        return _boxes([entry["bbox"]]).shape == (1, 4) and "image_id" in entry and hashable
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return False


def _explain(text: str, source: str, entries: Sequence[object], is_good: Any, expected: str) -> str:
    bad = next((number for number, entry in enumerate(entries) if not is_good(entry)), 0)
    return f"{source}:{_line_of(text, bad)}: entry {bad + 1}: expected {expected}, got {_short(entries[bad])}"


def _line_of(text: str, entry: int) -> int:
    """The line on which an entry of a valid JSON list begins, both from 1 on, ``entry`` from 0."""
    decoder = json.JSONDecoder()
    at = text.index("[") + 1
    for _ in range(entry):
        at = decoder.raw_decode(text, _skip(text, at, " \t\r\n"))[1]
        at = _skip(text, at, " \t\r\n,")
    return text.count("\n", 0, _skip(text, at, " \t\r\n")) + 1


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _some(values: Iterable[object]) -> str:
    listed = sorted(map(str, values))
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")

"""COCO's JSON: results (a list of detections), the names behind image ids, and annotations.

Parsers are pure (text in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.boxes import xyxy_to_xywh
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.files import decode, encode, read_bytes, write_atomically
from tinygan.formats.categories import face_categories, keep_faces
from tinygan.formats.coco_json import (
    ImageId,
    Naming,
    boxes_of,
    load_naming,
    look_up,
    name_images,
    naming_of,
    numbers_of,
    parse_json,
    short,
)
from tinygan.formats.names import match_names
from tinygan.formats.rows import GroupedRows, Rows
from tinygan.formats.writing import check_sizes

log = logging.getLogger(__name__)
FACE_CATEGORY = 1
_RESULT = "{'image_id', 'category_id', 'bbox': [x, y, w, h], 'score'} with finite numbers"
_ANNOTATION = "{'image_id', 'category_id', 'bbox': [x, y, w, h]} with finite numbers"


def parse_results(
    text: str, source: str, names: Mapping[ImageId, str] | None = None, categories: Sequence[str] = ()
) -> Mapping[str, Detections]:
    """Read COCO results.

    Args:
        text: a JSON list of ``{image_id, category_id, bbox: [x, y, w, h], score}``; an entry may have a
            ``file_name`` (as Ultralytics writes) and a ``category_name`` (as SAHI writes).
        source: path for error messages.
        names: names of the images by id, see :func:`parse_names`. Without them ids have to be names.
        categories: of several categories those that are faces; default: ``face``.

    Returns:
        ``{image name: detections}`` in file order; images without detections are not in it.

    Raises:
        DataError: naming ``source:line`` of the first bad entry.
    """
    return read_results(parse_json(text, source), text, source, Naming(names or {}), categories)


def read_results(
    entries: Any, text: str, source: str, naming: Naming, categories: Sequence[str] = ()
) -> Mapping[str, Detections]:
    """The same from parsed JSON; ``text`` is what it was parsed from, for the lines of messages."""
    if not isinstance(entries, list):
        raise DataError(
            f"{source}:1: expected COCO results, a list of {_RESULT}; got a single JSON value. "
            "Annotations (an object with 'images' and 'annotations') are no detections"
        )
    return _read_scored(entries, source, naming, categories, lambda entry: f"{source}:{_line_of(text, entry)}")


def read_scored_annotations(
    content: Any, source: str, naming: Naming, categories: Sequence[str]
) -> Mapping[str, Detections]:
    """Detections as annotations with a ``score``, as FiftyOne exports them; ``naming`` goes before their own names."""
    own = naming_of(content, source)
    both = Naming({**own.images, **naming.images}, {**own.categories, **naming.categories})

    def place(entry: int) -> str:
        return f"{source}: annotations[{entry}]"

    found = _read_scored(content["annotations"], source, both, categories, place)
    return {**dict.fromkeys(own.images.values(), Detections.empty()), **found}


def _read_scored(
    entries: Sequence[Any], source: str, naming: Naming, wanted: Sequence[str], place: Callable[[int], str]
) -> Mapping[str, Detections]:
    try:
        boxes = boxes_of([entry["bbox"] for entry in entries])
        scores = numbers_of([entry["score"] for entry in entries])
        ids = [_image_of(entry, naming.images) for entry in entries]
        categories = [entry.get("category_name") or entry.get("category_id") for entry in entries]
        several = len(set(categories)) > 1
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        bad = next((number for number, entry in enumerate(entries) if not _is_result(entry)), 0)
        raise DataError(f"{place(bad)}: entry {bad + 1}: expected {_RESULT}, got {short(entries[bad])}") from error
    images = name_images(ids, naming.images, place)
    rows = Rows(images, boxes, scores, {})
    if several:
        other = next(number for number, category in enumerate(categories) if category != categories[0])
        where = f"{place(other)}: entry {other + 1}"
        rows = rows.kept(keep_faces(categories, wanted, where, naming.categories))
    return GroupedRows(rows)


def load_results(path: Path, names: Path | None = None, categories: Sequence[str] = ()) -> Mapping[str, Detections]:
    """Read COCO results from disk; ``names`` is read by :func:`load_naming`."""
    text = decode(read_bytes(path, "COCO results (JSON)"), str(path))
    return read_results(parse_json(text, str(path)), text, str(path), load_naming(names), categories)


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
    write_atomically(path, encode(format_results(detections, ids_of(detections, names)), path))


def ids_of(images: Iterable[str], names: Path | None) -> dict[str, ImageId]:
    """Ids of images: those of a names file, or their names.

    Raises:
        DataError: if the file lacks an image.
    """
    images = list(images)
    if names is None:
        return {image: image for image in images}
    id_of = {name: key for key, name in load_naming(names).images.items()}
    ids = {image: id_of[name] for name, image in match_names(images, id_of, str(names)).items()}
    missing = [image for image in images if image not in ids]
    if missing:
        raise DataError(f"{names}: 'images' lacks {len(missing)} of {len(images)} images, such as '{missing[0]}'")
    return ids


def parse_annotations(text: str, source: str, categories: Sequence[str] = ()) -> dict[str, GroundTruth]:
    """Read COCO annotations, also as Roboflow, CVAT, Label Studio and FiftyOne export them.

    Faces are the category called ``face``, or all annotations where there is one category or none; a category that
    others name as their ``supercategory`` and that has no annotation is none. Those marked ``iscrowd`` or ``ignore``
    are invalid. Annotations without a box are left out with a warning.

    Args:
        text: ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "bbox": [x, y, w, h], ...}]}``.
        source: path for error messages.
        categories: names or ids of the categories that are faces.

    Returns:
        ``{file name: faces}`` of all images, in the order of ``images``.

    Raises:
        DataError: naming the file, and the line where the JSON cannot be read.
    """
    content = parse_json(text, source)
    names = dict(naming_of(content, source).images)
    given = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(given, list):
        raise DataError(f"{source}: expected COCO annotations, an object with the lists 'images' and 'annotations'")
    entries = [entry for entry in given if not _has_no_box(entry)]
    if len(entries) < len(given):
        log.warning("%s: %d annotations without a box are left out", source, len(given) - len(entries))
    bad = next(
        (number for number, entry in enumerate(given) if not _has_no_box(entry) and not _is_annotation(entry)), None
    )
    if bad is not None:
        raise DataError(f"{source}: annotations[{bad}]: expected {_ANNOTATION}, got {short(given[bad])}")
    kept = _face_categories(content, entries, categories, source)
    faces = [entry for entry in entries if kept is None or str(entry.get("category_id")) in kept]
    images = name_images([entry["image_id"] for entry in faces], names, lambda _: source)
    rows_of: dict[str, list[int]] = {name: [] for name in names.values()}
    for row, image in enumerate(images):
        if image not in rows_of:
            raise DataError(f"{source}: 'images' lacks the image_id {image!r} of an annotation")
        rows_of[image].append(row)
    boxes = boxes_of([entry["bbox"] for entry in faces])
    invalid = np.array([_is_true(entry.get("iscrowd")) or _is_true(entry.get("ignore")) for entry in faces], np.bool_)
    return {name: _faces_at(boxes, invalid, rows) for name, rows in rows_of.items()}


def load_annotations(path: Path, categories: Sequence[str] = ()) -> dict[str, GroundTruth]:
    """Read COCO annotations from disk; see :func:`parse_annotations`."""
    return parse_annotations(decode(read_bytes(path, "COCO annotations (JSON)"), str(path)), str(path), categories)


def _faces_at(boxes: FloatArray, invalid: BoolArray, rows: Sequence[int]) -> GroundTruth:
    return GroundTruth(boxes[rows], invalid[rows]) if rows else GroundTruth.empty()


def _image_of(entry: Mapping[str, Any], names: Mapping[ImageId, str]) -> object:
    """The image of a result: its id, or its ``file_name`` where nothing names the id."""
    key, file = entry.get("image_id"), entry.get("file_name")
    if isinstance(file, str) and file and look_up(key, names) is None:
        return file
    return entry["image_id"]


def _face_categories(
    content: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], wanted: Sequence[str], source: str
) -> set[str] | None:
    """The ids, as text, of the categories that are faces; ``None`` where there is no choice."""
    given = content.get("categories")
    categories = [one if isinstance(one, dict) else {"name": short(one)} for one in given or []]
    used = {str(entry.get("category_id")) for entry in entries}
    above = {str(one.get("supercategory")) for one in categories}
    names: dict[object, str] = {
        str(one.get("id")): str(one.get("name"))
        for one in categories
        if str(one.get("name")) not in above or str(one.get("id")) in used or len(categories) == 1
    }
    kept = face_categories(names, wanted, source, names)
    return None if kept is None else set(map(str, kept))


def _is_true(value: object) -> bool:
    return bool(value) and str(value).strip().casefold() not in ("0", "false")


def _has_no_box(entry: Any) -> bool:
    return isinstance(entry, dict) and "image_id" in entry and entry.get("bbox") in (None, [])


def _is_result(entry: Any) -> bool:
    try:
        return _is_annotation(entry) and numbers_of([entry["score"]]).shape == (1,)
    except (KeyError, ValueError, OverflowError):
        return False


def _is_annotation(entry: Any) -> bool:
    try:
        hashable = isinstance(entry.get("category_id"), (int, str, type(None)))
        return boxes_of([entry["bbox"]]).shape == (1, 4) and "image_id" in entry and hashable
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return False


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

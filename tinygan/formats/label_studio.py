"""Label Studio's own JSON (exports "JSON" and "JSON-MIN"): one file for many pictures, boxes in percent of their sizes.

Parsers are pure (JSON in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.coco_json import short
from tinygan.formats.labelled import Labelled, to_detections, to_faces
from tinygan.formats.names import is_image_name

log = logging.getLogger(__name__)
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_NOTES = ("choices", "text", "rating", "datetime", "number", "taxonomy", "pairwise")  # of a whole picture
_RECTANGLE = (
    "a rectangle {'original_width', 'original_height', 'value': {'x', 'y', 'width', 'height'}} with finite numbers"
)


def is_label_studio(content: Any) -> bool:
    """Whether parsed JSON is a list of Label Studio's tasks."""
    first = content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    whole = isinstance(first.get("data"), dict) and ("annotations" in first or "predictions" in first)
    return whole or any(_is_min(task) for task in _tasks(content))


def load_faces(content: Any, source: str, categories: Sequence[str] = ()) -> dict[str, GroundTruth]:
    """What people drew, as annotated faces; see :func:`tinygan.formats.labelled.to_faces`.

    Of several annotations of a picture the one marked as ground truth counts, else the first that was not skipped.
    Pictures that nobody annotated are left out with a warning: whether they hold faces is not known.
    """
    return to_faces(_read(content, source, predictions=False), source, categories)


def load_detections(content: Any, source: str, categories: Sequence[str] = ()) -> Mapping[str, Detections]:
    """Predictions with their scores as detections; what people drew, with the score 1, where there are none."""
    predicted = any(task.get("predictions") for task in _tasks(content))
    return to_detections(_read(content, source, predictions=predicted), source, categories)


def _tasks(content: Any) -> Sequence[Mapping[str, Any]]:
    return [task for task in content if isinstance(task, dict)] if isinstance(content, list) else []


def _is_min(task: Mapping[str, Any]) -> bool:
    """Whether a task is one of "JSON-MIN"."""
    return "data" not in task and any(_regions(value) for value in task.values())


def _regions(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "original_width" in value[0]


def _read(content: Any, source: str, *, predictions: bool) -> Labelled:
    found, unknown = Labelled(), list[str]()
    for number, task in enumerate(_tasks(content)):
        name = _image_name(task, f"{source}: task {task.get('id', number)}")
        regions = _predicted(task) if predictions else _annotated(task)
        if regions is None:
            unknown.append(name)
            continue
        if name in found.images:
            raise DataError(f"{source}: two tasks are of the picture '{name}'; export one of them alone")
        found.images.append(name)
        labels = _labels_by_id(regions)
        for region in regions:
            _add(found, region, labels, name, source)
    if unknown:
        log.warning("%s: %d pictures that nobody annotated are left out, such as %s", source, len(unknown), unknown[0])
    return found


def _annotated(task: Mapping[str, Any]) -> Sequence[Any] | None:
    """The regions of one annotation of a task; ``None`` if there is none."""
    if "data" not in task:
        return [region for value in task.values() if _regions(value) for region in value]
    done = [one for one in task.get("annotations") or [] if isinstance(one, dict) and not one.get("was_cancelled")]
    done.sort(key=lambda one: not one.get("ground_truth"))
    return list(done[0].get("result") or []) if done else None


def _predicted(task: Mapping[str, Any]) -> Sequence[Any] | None:
    """The regions of a task's last prediction, each with a score; none if it has no prediction."""
    given = [one for one in task.get("predictions") or [] if isinstance(one, dict)]
    if not given:
        return []
    overall = given[-1].get("score")
    regions = [region for region in given[-1].get("result") or [] if isinstance(region, dict)]
    return [{**region, "score": region.get("score", overall)} for region in regions]


def _image_name(task: Mapping[str, Any], place: str) -> str:
    """The picture's name: of what was uploaded, of a path, or of an address."""
    upload = task.get("file_upload")
    data = task.get("data", task)
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    names = [_name_of_address(text) for text in ([upload] if isinstance(upload, str) and upload else []) + texts]
    name = next((name for name in names if is_image_name(name.rpartition("/")[2])), None) or next(iter(names), "")
    if not name:
        raise DataError(f"{place}: expected the picture's path in 'data', got {short(data)}")
    return name


def _name_of_address(text: str) -> str:
    parts = urlsplit(text.replace("\\", "/"))
    local = parse_qs(parts.query).get("d")  # /data/local-files/?d=folder/a.jpg
    path = local[0] if local else unquote(parts.path) or text
    folder, slash, file = path.lstrip("/").rpartition("/")
    uploaded = not folder or folder.startswith("data/upload")
    return _UPLOAD.sub("", file, count=1) if uploaded else f"{folder}{slash}{file}"


def _labels_by_id(regions: Sequence[Any]) -> dict[object, str]:
    """Labels of regions by their id: a project may have shapes and labels as two results of one region."""
    pairs = ((region.get("id"), _label(region)) for region in regions if isinstance(region, dict))
    return {key: label for key, label in pairs if isinstance(key, str) and label}


def _label(region: Mapping[str, Any]) -> str:
    """A region's first label; empty if it has none."""
    value = region.get("value", region)
    for key, labels in value.items() if isinstance(value, dict) else ():
        if key.endswith("labels") and isinstance(labels, list) and labels:
            return str(labels[0])
    return ""


def _add(found: Labelled, region: Any, labels: Mapping[object, str], image: str, source: str) -> None:
    value = region.get("value", region) if isinstance(region, dict) else None
    if not isinstance(value, dict):
        raise DataError(f"{source}: picture '{image}': expected {_RECTANGLE}; got {short(region)}")
    kind = str(region.get("type", ""))
    if not {"x", "y", "width", "height"} <= set(value):
        if kind in ("", "relation", "labels") or kind in _NOTES or not _is_shape(value):
            return
        found.odd[kind.removesuffix("labels")] += 1
        return
    if kind == "labels":  # the label of a region whose shape is another result
        return
    try:
        if float(value.get("rotation") or 0) % 360 or float(region.get("image_rotation") or 0) % 360:
            found.odd["turned rectangle"] += 1
            return
        x, y, width, height = (float(value[key]) for key in ("x", "y", "width", "height"))
        wide, high = (float(region[key]) for key in ("original_width", "original_height"))
        score = region.get("score")
        box = (x * wide / 100, y * high / 100, (x + width) * wide / 100, (y + height) * high / 100)
        label = _label(region) or labels.get(region.get("id"), "")
        found.add(image, box, label, None if score is None else float(score))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: picture '{image}': expected {_RECTANGLE}; got {short(region)}") from error


def _is_shape(value: Mapping[str, Any]) -> bool:
    return bool({"points", "radiusX", "rle", "vertices", "sequence", "x"} & set(value))

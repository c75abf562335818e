"""What COCO's files share: JSON, names behind ids, and numbers as tools write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinygan.boxes import xywh_to_xyxy
from tinygan.detections import FloatArray
from tinygan.errors import DataError
from tinygan.files import decode, read_bytes

ImageId: TypeAlias = "int | str"
_GIVE_NAMES = "give the names with --names (a COCO annotation file, or any JSON with 'images')"


@dataclass(frozen=True)
class Naming:
    """What ids stand for.

    Attributes:
        images: names of the images by id.
        categories: names of the categories by id.
    """

    images: Mapping[ImageId, str] = field(default_factory=dict)
    categories: Mapping[object, str] = field(default_factory=dict)


def parse_names(text: str, source: str) -> dict[ImageId, str]:
    """Read names of images: ``{"images": [{"id", "file_name"}, ...], ...}``, as in annotations, or that list alone.

    Returns:
        ``{image id: file name}``.

    Raises:
        DataError: if there is no such list, or it holds an id or a name twice.
    """
    return _names_of(parse_json(text, source), source)


def load_naming(path: Path | None) -> Naming:
    """Names of images and categories from disk; none without a path."""
    if path is None:
        return Naming()
    text = decode(read_bytes(path, "a COCO annotation file (JSON)"), str(path))
    return naming_of(parse_json(text, str(path)), str(path))


def naming_of(content: Any, source: str) -> Naming:
    """The same from parsed JSON."""
    categories = content.get("categories") if isinstance(content, dict) else None
    return Naming(_names_of(content, source), _names_of_categories(categories))


@contextmanager
def expecting(what: str, source: str) -> Iterator[None]:
    """For reading parsed JSON: a value of another kind than its place has costs one error that names the file.

    Whatever stands there, such as ``true`` in place of a list, readers need no check of their own for it.

    Raises:
        DataError: in place of what Python raises on the way.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise DataError(f"{source}:1: expected {what}; a value is of another kind ({reason})") from error


def parse_json(text: str, source: str) -> Any:
    """Parse JSON; a :class:`DataError` that names the line where it cannot be."""
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
            raise DataError(f"{source}: images[{number}]: expected {{'id', 'file_name'}}, got {short(image)}")
        if key in names:
            raise DataError(f"{source}: images[{number}]: id {key!r} is listed a second time")
        names[key] = name
    if len(set(names.values())) < len(names):
        double = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise DataError(f"{source}: file_name '{double}' stands at two ids; give each image a name of its own")
    return names


def _names_of_categories(categories: Any) -> dict[object, str]:
    rows = [one for one in categories if isinstance(one, dict)] if isinstance(categories, list) else []
    named = {one["id"]: str(one.get("name")) for one in rows if isinstance(one.get("id"), (int, str))}
    return {**{str(key): name for key, name in named.items()}, **named}


def name_images(ids: Sequence[object], names: Mapping[ImageId, str], place: Callable[[int], str]) -> list[str]:
    """Names of the images; an id that is a string and not in ``names`` is a name itself."""
    known = dict(names)
    images = []
    for number, key in enumerate(ids):
        name = look_up(key, known)
        if name is None:
            if not isinstance(key, str) or not key:
                reason = "which the names lack" if names else f"which is no name; {_GIVE_NAMES}"
                raise DataError(f"{place(number)}: got image_id {short(key)}, {reason}")
            name = known[key] = key
        images.append(name)
    return images


def look_up(key: object, names: Mapping[ImageId, str]) -> str | None:
    """The name of an id, if it has one; some tools write numbers as strings."""
    if not isinstance(key, (int, str)) or isinstance(key, bool):
        return None
    if key in names or not names:
        return names.get(key)
    other: ImageId = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else str(key)
    return names.get(other)


def boxes_of(rows: Sequence[Any]) -> FloatArray:
    """float64 [N, 4], ``x1, y1, x2, y2``. Raises ValueError or TypeError if a row is not four finite numbers."""
    if not set(map(type, rows)) <= {list} or not set(map(len, rows)) <= {4}:
        raise ValueError("expected four numbers a box")
    xywh = numbers_of(list(chain.from_iterable(rows))).reshape(-1, 4)
    with np.errstate(over="ignore"):
        boxes = xywh_to_xyxy(xywh)
    if not np.isfinite(boxes).all():
        raise ValueError("expected finite numbers")
    return boxes


def numbers_of(values: Sequence[Any]) -> FloatArray:
    """float64 [N]; numbers may be texts. Raises ValueError or OverflowError if one is not finite."""
    array = np.array(values, dtype=np.float64) if set(map(type, values)) <= {int, float, str} else np.full(1, np.nan)
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers")
    return array


def short(value: object) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"

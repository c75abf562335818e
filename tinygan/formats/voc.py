"""Pascal VOC's XML annotations, one file per image.

Parsers are pure (text in, objects out); ``load_*`` functions read files. VOC counts pixels from 1 and its
``xmax, ymax`` belong to the box; they become ``x1, y1, x2, y2`` from 0, x2/y2 exclusive, here and nowhere else.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import numpy as np

from tinygan.detections import GroundTruth
from tinygan.errors import DataError
from tinygan.files import read_bytes
from tinygan.formats.categories import ADVICE, FACE
from tinygan.formats.exports import list_texts
from tinygan.formats.names import stem

log = logging.getLogger(__name__)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, eq=False)
class VocImage:
    """One annotation file.

    Attributes:
        file_name: what ``filename`` says; empty if it says nothing.
        faces: the objects of the wanted classes; difficult ones are invalid.
        others: class names of the objects left out.
    """

    file_name: str
    faces: GroundTruth
    others: list[str]


def parse_voc(content: bytes, source: str, classes: Collection[str] | None = (FACE,)) -> VocImage:
    """Read one annotation.

    Args:
        content: the XML; bytes, as it names its own encoding.
        source: path for error messages.
        classes: class names that count as faces, in any case; None takes every object.

    Raises:
        DataError: naming ``source:line`` of what is malformed or missing.
    """
    file_name, objects = _read_objects(content, source)
    wanted = None if classes is None else {name.casefold() for name in classes}
    others = [found.name for found in objects if wanted is not None and found.name.casefold() not in wanted]
    kept = [found for found in objects if wanted is None or found.name.casefold() in wanted]
    if bare := [found for found in kept if not any(key.startswith("bndbox") for key in found.texts)]:
        log.warning("%s: %d objects without a box are left out", source, len(bare))
        kept = [found for found in kept if found not in bare]
    boxes = [_box(found, source) for found in kept]
    invalid = [_is_true(found.texts.get("difficult", "0")) for found in kept]
    faces = GroundTruth(np.array(boxes).reshape(-1, 4), np.array(invalid, dtype=np.bool_))
    return VocImage(file_name, faces, others)


def load_voc(folder: Path, classes: Collection[str] | None = (FACE,)) -> dict[str, GroundTruth]:
    """Read every ``.xml`` of a folder and below.

    Returns:
        ``{image name: faces}``; a name is the annotation's folder, relative to ``folder``, and its
        ``filename``; the XML's own name where it has none or another one, as annotation tools keep that of a
        picture that was renamed.

    Raises:
        DataError: if the folder holds no ``.xml``, one is malformed, two are of one image, or all objects
            are of other classes.
    """
    paths = list_texts(folder, ".xml") if folder.is_dir() else []
    if not paths:
        reason = "found none" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: expected Pascal VOC annotations (*.xml) in a folder: {reason}")
    faces: dict[str, GroundTruth] = {}
    others: set[str] = set()
    for path in paths:
        image = parse_voc(read_bytes(path, "a Pascal VOC annotation"), str(path), classes)
        name = path.relative_to(folder).with_name(_image_name(image.file_name, path.stem)).as_posix()
        if name in faces:
            raise DataError(f"{path}: image '{name}' is annotated in another file too; correct 'filename' in one")
        faces[name] = image.faces
        others.update(image.others)
    if others and not any(map(len, faces.values())):
        listed = ", ".join(sorted(others)[:5])
        raise DataError(f"{folder}: expected objects of class {', '.join(classes or ())}, got only {listed}; {ADVICE}")
    return faces


def _image_name(file_name: str, own: str) -> str:
    """What ``filename`` says without folders if it is the name of the XML, else the latter."""
    base = file_name.replace("\\", "/").rpartition("/")[2]
    same = unicodedata.normalize("NFC", stem(base)) == unicodedata.normalize("NFC", own)
    return base if base and (same or base == own) else own


@dataclass(eq=False)
class _Object:
    """An ``object`` element: the line it begins at, and the texts of its ``name``, ``bndbox/xmin``, ..."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.texts.get("name", "").strip()


class _Handler:
    """Collects objects; ElementTree does not tell on which line an element begins."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser = parser
        self.path: list[str] = []
        self.file_name = ""
        self.objects: list[_Object] = []
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.path.append(tag)
        if self.path[1:] == ["object"]:
            self.objects.append(_Object(self.parser.CurrentLineNumber))

    def end(self, tag: str) -> None:
        self.path.pop()

    def text(self, data: str) -> None:
        if self.path[1:] == ["filename"]:
            self.file_name += data
        elif self.path[1:2] == ["object"] and len(self.path) > 2:
            key = "/".join(self.path[2:])
            texts = self.objects[-1].texts
            texts[key] = texts.get(key, "") + data


def _read_objects(content: bytes, source: str) -> tuple[str, list[_Object]]:
    parser = expat.ParserCreate()
    handler = _Handler(parser)
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{source}:{error.lineno}: expected XML: {expat.ErrorString(error.code)}") from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not have or cannot use
        raise DataError(f"{source}:1: expected XML that can be read: {error}") from error
    return handler.file_name.strip(), handler.objects


def _box(found: _Object, source: str) -> list[float]:
    try:
        xmin, ymin, xmax, ymax = (float(found.texts[f"bndbox/{corner}"]) for corner in _CORNERS)
    except (KeyError, ValueError):
        xmin = ymin = xmax = ymax = math.nan
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
        got = {key: text.strip()[:40] for key, text in found.texts.items() if key.startswith("bndbox/")}
        raise DataError(f"{source}:{found.line}: expected finite numbers bndbox/{{{','.join(_CORNERS)}}}; got {got}")
    (xmin, xmax), (ymin, ymax) = sorted((xmin, xmax)), sorted((ymin, ymax))  # some tools keep the way it was drawn
    return [xmin - 1, ymin - 1, xmax, ymax]


def _is_true(text: str) -> bool:
    return text.strip().casefold() not in ("", "0", "false", "unspecified")

"""YOLO's text: one file per image, boxes as parts of the image's size; annotations, and detections with confidences.

Parsers are pure (text in, objects out); ``load_*`` functions read files.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.files import decode, read_bytes
from tinygan.formats.archives import read_archive
from tinygan.formats.categories import face_categories, keep_faces
from tinygan.formats.dialect import Dialect
from tinygan.formats.exports import IMAGES, LABELS, is_list, list_texts
from tinygan.formats.folders import ParsedDetections
from tinygan.formats.names import list_images, match_names, stem
from tinygan.formats.notation import from_corners, to_corners
from tinygan.formats.rows import GroupedRows, Rows
from tinygan.formats.sizes import Size, find_pictures, read_size
from tinygan.formats.writing import write_texts

log = logging.getLogger(__name__)
_CLASS_LISTS = ("classes.txt", "obj.names")
_SETTINGS = ("data.yaml", "dataset.yaml", "data.yml")  # of a data set, with the names of its classes
_SNIFFED = 50  # files of a folder that are looked into
# Where a detection's confidence is, by the length of its row: none, after the box, before a track's number, after five
# landmarks of two or three numbers.
_CONFIDENCE = {5: None, 6: 5, 7: 5, 16: 15, 21: 20}
_FOUND = "'class cx cy w h confidence', a whole number and five parts in [0, 1]"
_LARGEST_PART = 1.5  # of a picture, of boxes that reach over its border
_WHOLE = re.compile(r"\d+(\.0*)?", re.ASCII)
_TOLERANCE = 0.01  # boxes that reach over the border a little
_ROW = "'class cx cy w h', a whole number and four parts of the image's size in [0, 1]"


def parse_yolo(text: str, source: str, size_px: Size, classes: Collection[int] | None = None) -> GroundTruth:
    """Read one image's annotation.

    Args:
        text: one line ``class cx cy w h`` per box, in parts of the image's width and height.
        source: path for error messages.
        size_px: width and height of the image.
        classes: the classes that are faces; None takes every box.

    Returns:
        The faces, none invalid.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    boxes = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse_row(line, f"{source}:{number}")
        if classes is None or int(row[0]) in classes:
            boxes.append(row[1:])
    values = np.array(boxes).reshape(-1, 4)
    centre, half = values[:, :2], values[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1) * np.array([*size_px, *size_px])
    return GroundTruth(corners, np.zeros(len(corners), dtype=np.bool_))


def load_yolo(
    labels: Path,
    images: Path,
    classes: Collection[int] | None = None,
    categories: Sequence[str] = (),
    skipped: list[str] | None = None,
) -> dict[str, GroundTruth]:
    """Read every ``.txt`` of a folder and below; of the images, the headers alone are read.

    A label file belongs to the image with the longest common path suffix. The size is that of the upright picture.
    ``classes.txt`` or ``data.yaml`` name the classes.

    Args:
        labels: folder of the annotations.
        images: folder of the images.
        classes: the classes that are faces; None takes those of ``categories``.
        categories: names or numbers of the classes that are faces; default: ``face``, or the only one.
        skipped: gets a line for every image that cannot be read and every file without an image, which are then left
            out; without it, one of them is an error.

    Returns:
        ``{image name below images: faces}`` of all images; those without a file have no face.

    Raises:
        DataError: if a folder is absent or empty, a line is malformed, a file has no image, an image cannot be read,
            or it is unclear which of several classes are faces.
    """
    files = [p.relative_to(labels).as_posix() for p in list_texts(labels) if not is_list(p.name)]
    if not files:
        reason = "found none" if labels.is_dir() else "no such folder"
        raise DataError(f"{labels}: expected YOLO annotations (*.txt) in a folder: {reason}")
    names = list_images(images)
    matched = match_names(files, [_beside(name) for name in names], str(labels))
    file_of = {name: matched[_beside(name)] for name in names if _beside(name) in matched}
    problems = {f"{labels / file}: expected an image of that name below {images}, as boxes need its size"
                for file in set(files) - set(file_of.values())}  # fmt: skip
    texts = {name: decode(read_bytes(labels / file, "a YOLO annotation"), str(labels / file))
             for name, file in file_of.items()}  # fmt: skip
    if classes is None:
        classes = _face_classes(texts.values(), labels, categories)
    faces: dict[str, GroundTruth] = {}
    for name in names:
        try:
            size = read_size(images / name)
        except DataError as error:
            problems.add(str(error))
            continue
        place = str(labels / file_of[name]) if name in file_of else ""
        faces[name] = parse_yolo(texts[name], place, size, classes) if place else GroundTruth.empty()
    if problems and (skipped is None or not faces):
        raise DataError(min(problems))
    if skipped is not None:
        skipped += sorted(problems)
    return faces


def _beside(image: str) -> str:
    """An image's name as its text has it: YOLO exports have ``labels/a.txt`` for ``images/a.jpg``."""
    *folders, file = image.split("/")
    at = len(folders) - 1 - folders[::-1].index(IMAGES) if IMAGES in folders else None
    return "/".join([LABELS if number == at else folder for number, folder in enumerate(folders)] + [file])


def load_class_names(labels: Path) -> dict[object, str]:
    """Names of the classes by number: from a list or ``data.yaml`` in a folder, or up to two above it."""
    for folder in (labels, *list(labels.absolute().parents)[:2]):
        for name in _CLASS_LISTS:
            if (folder / name).is_file():
                lines = decode(read_bytes(folder / name, "class names"), str(folder / name)).splitlines()
                return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
        for name in _SETTINGS:
            if (folder / name).is_file():
                return _names_of_settings(folder / name)
    return {}


def is_yolo(folder: Path) -> bool:
    """Whether the texts of a folder hold rows of parts of a size rather than names and counts."""
    for file in islice((file for file in list_texts(folder) if not is_list(file.name)), _SNIFFED):
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            head = [line.split() for line in islice(lines, 2)]
        if len(head) > 1 and len(head[1]) == 1 and head[1][0].isdigit():
            return False
        if head and _is_found(head[0]) and max(map(float, head[0][1:5])) <= _LARGEST_PART:
            return True
    return False


def read_yolo(path: Path, dialect: Dialect) -> ParsedDetections:
    """Detections, as Ultralytics writes them with ``save_txt`` and ``save_conf``; their boxes stay parts of a size.

    Pictures without a file have no detection. Rows without a confidence get the score 1, with a warning. A text that
    holds no boxes and belongs to no picture is left out.

    Args:
        path: a folder or an archive with one ``.txt`` per image.
        dialect: the categories that are faces, and the pictures' folder.

    Raises:
        DataError: if there is no ``.txt``, a line is malformed, or it is unclear which of several classes are faces.
    """
    texts = _read_texts(path)
    on_disk = [] if dialect.images is None else list_images(dialect.images)
    matched = match_names(texts, on_disk, str(path))
    known = set(matched.values()) if on_disk else set(texts)
    images: list[str] = []
    rows: list[list[float]] = []
    scores: list[float] = []
    strays: dict[str, str] = {}
    for name, content in texts.items():
        try:
            found = _parse_found(content, f"{path}/{name}.txt")
        except DataError as error:
            if name in known:
                raise
            strays[name] = str(error)
            continue
        images += [name] * len(found)
        rows += [row for row, _ in found]
        scores += [score for _, score in found]
    if rows and all(score == 1 for score in scores):
        log.warning("%s: no box has a confidence (save_conf); all get the score 1", path)
    values = np.array(rows).reshape(-1, 5)
    if dialect.boxes is None and len(values) and np.median(values[:, 1:].max(axis=1)) > _LARGEST_PART:
        raise DataError(
            f"{path}: expected parts of a picture's size, up to 1; most boxes are larger: if their numbers are pixels, "
            "read them with --from yolo --boxes cxcywh (or xyxy, xywh)"
        )
    boxed = set(images)
    empty = [name for name in texts if name not in boxed and name not in strays]
    empty += [name for name in on_disk if name not in matched]
    table = Rows(images, to_corners(values[:, 1:], "cxcywh"), np.array(scores), {}, empty)
    names = load_class_names(path)
    kept = keep_faces(values[:, 0].astype(int).tolist(), dialect.categories, str(path), names)
    files = ParsedDetections(GroupedRows(table.kept(kept)), path, "cxcywh")
    files.left_out = strays
    return files


def _parse_found(content: bytes, place: str) -> list[tuple[list[float], float]]:
    """The numbers ``class cx cy w h`` and the confidence of each row."""
    found = []
    for number, line in enumerate(decode(content, place).split("\n"), start=1):
        words = line.split()
        if words and not _is_found(words):
            raise DataError(f"{place}:{number}: expected {_FOUND}; got '{line.strip()[:200]}'")
        if words:
            at = _CONFIDENCE[len(words)]
            found.append(([float(word) for word in words[:5]], 1.0 if at is None else float(words[at])))
    return found


def save_yolo(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    """Write detections as Ultralytics does with ``save_txt`` and ``save_conf``, all of class 0.

    Raises:
        DataError: if there is no folder of pictures, it lacks one, or a file cannot be named after an image.
    """
    if dialect.images is None:
        raise DataError(f"{path}: YOLO's boxes are parts of a picture's size; give the pictures (--images DIR)")
    pictures = find_pictures(detections, dialect.images, str(path))
    lacking = [name for name in detections if name not in pictures]
    if lacking:
        raise DataError(f"{path}: expected a picture of '{lacking[0]}' below {dialect.images}, as boxes need its size")

    def text_of(file: str, name: str) -> str:
        found = detections[name].sorted()
        parts = from_corners(found.boxes, "cxcywh") / np.tile(read_size(pictures[name]), 2)
        rows = zip(parts.tolist(), found.scores.tolist(), strict=True)
        return "".join(f"0 {' '.join(map(repr, box))} {score!r}\n" for box, score in rows)

    write_texts(path, detections, text_of)


def _read_texts(path: Path) -> dict[str, bytes]:
    """Content of every ``.txt`` but the list of classes, by its name without the ending."""
    if path.is_dir():
        contents = {p.relative_to(path).as_posix(): read_bytes(p, "YOLO detections") for p in list_texts(path)}
    else:
        contents = read_archive(path)
    texts = {stem(name): content for name, content in contents.items() if not is_list(name)}
    if not texts:
        raise DataError(f"{path}: expected one .txt per image (YOLO), found none")
    return texts


def _is_found(words: Sequence[str]) -> bool:
    """Whether a row is a detection, or an annotation."""
    try:
        numbers = np.array(words, np.float64)
    except ValueError:
        return False
    whole = len(words) in _CONFIDENCE and bool(np.isfinite(numbers).all()) and numbers[0].is_integer()
    return whole and bool(numbers[0] >= 0)


def _face_classes(texts: Collection[str], labels: Path, wanted: Sequence[str]) -> set[int] | None:
    """The classes that are faces, of those in use; ``None`` takes every box. Malformed rows are left to the parser."""
    words = [line.split(maxsplit=1)[0] for text in texts for line in text.split("\n") if line.strip()]
    used = {int(word.partition(".")[0]) for word in set(words) if _WHOLE.fullmatch(word)}
    names = load_class_names(labels)
    kept = face_categories({*used, *names} if wanted else used, wanted, str(labels), names)
    return None if kept is None else {number for number in kept if isinstance(number, int)}


def _names_of_settings(path: Path) -> dict[object, str]:
    try:
        names = yaml.safe_load(read_bytes(path, "class names")).get("names", {})
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: expected YAML with the 'names' of classes") from error
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {key: str(name) for key, name in pairs}


def _parse_row(line: str, place: str) -> list[float]:
    try:
        row = [float(value) for value in line.split()]
    except ValueError:
        row = []
    is_good = len(row) == 5 and row[0].is_integer() and row[0] >= 0
    if not is_good or not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in row[1:]):
        raise DataError(f"{place}: expected {_ROW}; got '{line.strip()[:200]}'")
    return row

"""CVAT's own XML (``annotations.xml``, "CVAT for images 1.1" and "CVAT for video 1.1"): one file for many pictures.

Boxes are corners ``xtl ytl xbr ybr`` in pixels from 0, as here. Parsers are pure; ``load_*`` functions read files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tinygan.detections import GroundTruth
from tinygan.errors import DataError
from tinygan.files import read_bytes
from tinygan.formats.dialect import Dialect
from tinygan.formats.folders import ParsedDetections
from tinygan.formats.labelled import Labelled, to_detections, to_faces

_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")
_SCORES = ("score", "confidence", "conf")  # attributes that a detector's boxes may have
_BOX = "a box with finite numbers xtl, ytl, xbr, ybr"


def is_cvat(head: bytes) -> bool:
    """Whether a file that begins so is CVAT's XML; Pascal VOC's root is called ``annotation``."""
    return re.search(rb"<annotations[ >]", head) is not None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def parse_cvat(content: bytes, source: str) -> Labelled:
    """Read every upright box; other shapes, and boxes that are turned, are counted.

    Frames of a video are called ``video/frame``, as by ``tinygan-detect``; ``frame_000012`` if the file does not name
    the video.

    Args:
        content: the XML; bytes, as it names its own encoding.
        source: path for error messages.

    Raises:
        DataError: naming the file, and the picture of a malformed box.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise DataError(f"{source}:{error.position[0]}: expected XML: {error}") from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not have or cannot use
        raise DataError(f"{source}:1: expected XML that can be read: {error}") from error
    if root.tag != "annotations":
        raise DataError(f"{source}: expected CVAT's XML, an element 'annotations', got '{root.tag}'")
    found = Labelled(known={text.strip() for text in _texts(root, "meta//label/name")})
    for image in root.iter("image"):
        name = image.get("name", "").replace("\\", "/")
        if not name:
            raise DataError(f"{source}: expected each image to have a name, got {image.attrib}")
        if name in found.images:
            raise DataError(
                f"{source}: image '{name}' stands there a second time; export tasks into files of their own"
            )
        found.images.append(name)
        for shape in image:
            _add(found, shape, name, shape.get("label", ""), source)
    _add_tracks(found, root, source)
    return found


def load_cvat(path: Path, categories: Sequence[str] = ()) -> dict[str, GroundTruth]:
    """Read annotated faces from disk; see :func:`parse_cvat` and :func:`tinygan.formats.labelled.to_faces`."""
    return to_faces(parse_cvat(read_bytes(path, "CVAT's XML"), str(path)), str(path), categories)


def read_cvat(path: Path, dialect: Dialect) -> ParsedDetections:
    """Boxes as detections; the score is an attribute ``score`` or ``confidence``, else 1 with a warning."""
    found = parse_cvat(read_bytes(path, "CVAT's XML"), str(path))
    return ParsedDetections(to_detections(found, str(path), dialect.categories), path, "xyxy")


def _add_tracks(found: Labelled, root: ElementTree.Element, source: str) -> None:
    """The frames of a video: all of them, also those that no track is in."""
    tracks = list(root.iter("track"))
    if not tracks:
        return
    video = next(_texts(root, "meta//source"), "").replace("\\", "/").rpartition("/")[2]
    sizes = [int(text) for text in _texts(root, "meta//size") if text.isascii() and text.isdigit()]
    shapes = [(track.get("label", ""), shape) for track in tracks for shape in track]
    try:
        frames = [int(shape.get("frame", "")) for _, shape in shapes]
    except ValueError as error:
        raise DataError(f"{source}: expected each shape of a track to have a number 'frame': {error}") from error
    names = {
        frame: f"{video}/{frame}" if video else f"frame_{frame:06d}"
        for frame in sorted({*range(max(sizes, default=0)), *frames})
    }
    found.images += names.values()
    for (label, shape), frame in zip(shapes, frames, strict=True):
        if shape.get("outside", "0").strip() != "1":
            _add(found, shape, names[frame], label, source)


def _add(found: Labelled, shape: ElementTree.Element, image: str, label: str, source: str) -> None:
    if shape.tag in _SHAPES:
        found.odd[shape.tag] += 1
    if shape.tag != "box":
        return
    try:
        if float(shape.get("rotation", 0)) % 360:
            found.odd["turned box"] += 1
            return
        x1, y1, x2, y2 = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        found.add(image, (x1, y1, x2, y2), label.strip(), _score(shape))
    except (KeyError, ValueError) as error:
        raise DataError(f"{source}: image '{image}': expected {_BOX}; got {shape.attrib}") from error


def _score(shape: ElementTree.Element) -> float | None:
    for attribute in shape.iter("attribute"):
        if attribute.get("name", "").strip().casefold() in _SCORES and (attribute.text or "").strip():
            return float(attribute.text or "")
    return None


def _texts(root: ElementTree.Element, path: str) -> Iterator[str]:
    return (element.text.strip() for element in root.iterfind(path) if element.text and element.text.strip())

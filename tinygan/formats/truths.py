"""Annotated faces in any known format: which one a path is in is found out.

The readers are imported when one is needed: the command line takes ``GROUND_TRUTHS`` for its help, and starts without
NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.errors import DataError

if TYPE_CHECKING:
    from tinygan.detections import GroundTruth

GROUND_TRUTHS = (
    "Pascal VOC XML or YOLO annotations (a folder; YOLO needs --images unless labels/ lies beside images/), COCO "
    "annotations or Label Studio's JSON (.json, or the folder of an export), CVAT's XML, a RetinaFace label.txt, a "
    "*_bbx_gt.txt or FDDB's *ellipseList.txt"
)
_ELLIPSES = "*ellipseList.txt"
_HEAD_BYTES = 4096


def load_faces(
    path: Path, images: Path | None = None, categories: Sequence[str] = (), skipped: list[str] | None = None
) -> dict[str, GroundTruth]:
    """Read the annotated faces of every image.

    Args:
        path: a folder of Pascal VOC XML, of WIDER FACE's official ``.mat`` files, of FDDB's ``*ellipseList.txt`` or
            of YOLO's ``.txt``; or a file, or the folder of an export that holds it: COCO annotations or Label Studio's
            JSON (``.json``), CVAT's XML, RetinaFace's ``label.txt``, a ``*_bbx_gt.txt`` or one ``*ellipseList.txt``.
        images: the folder of the images; YOLO's annotations need it, as they count in parts of an image's size,
            unless they lie in a folder ``labels`` beside ``images``.
        categories: names of the categories that are faces, where annotations have any; default: ``face``.
        skipped: gets a line for everything that costs itself alone, such as an image whose size cannot be read;
            without it, that is an error.

    Returns:
        ``{image name: faces}``; FDDB's ellipses as their bounding rectangles.

    Raises:
        DataError: if the path is absent, of no known format, malformed or empty.
    """
    path = find_truth(path)
    faces = _load_folder(path, images, categories, skipped) if path.is_dir() else _load_file(path, categories)
    if not faces:
        raise DataError(f"{path}: the file is empty; expected {GROUND_TRUTHS}")
    return faces


def find_truth(path: Path) -> Path:
    """The file that holds all annotations in the folder of an export, if one does; other paths as they are.

    Raises:
        DataError: if it is one of several.
    """
    from tinygan.formats.cvat import is_cvat
    from tinygan.formats.exports import annotation_file, has_texts, list_texts

    if not path.is_dir() or any(path.glob("*.mat")) or has_texts(path):
        return path
    if files := list_texts(path, ".xml"):
        with files[0].open("rb") as file:
            return files[0] if len(files) == 1 and is_cvat(file.read(_HEAD_BYTES)) else path
    return annotation_file(path) or path


def is_tools(file: Path) -> bool:
    """Whether a file is of an annotation tool or another data set, rather than WIDER FACE's ``*_bbx_gt.txt``."""
    if file.suffix.lower() in (".json", ".xml") or file.match(_ELLIPSES):
        return True
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(_HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"#")
    return False


def names_file(path: Path) -> Path | None:
    """The COCO annotations among ground truth, which name the image ids of COCO results."""
    file = find_truth(path)
    if file.suffix.lower() != ".json" or not file.is_file():
        return None
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    return file if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else None


def _load_folder(
    path: Path, images: Path | None, categories: Sequence[str], skipped: list[str] | None
) -> dict[str, GroundTruth]:
    from tinygan.formats import exports, fddb, voc, yolo
    from tinygan.formats.categories import FACE
    from tinygan.formats.wider_mat import MAT_FILES, load_mat_faces

    if (path / MAT_FILES[0]).is_file():
        return load_mat_faces(path)
    if any(path.rglob(_ELLIPSES)):
        return fddb.load_folds(path).faces
    if exports.list_texts(path, ".xml"):
        return voc.load_voc(path, categories or (FACE,))
    if not exports.has_texts(path):
        raise DataError(f"{path}: expected {GROUND_TRUTHS}; found no such file in this folder")
    images = images or exports.picture_folder(path)
    if images is None:
        raise DataError(f"{path}: YOLO annotations hold parts of an image's size; give the images' folder (--images)")
    return yolo.load_yolo(path, images, categories=categories, skipped=skipped)


def _load_file(path: Path, categories: Sequence[str]) -> dict[str, GroundTruth]:
    from tinygan.formats import coco, cvat, fddb, label_studio, retinaface, wider
    from tinygan.formats.coco_json import expecting, parse_json

    if path.suffix.lower() == ".xml":
        return cvat.load_cvat(path, categories)
    if path.match(_ELLIPSES):
        return fddb.load_folds(path).faces
    text = wider.read_text(path, GROUND_TRUTHS)
    if path.suffix.lower() == ".json":
        content = parse_json(text, str(path))
        with expecting("annotated faces as JSON", str(path)):
            if label_studio.is_label_studio(content):
                return label_studio.load_faces(content, str(path), categories)
            return coco.parse_annotations(text, str(path), categories)
    return retinaface.load_labels(path) if is_tools(path) else wider.load_ground_truth(path)

"""Annotated faces in any known format: which one a path is in is found out.

The readers are imported when one is needed: the command line takes ``GROUND_TRUTHS`` for its help, and starts without
NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.errors import DataError

if TYPE_CHECKING:
    from tinygan.detections import GroundTruth

GROUND_TRUTHS = (
    "Pascal VOC XML or YOLO annotations (a folder; YOLO needs --images), COCO annotations (.json), a RetinaFace "
    "label.txt, a *_bbx_gt.txt or FDDB's *ellipseList.txt"
)
_ELLIPSES = "*ellipseList.txt"


def load_faces(path: Path, images: Path | None = None, categories: Sequence[str] = ()) -> dict[str, GroundTruth]:
    """Read the annotated faces of every image.

    Args:
        path: a folder of Pascal VOC XML, of WIDER FACE's official ``.mat`` files, of FDDB's ``*ellipseList.txt`` or
            of YOLO's ``.txt``; or a file: COCO annotations (``.json``), RetinaFace's ``label.txt``, a
            ``*_bbx_gt.txt`` or one ``*ellipseList.txt``.
        images: the folder of the images; YOLO's annotations need it, as they count in parts of an image's size.
        categories: names of the categories that are faces, where annotations have any; default: ``face``.

    Returns:
        ``{image name: faces}``; FDDB's ellipses as their bounding rectangles.

    Raises:
        DataError: if the path is absent, of no known format, malformed or empty.
    """
    faces = _load_folder(path, images, categories) if path.is_dir() else _load_file(path, categories)
    if not faces:
        raise DataError(f"{path}: the file is empty; expected {GROUND_TRUTHS}")
    return faces


def _load_folder(path: Path, images: Path | None, categories: Sequence[str]) -> dict[str, GroundTruth]:
    from tinygan.formats import fddb, voc, yolo
    from tinygan.formats.categories import FACE
    from tinygan.formats.wider_mat import MAT_FILES, load_mat_faces

    if (path / MAT_FILES[0]).is_file():
        return load_mat_faces(path)
    if any(path.rglob(_ELLIPSES)):
        return fddb.load_folds(path).faces
    if any(path.rglob("*.xml")):
        return voc.load_voc(path, categories or (FACE,))
    if not any(path.rglob("*.txt")):
        raise DataError(f"{path}: expected {GROUND_TRUTHS}; found no such file in this folder")
    if images is None:
        raise DataError(f"{path}: YOLO annotations hold parts of an image's size; give the images' folder (--images)")
    return yolo.load_yolo(path, images, categories=categories)


def _load_file(path: Path, categories: Sequence[str]) -> dict[str, GroundTruth]:
    from tinygan.formats import coco, fddb, retinaface, wider

    if path.suffix.lower() == ".json":
        return coco.load_annotations(path, categories)
    if path.match(_ELLIPSES):
        return fddb.load_folds(path).faces
    is_labels = wider.read_text(path, GROUND_TRUTHS).lstrip().startswith("#")
    return retinaface.load_labels(path) if is_labels else wider.load_ground_truth(path)

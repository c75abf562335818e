"""Folders as tools export them: where in one the boxes are, if not in a text per picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinygan.errors import DataError
from tinygan.files import walk_files

LABELS, IMAGES = "labels", "images"  # folders of a YOLO export, and of a run of Ultralytics
_LISTS = ("classes.txt", "labelmap.txt", "train.txt", "val.txt", "valid.txt", "test.txt")  # of classes and of pictures
_FOUND = ("detections.json", "predictions.json", "result.json")  # of tinygan-detect, Ultralytics and SAHI


def is_shadow(path: Path) -> bool:
    """Whether a file is what macOS puts beside a file ``a.txt`` on foreign disks: ``._a.txt``."""
    if not path.name.startswith("._"):
        return False
    with path.open("rb") as file:
        return path.with_name(path.name[2:]).exists() or file.read(4) == b"\0\5\x16\7"


def is_list(name: str) -> bool:
    """Whether a text is a tool's list of classes or pictures, or its README, rather than boxes of a picture."""
    name = name.rpartition("/")[2].lower()
    return name in _LISTS or (name.startswith("readme.") and name.endswith(".txt"))


def list_texts(folder: Path, suffix: str = ".txt") -> list[Path]:
    """Files of an ending below a folder, sorted; linked folders are followed, files of macOS left out.

    If some lie in folders called ``labels``, as in a YOLO export, those alone.
    """
    files = sorted(p for p in walk_files(folder) if p.suffix.lower() == suffix and p.is_file() and not is_shadow(p))
    labels = [file for file in files if LABELS in file.relative_to(folder).parts[:-1]] if suffix == ".txt" else []
    return labels or files


def picture_folder(labels: Path) -> Path | None:
    """The folder of the pictures of a YOLO export: ``images`` beside or instead of ``labels``, or where both lie."""
    if (labels / IMAGES).is_dir():
        return labels / IMAGES
    parts = labels.absolute().parts
    if LABELS in parts:
        at = len(parts) - 1 - parts[::-1].index(LABELS)
        beside = Path(*parts[:at], IMAGES, *parts[at + 1 :])
        return beside if beside.is_dir() else None
    return labels if any(path.name == IMAGES and path.is_dir() for path in labels.glob("*/images")) else None


def annotation_file(folder: Path) -> Path | None:
    """The one ``.json`` with annotations in a folder that holds no text per picture, as Roboflow's COCO has it.

    Raises:
        DataError: if there are several.
    """
    files = [file for file in list_texts(folder, ".json") if _holds(file, (b'"annotations"', b'"original_width"'))]
    if len(files) > 1:
        raise DataError(f"{folder}: holds several files of annotations, {_some(files, folder)}; give one of them")
    return files[0] if files else None


def detection_file(folder: Path) -> Path | None:
    """The file with the boxes in a folder that holds no text per picture: what a detector's run left there.

    Raises:
        DataError: if there are several.
    """
    files = [file for suffix in (".json", ".csv", ".parquet") for file in list_texts(folder, suffix)]
    named = [file for file in files if file.name in _FOUND] or files
    if len(named) > 1:
        raise DataError(f"{folder}: holds several files that may be detections, {_some(named, folder)}; give one")
    return named[0] if named else None


def has_texts(folder: Path) -> bool:
    """Whether a folder holds a text that may be boxes of a picture."""
    return any(not is_list(file.name) for file in list_texts(folder))


def _holds(file: Path, words: Sequence[bytes]) -> bool:
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return any(word in content for word in words)


def _some(files: Sequence[Path], folder: Path) -> str:
    names = [file.relative_to(folder).as_posix() for file in files[:3]]
    return ", ".join(names) + (", …" if len(files) > 3 else "")

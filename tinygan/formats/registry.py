"""The tables of detection formats and of popular tools' dialects, and finding out which one a path is in."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.detections import Detections
from tinygan.errors import ConfigError, DataError
from tinygan.files import encode, to_utf8, write_atomically
from tinygan.formats import coco, cvat, fddb, sinks, tabular, yolo
from tinygan.formats.archives import ARCHIVE_SUFFIXES, is_archive_name
from tinygan.formats.dialect import AS_WRITTEN, Dialect, Notation
from tinygan.formats.exports import detection_file, has_texts
from tinygan.formats.folders import DetectionFiles, ParsedDetections, read_wider
from tinygan.formats.headers import DELIMITERS, is_header
from tinygan.formats.json_boxes import load_json
from tinygan.formats.notation import read_as
from tinygan.formats.writing import check_sizes, write_wider

HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of detections of many images.

    Attributes:
        sniff: function of a path and its first bytes (none for a folder): whether the path is in this format.
        read: function that reads a path; its second argument says what the file leaves unsaid.
        write: function that writes a path atomically, replacing what is there; its third argument is likewise.
            ``None`` if the format is read alone.
        suffixes: endings of file names that choose this format.
        relative: whether boxes are parts of a picture's size.
        is_folder: whether a folder or an archive is written.
        keeps_fields: whether ``Detections.fields`` are written.
        keeps_empty: whether images without detections are written.
    """

    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path, Dialect], DetectionFiles]
    write: Callable[[Path, Mapping[str, Detections], Dialect], None] | None
    suffixes: tuple[str, ...] = ()
    relative: bool = False
    is_folder: bool = False
    keeps_fields: bool = False
    keeps_empty: bool = True


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ConfigError: if there is none, with the nearest name.
    """
    known = {**FORMATS, **DIALECTS}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"unknown format '{name}', expected one of {', '.join(known)}{hint}")
    return known[name]


def sniff_format(path: Path) -> Format:
    """The format a path is in: by its content, else by its name.

    Raises:
        DataError: if it is none of :data:`FORMATS` and :data:`DIALECTS`.
    """
    return find_format(sniff_name(path))


def sniff_name(path: Path) -> str:
    """The name of the format a path is in; see :func:`sniff_format`."""
    path = _file_in(path)
    head = b""
    if path.is_file():
        try:
            with open(path, "rb") as file:
                head = to_utf8(file.read(HEAD_BYTES))
        except OSError as error:
            raise DataError(f"{path}: expected detections: {error.strerror}") from error
    for name, known in (*DIALECTS.items(), *FORMATS.items()):
        if known.sniff(path, head):
            return name
    named = name_of_suffix(path)
    if named is None:
        raise DataError(f"{path}: is in no known format of detections; name one of {', '.join(FORMATS)} (--from)")
    return named


def _file_in(path: Path) -> Path:
    """The file that holds the boxes of all pictures in the folder of a detector's run; other paths as they are."""
    return (detection_file(path) or path) if path.is_dir() and not has_texts(path) else path


def name_of_suffix(path: Path) -> str | None:
    """The name of the format that a file's ending chooses, if any."""
    lowered = path.name.lower()
    return next((name for name, known in FORMATS.items() if lowered.endswith(known.suffixes)), None)


def _is_archive(path: Path, head: bytes) -> bool:
    packed = head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar" or head[:4] == b"PK\x03\x04"
    return packed or is_archive_name(path) or (head[:2] == b"PK" and zipfile.is_zipfile(path))


def _is_wider(path: Path, head: bytes) -> bool:
    return _is_archive(path, head) or (path.is_dir() and not _is_fddb(path, head))


def _is_fddb(path: Path, head: bytes) -> bool:
    if path.is_dir():
        return any(path.glob("*fold-*out*.txt"))
    lines = head.decode("utf-8", "replace").lstrip("\ufeff \r\n").split("\n")
    count = lines[1].strip() if len(lines) > 1 else ""
    return count.isascii() and count.isdigit()


def _is_csv(path: Path, head: bytes) -> bool:
    header = head.decode("utf-8-sig", "replace").lstrip("\r\n ").split("\n")[0]
    return any(is_header(header, delimiter) for delimiter in DELIMITERS)


def _is_coco(path: Path, head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def _is_parquet(path: Path, head: bytes) -> bool:
    return head[:4] == b"PAR1"


def _is_yolo(path: Path, head: bytes) -> bool:
    return path.is_dir() and yolo.is_yolo(path)


def _is_cvat(path: Path, head: bytes) -> bool:
    return cvat.is_cvat(head)


def _never(path: Path, head: bytes) -> bool:
    """Of dialects that are read as the format that they are a dialect of."""
    return False


def _read_wider(path: Path, dialect: Dialect) -> DetectionFiles:
    return read_wider(path)


def _write_wider(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    write_wider(path, detections)


def _read_fddb(path: Path, dialect: Dialect) -> DetectionFiles:
    return ParsedDetections(fddb.load_fddb(path), path)


def _write_fddb(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    for name, found in detections.items():
        if not name or name != name.strip() or any(ord(character) < 32 for character in name):
            raise DataError(f"{path}: cannot write image {name!a}; expected a name of one line")
        check_sizes(found, name, path)
        if (np.abs(found.boxes) >= fddb.LARGEST / 2).any() or (np.abs(found.scores) >= fddb.LARGEST).any():
            raise DataError(f"{path}: a number of image '{name}' is too large for FDDB's format ({fddb.LARGEST:g})")
    write_atomically(path, encode(fddb.format_fddb(detections), path))


def _read_csv(path: Path, dialect: Dialect) -> DetectionFiles:
    table = tabular.load_csv(path, dialect.categories)
    return ParsedDetections(table, path, table.order)


def _write_csv(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    tabular.save_csv(path, detections)


def _write_coco(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    coco.save_results(path, detections, dialect.names)


def _read_parquet(path: Path, dialect: Dialect) -> DetectionFiles:
    table = tabular.load_parquet(path, dialect.categories)
    return ParsedDetections(table, path, table.order)


def _write_parquet(path: Path, detections: Mapping[str, Detections], dialect: Dialect) -> None:
    tabular.save_parquet(path, detections)


FORMATS: dict[str, Format] = {
    "wider": Format(
        sniff=_is_wider, read=_read_wider, write=_write_wider, suffixes=ARCHIVE_SUFFIXES, is_folder=True
    ),
    "parquet": Format(
        sniff=_is_parquet, read=_read_parquet, write=_write_parquet, suffixes=(".parquet", ".pq"), keeps_fields=True
    ),
    "coco": Format(
        sniff=_is_coco, read=load_json, write=_write_coco, suffixes=(".json",), keeps_empty=False
    ),
    "csv": Format(sniff=_is_csv, read=_read_csv, write=_write_csv, suffixes=(".csv",), keeps_fields=True),
    "fddb": Format(sniff=_is_fddb, read=_read_fddb, write=_write_fddb, suffixes=(".txt",)),
}  # fmt: skip
"""By name; sniffed in this order: what begins with a mark of its own first, loose text last."""

DIALECTS: dict[str, Format] = {
    "yolo": Format(sniff=_is_yolo, read=yolo.read_yolo, write=yolo.save_yolo, relative=True, is_folder=True),
    "sahi": Format(sniff=_never, read=load_json, write=sinks.save_sahi, keeps_empty=False),
    "supervision": Format(sniff=_never, read=_read_csv, write=sinks.save_supervision_csv, keeps_empty=False),
    "supervision-json": Format(sniff=_never, read=load_json, write=sinks.save_supervision_json, keeps_empty=False),
    "pandas": Format(sniff=_never, read=_read_csv, write=sinks.save_pandas, keeps_empty=False),
    "cvat": Format(sniff=_is_cvat, read=cvat.read_cvat, write=None),
    "label-studio": Format(sniff=_never, read=load_json, write=None),
    "detect": Format(sniff=_never, read=load_json, write=sinks.save_detect, keeps_fields=True),
}
"""How popular tools write the same: those that are never sniffed are read as CSV or JSON whatever they are called."""


def open_detections(path: Path, format: str | None = None, dialect: Dialect = AS_WRITTEN) -> DetectionFiles:
    """Detections of many images in any known format.

    Args:
        path: a folder or an archive with one ``.txt`` per image at any depth (official submission
            format, or YOLO's), one file for all images, or the folder of a detector's run that holds one.
        format: a name in :data:`FORMATS` or :data:`DIALECTS`; found out from the content or the file's name if not
            given.
        dialect: what the path leaves unsaid: what a box's numbers are, names behind ids, which categories are faces.

    Raises:
        DataError: if the path is absent, is of no known format, is malformed or holds no image.
        ConfigError: if there is no such format.
        MissingDependency: if the format needs a package that is not installed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected detections")
    path = _file_in(path)
    chosen = find_format(format) if format is not None else sniff_format(path)
    files = chosen.read(path, dialect)
    if not files:
        raise DataError(f"{path}: expected detections, found none")
    notation = dialect.boxes or (Notation(relative=True) if chosen.relative else None)
    return files if notation is None else read_as(files, notation, dialect)

"""Folders, archives and single files of detections: read lazily, written atomically."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.files import encode, make_way, remove_written, write_atomically
from tinygan.formats import wider
from tinygan.formats.names import stem

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
WRITTEN_FILE = "written.list"  # the detections that runs wrote into a folder, a name per line

# What tarfile and zipfile raise on damaged archives; RuntimeError: encrypted or an unknown compression.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


class DetectionFiles(Mapping[str, Detections]):
    """Detections of many images by file name (without ``.txt``), parsed when asked for.

    Args:
        readers: ``{name: function that returns the file's bytes}``, in the official submission format.
        source: the folder or archive, for messages.
    """

    def __init__(self, readers: Mapping[str, Callable[[], bytes]], source: Path) -> None:
        self._readers = dict(readers)
        self.source = source

    def __getitem__(self, name: str) -> Detections:
        text = self.text(name)
        try:
            with np.errstate(over="ignore"):
                return wider.parse_detections(text, self.describe(name))
        except ValueError as error:  # finite numbers whose sum x + w or y + h is not
            raise DataError(f"{self.describe(name)}{_line_beyond_range(text)}: {error}; got too large a box") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def text(self, name: str) -> str:
        """An image's detections in the official submission format; as they stand on disk if they are in it."""
        try:
            return self._readers[name]().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.describe(name)}: expected text in the official submission format, got byte "
                f"0x{error.object[error.start]:02x} on line {error.object.count(10, 0, error.start) + 1}"
            ) from error

    def describe(self, name: str) -> str:
        """Where an image's detections lie, for messages."""
        return f"{self.source}/{name}.txt"


class ParsedDetections(DetectionFiles):
    """Detections of many images out of one file, under the names that the file gives them.

    Args:
        detections: ``{image name: detections}``.
        source: the file, for messages.
    """

    def __init__(self, detections: Mapping[str, Detections], source: Path) -> None:
        super().__init__({}, source)
        self._detections = detections

    def __getitem__(self, name: str) -> Detections:
        return self._detections[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._detections)

    def __len__(self) -> int:
        return len(self._detections)

    def text(self, name: str) -> str:
        """An image's detections in the official submission format."""
        return wider.format_detections(stem(name), self[name])

    def describe(self, name: str) -> str:
        """Where an image's detections lie, for messages."""
        return f"{self.source}, image '{name}'"


def read_wider(path: Path) -> DetectionFiles:
    """Detections in the official submission format, from a folder or an archive (see ``ARCHIVE_SUFFIXES``).

    Raises:
        DataError: if the path is neither, or holds no ``.txt``.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.txt") if p.is_file())
        readers = {stem(p.relative_to(path).as_posix()): p.read_bytes for p in files}
    else:
        contents = _read_archive(path)
        readers = {stem(name.removeprefix("./")): _constant(content) for name, content in contents.items()}
    if not readers:
        raise DataError(f"{path}: expected one .txt an image (official submission format), found none")
    return DetectionFiles(readers, path)


def write_wider(path: Path, detections: Mapping[str, Detections]) -> None:
    """Write detections in the official submission format: an archive if its name asks for one, else a folder.

    Nothing appears under the final name before all is written; a folder or archive there is replaced.

    Raises:
        DataError: if two images would share a file, a name would lie outside the folder, or the folder to
            replace holds anything but ``.txt``.
    """
    files = _files_of(detections, path)
    contents = (
        (f"{file}.txt", encode(wider.format_detections(file, _writable(detections[name], name, path)), path))
        for file, name in files.items()
    )
    if DetectionWriter.is_archive_path(path):
        _write_archive(path, contents)
    else:
        _write_folder(path, contents)


class DetectionWriter:
    """Writes one ``.txt`` an image into a folder, or into a folder that becomes an archive at the end.

    Every file is replaced atomically, so a cut-off run leaves whole files only. An archive is built
    beside its final name in ``<name>.partial/`` and appears complete or not at all.

    Args:
        path: folder or archive to write.
        list_file: gets the name of every file before it is written; default: there is no such list.
    """

    def __init__(self, path: Path, list_file: Path | None = None) -> None:
        self.path, self._list_file = path, list_file
        self.is_archive = self.is_archive_path(path)
        self.folder = path.with_name(f"{path.name}.partial") if self.is_archive else path
        self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def is_archive_path(path: Path) -> bool:
        """Whether a name asks for an archive rather than a folder."""
        return path.name.endswith(ARCHIVE_SUFFIXES)

    def has(self, name: str) -> bool:
        """Whether this image's file was written already (by an earlier, cut-off run)."""
        return self._file(name).is_file()

    def count(self, name: str) -> int:
        """How many boxes an image was written with."""
        return int(self._file(name).read_text().splitlines()[1])

    def write(self, name: str, detections: Detections) -> None:
        """Write an image's detections, by falling score."""
        self.write_text(name, wider.format_detections(stem(name), detections))

    def write_text(self, name: str, text: str) -> None:
        """Write an image's file as it is."""
        file = self._file(name)
        content = encode(text, file)
        if self._list_file is not None:
            with self._list_file.open("ab") as names:
                names.write(_line(file, self.folder))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)

    def close(self) -> None:
        """Turn the folder into the archive, if an archive was asked for."""
        if not self.is_archive:
            return
        files = sorted(self.folder.rglob("*.txt"))
        _write_archive(self.path, ((f.relative_to(self.folder).as_posix(), f.read_bytes()) for f in files))
        shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{_file_of(name, self.folder)}.txt"


def check_sizes(detections: Detections, name: str, path: Path) -> None:
    """Refuse boxes whose width or height is beyond float64, as no ``x y w h`` can hold them.

    Raises:
        DataError: naming the image and the file that was to be written.
    """
    with np.errstate(over="ignore"):
        if not np.isfinite(detections.boxes[:, 2:] - detections.boxes[:, :2]).all():
            raise DataError(f"{path}: a box of image '{name}' is too large to be written as x y w h")


def _writable(detections: Detections, name: str, path: Path) -> Detections:
    check_sizes(detections, name, path)
    return detections


def _line_beyond_range(text: str) -> str:
    """``:line`` of the first row whose corner is not finite."""
    body = text.strip().split("\n", maxsplit=2)[-1]
    for number, line in enumerate(body.splitlines(), start=3):
        x, y, width, height, _ = map(float, line.split())
        if not np.isfinite([x + width, y + height]).all():
            return f":{number}"
    return ""


def _files_of(names: Iterable[str], path: Path) -> dict[str, str]:
    """``{file below the folder, without .txt: image name}``."""
    files: dict[str, str] = {}
    for name in names:
        file = _file_of(name, path)
        if file in files:
            raise DataError(f"{path}: images '{files[file]}' and '{name}' would share the file {file}.txt; rename one")
        files[file] = name
    return files


def _file_of(name: str, path: Path) -> str:
    """An image's file below the folder, without ``.txt``; names that lead out of it are refused."""
    file = stem(name)
    parts = PurePosixPath(file).parts
    outside = not "".join(parts).strip() or file.startswith("/") or ".." in parts
    if outside or any(ord(character) < 32 for character in file):
        raise DataError(f"{path}: cannot name a file after image {name!a}; expected a path such as event/a.jpg")
    return file


def _read_archive(path: Path) -> dict[str, bytes]:
    is_zip = path.name.endswith(".zip") or (not path.name.endswith(ARCHIVE_SUFFIXES) and zipfile.is_zipfile(path))
    kind = ".zip" if is_zip else ".tar.gz"
    try:
        contents = dict(_zip_members(path) if is_zip else _tar_members(path))
    except _DAMAGED as error:
        raise DataError(f"{path}: expected a readable {kind}: {error}") from error
    return {name: content for name, content in contents.items() if not _is_shadow(name, contents)}


def _is_shadow(name: str, names: Container[str]) -> bool:
    """Whether an archive's member is what macOS puts beside a file ``a.txt``: ``._a.txt``."""
    folder, slash, base = name.rpartition("/")
    return base.startswith("._") and (f"{folder}{slash}{base[2:]}" in names or name.startswith("__MACOSX/"))


def _zip_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".txt"):
                yield member.filename, archive.read(member)


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with tarfile.open(path, "r:gz" if compressed else "r:") as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.isfile() and member.name.endswith(".txt") else None
            if handle is not None:
                yield member.name, handle.read()


def _write_archive(path: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in contents:
                    archive.writestr(name, content)
        else:
            _write_tar(temporary, contents, compressed=not path.name.endswith(".tar"))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_tar(path: Path, contents: Iterable[tuple[str, bytes]], compressed: bool) -> None:
    now = int(time.time())
    with tarfile.open(path, "w:gz") if compressed else tarfile.open(path, "w") as archive:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), now
            archive.addfile(member, io.BytesIO(content))


def _write_folder(path: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write beside ``path``, then swap; a kill between the two renames leaves the old folder as ``.<name>.*.old``."""
    path = path.resolve()
    foreign = [p for p in path.rglob("*") if not p.is_dir() and p.suffix != ".txt"] if path.exists() else []
    if path.is_file() or foreign:
        got = f"holds {foreign[0].name}, which is no .txt" if foreign else "is a file, and a folder is to be written"
        raise DataError(f"{path}: {got}; choose another name")
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        for name, content in contents:
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        temporary.chmod(0o755)
        _swap(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _swap(new: Path, path: Path) -> None:
    """Put folder ``new`` in the place of ``path``, which is removed."""
    if not path.exists():
        new.rename(path)
        return
    old = new.with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def open_output(
    out: Path, kept: Sequence[str], command: str, settings: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> DetectionWriter:
    """The writer for a folder or archive of detections.

    Args:
        out: folder or archive.
        kept: names of the files that the command keeps beside the detections; the first holds the settings.
        command: its name.
        settings: JSON types; a continued run must have the same.
        resume: continue what is there.
        overwrite: replace what is there: all that runs wrote is removed, and nothing else.

    Raises:
        DataError: as of :func:`make_way`; also if ``out`` is a file.
    """
    is_archive = DetectionWriter.is_archive_path(out)
    folder = out.with_name(f"{out.name}.partial") if is_archive else out
    if out.is_file() and not is_archive:
        raise DataError(f"{out}: expected a folder or a name ending in .tar.gz, but this is a file")
    if out.is_file() and not overwrite:
        raise DataError(f"{out}: exists already; replace it with --overwrite or choose another --out")
    make_way(
        folder, folder / kept[0], command, settings,
        resume=resume, overwrite=overwrite, clear=lambda: _clear(folder, kept), read_settings=json.loads,
    )  # fmt: skip
    writer = DetectionWriter(out, folder / WRITTEN_FILE)
    write_atomically(folder / WRITTEN_FILE, b"".join(_line(file, folder) for file in _written(folder)))
    write_atomically(folder / kept[0], json.dumps(settings).encode())
    return writer


def _clear(folder: Path, kept: Sequence[str]) -> None:
    remove_written([*_written(folder), *(folder / name for name in (*kept, WRITTEN_FILE))], folder)


def _written(folder: Path) -> list[Path]:
    """The detections that runs wrote into a folder; earlier versions kept no list, and every ``.txt`` was theirs."""
    list_file = folder / WRITTEN_FILE
    if not list_file.is_file():
        return sorted(folder.rglob("*.txt"))
    whole, _, _ = list_file.read_bytes().rpartition(b"\n")  # of a line that a kill cut short, no file was written yet
    return [folder / os.fsdecode(name) for name in sorted(set(whole.split(b"\n"))) if name]


def _line(file: Path, folder: Path) -> bytes:
    return os.fsencode(f"{file.relative_to(folder).as_posix()}\n")

"""Folders and archives of detections: read lazily, written atomically."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats import wider
from tinygan.formats.names import stem

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


class DetectionFiles(Mapping[str, Detections]):
    """Detections of many images by file name (without ``.txt``), parsed when asked for.

    Args:
        readers: ``{name: function that returns the file's bytes}``.
        source: the folder or archive, for messages.
    """

    def __init__(self, readers: Mapping[str, Callable[[], bytes]], source: Path) -> None:
        self._readers = dict(readers)
        self.source = source

    def __getitem__(self, name: str) -> Detections:
        return wider.parse_detections(self.text(name), self.describe(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def text(self, name: str) -> str:
        """The file's text as it stands on disk."""
        try:
            return self._readers[name]().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.describe(name)}: expected text in the official submission format") from error

    def describe(self, name: str) -> str:
        """Where a file lies, for messages."""
        return f"{self.source}/{name}.txt"


def open_detections(path: Path) -> DetectionFiles:
    """Detections in the official submission format, from a folder or a ``.tar.gz``.

    Args:
        path: a folder with one ``.txt`` an image at any depth, or an archive of one.

    Raises:
        DataError: if the path is absent, is neither, or holds no ``.txt``.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.txt") if p.is_file())
        readers = {stem(p.relative_to(path).as_posix()): p.read_bytes for p in files}
    elif path.is_file() and path.name.endswith(ARCHIVE_SUFFIXES):
        readers = _archive_readers(path)
    else:
        reason = "neither a folder nor a .tar.gz" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {reason}; expected detections in the official submission format")
    if not readers:
        raise DataError(f"{path}: expected one .txt an image (official submission format), found none")
    return DetectionFiles(readers, path)


class DetectionWriter:
    """Writes one ``.txt`` an image into a folder, or into a folder that becomes a ``.tar.gz`` at the end.

    Every file is replaced atomically, so a cut-off run leaves whole files only. An archive is built
    beside its final name in ``<name>.partial/`` and appears complete or not at all.

    Args:
        path: folder or archive to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
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

    def write(self, name: str, detections: Detections) -> None:
        """Write an image's detections, by falling score."""
        self.write_text(name, wider.format_detections(stem(name), detections))

    def write_text(self, name: str, text: str) -> None:
        """Write an image's file as it is."""
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode("utf-8"))

    def close(self) -> None:
        """Turn the folder into the archive, if an archive was asked for."""
        if not self.is_archive:
            return
        mode = "w" if self.path.name.endswith(".tar") else "w:gz"
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with tarfile.open(temporary, mode) as archive:  # type: ignore[call-overload]
            for file in sorted(self.folder.rglob("*.txt")):
                archive.add(file, file.relative_to(self.folder).as_posix())
        os.replace(temporary, self.path)
        shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{stem(name)}.txt"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by ``content`` in one step: a reader sees the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _archive_readers(path: Path) -> dict[str, Callable[[], bytes]]:
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() and member.name.endswith(".txt") else None
                if handle is not None:
                    contents[stem(member.name.removeprefix("./"))] = handle.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: expected a readable .tar.gz: {error}") from error
    return {name: _constant(content) for name, content in contents.items()}


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content

"""Archives of text files: ``.tar.gz``, ``.tgz``, ``.tar`` and ``.zip``."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinygan.errors import DataError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
_LARGEST_RATIO, _SMALL = 100, 1 << 24  # of an archive that is read; bytes that any may unpack to
_UTF8_MARK = 0x800  # of a zip's member

# What tarfile and zipfile raise on damaged archives; RuntimeError: encrypted or an unknown compression.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


def is_archive_name(path: Path) -> bool:
    """Whether a path is named like an archive."""
    return path.name.endswith(ARCHIVE_SUFFIXES)


def read_archive(path: Path) -> dict[str, bytes]:
    """The content of every ``.txt`` in an archive, by its name there.

    Raises:
        DataError: if the archive is absent or damaged.
    """
    is_zip = path.name.endswith(".zip") or (not is_archive_name(path) and zipfile.is_zipfile(path))
    kind = ".zip" if is_zip else ".tar.gz"
    try:
        contents = dict(_zip_members(path) if is_zip else _tar_members(path))
    except _DAMAGED as error:
        raise DataError(f"{path}: expected a readable {kind}: {error}") from error
    return {name.removeprefix("./"): content for name, content in contents.items() if not _is_shadow(name, contents)}


def _is_shadow(name: str, names: Container[str]) -> bool:
    """Whether an archive's member is what macOS puts beside a file ``a.txt``: ``._a.txt``."""
    folder, slash, base = name.rpartition("/")
    return base.startswith("._") and (f"{folder}{slash}{base[2:]}" in names or name.startswith("__MACOSX/"))


class _Allowance:
    """Bytes that an archive may unpack to: lists of boxes shrink to a third or less, never to a hundredth.

    Members that are not read count too, as those of a ``.tar.gz`` are unpacked on the way.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, _LARGEST_RATIO * path.stat().st_size + _SMALL

    def take(self, size: int) -> None:
        """Count a member before it is read.

        Raises:
            DataError: if that is too much.
        """
        self._left -= size
        if self._left < 0:
            raise DataError(
                f"{self._path}: would unpack to more than {_LARGEST_RATIO} times its size, as no list of boxes does; "
                "if you trust it, unpack it and give the folder"
            )


def _zip_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        allowance = _Allowance(path)
        for member in archive.infolist():
            allowance.take(member.file_size)
            if member.filename.lower().endswith(".txt"):
                yield _zip_name(member), archive.read(member)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name; macOS writes UTF-8 without the mark that says so, which zipfile takes for code page 437."""
    if member.flag_bits & _UTF8_MARK:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with tarfile.open(path, "r:gz" if compressed else "r:") as archive:
        allowance = _Allowance(path)
        for member in archive:
            allowance.take(member.size)
            handle = archive.extractfile(member) if member.isfile() and member.name.lower().endswith(".txt") else None
            if handle is not None:
                yield member.name, handle.read()


def write_archive(path: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write files, each its name and content, into an archive that appears whole or not at all.

    The name decides on its kind; an archive of that name is replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, content in contents:
                    member = zipfile.ZipInfo(name)  # of 1980, so that equal contents give equal archives
                    member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(member, content)
        else:
            _write_tar(temporary, contents, compressed=not path.name.endswith(".tar"))
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def _write_tar(path: Path, contents: Iterable[tuple[str, bytes]], compressed: bool) -> None:
    """Without times and names of users, so that equal contents give equal archives."""
    with path.open("wb") as file, ExitStack() as stack:
        target: Any = file
        if compressed:
            target = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        archive = stack.enter_context(tarfile.open(fileobj=target, mode="w"))
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

"""Atomic writes, text encoding, and output folders: earlier results in one are continued, replaced or refused."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tinygan.errors import DataError

log = logging.getLogger(__name__)
_BEGINNING = 60  # characters of a name that a half-written copy is called after, so that no name gets too long by it


def make_way(
    folder: Path,
    marker: Path,
    command: str,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    clear: Callable[[], None],
    read_settings: Callable[[str], Any],
) -> None:
    """Prepare an output folder: afterwards it is absent, empty, or holds results that may be continued.

    Args:
        folder: the folder into which a command will write.
        marker: file by which the command recognises a folder that it wrote; its first line holds the settings.
        command: name of the command.
        settings: the settings of this run, as JSON types; a run can only be continued with equal settings.
        resume: whether to continue earlier results.
        overwrite: whether to replace earlier results.
        clear: function that removes what an earlier run wrote.
        read_settings: function that reads the settings from the first line of the marker.

    Raises:
        DataError: if the folder is not empty and neither ``resume`` nor ``overwrite`` is given, if it was not written
            by this command, or if it is to be continued with other settings.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not marker.is_file():
        raise DataError(f"{folder}: is not empty and was not written by {command}; choose another --out")
    if overwrite:
        clear()
    elif not resume:
        raise DataError(f"{folder}: holds results already; continue with --resume or replace them with --overwrite")
    elif (before := _read(marker, read_settings)) != settings:
        raise DataError(f"{folder}: {difference(before, settings)}")


def remove_written(files: Collection[Path], below: Path) -> None:
    """Remove files, their half-written copies left by a run that was killed, and folders that are empty afterwards.

    Args:
        files: files that a run wrote; some may be absent.
        below: folder of the run, which is not removed itself.
    """
    remove_half_written(files)
    folders = {file.parent for file in files}
    for file in files:
        file.unlink(missing_ok=True)
    within = {above for folder in folders for above in (folder, *folder.parents) if below in above.parents}
    for folder in sorted(within, reverse=True):  # the innermost first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def remove_half_written(files: Iterable[Path]) -> None:
    """Remove half-written copies, left by a run that was killed, of files that it wrote or was about to write."""
    begun = {file.with_name(file.name[:_BEGINNING]) for file in files}
    for folder in {file.parent for file in begun}:
        for temporary in folder.glob(".*.tmp"):
            if temporary.with_name(temporary.name[1:].rsplit(".", 2)[0]) in begun:
                temporary.unlink()


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of an output folder, until the block ends or this process dies, in whatever way.

    The folder itself is locked, so that no file is left. It is made if absent, and removed if it stays empty. Where a
    folder cannot be locked, as on some network drives, there is a warning.

    Raises:
        DataError: if another process holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        handle = _lock(folder)
    except (FileExistsError, NotADirectoryError):  # a file: the command that wants a folder says so
        handle = None
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        if handle is not None:
            os.close(handle)


def _lock(folder: Path) -> int | None:
    """The handle that locks a folder; ``None`` if that is impossible here."""
    try:
        import fcntl
    except ImportError:  # Windows
        folder.mkdir(parents=True, exist_ok=True)
        return None
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
            os.close(handle)  # another run has removed it in the meantime
        except BlockingIOError as error:
            os.close(handle)
            raise DataError(
                f"{folder}: another run is writing into it; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            os.close(handle)
            log.warning("%s: cannot be locked (%s); let no other run write into it", folder, error.strerror)
            return None


def fingerprint(file: Path | None) -> str:
    """What shows that a file changed: its size in bytes and the time of its last change in ns; empty without a file."""
    try:
        status = None if file is None else file.stat()
    except OSError:
        status = None
    return "" if status is None else f"{status.st_size}-{status.st_mtime_ns}"


def content_digest(path: Path) -> str:
    """A hash of a file, or of the names and contents of all files below a folder."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(walk_files(path)) if path.is_dir() else [path]:
        if file.is_file():
            content = file.read_bytes()
            digest.update(os.fsencode(f"{file.relative_to(path).as_posix()}\n{len(content)}\n") + content)
    return digest.hexdigest()


def listing_digest(folder: Path) -> str:
    """A hash of the names and sizes of all files below a folder: of many pictures, whose contents take long to read."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(walk_files(folder)):
        with suppress(OSError):
            digest.update(os.fsencode(f"{file.relative_to(folder).as_posix()}\n{file.stat().st_size}\n"))
    return digest.hexdigest()


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a socket or a device, which may keep its reader waiting forever; what is absent passes.

    Raises:
        OSError: if it is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "is a pipe, a socket or a device, and no file", str(path))


def is_address(text: str) -> bool:
    """Whether this is an address such as ``s3://bucket/a.jpg``, which fsspec reads, and no path."""
    return "://" in text


def read_address(address: str) -> bytes:
    """Content of a file at any address that fsspec reads.

    Raises:
        OSError: if it cannot be read.
        ImportError: if fsspec needs a package for such an address.
    """
    import fsspec

    with fsspec.open(address, "rb") as file:
        return bytes(file.read())


def real_path(path: Path) -> Path:
    """Where a path leads; of a link to itself, which leads nowhere, the link (``Path.resolve`` would raise)."""
    return Path(os.path.realpath(path))


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in no order; linked folders are followed, and each folder is read once.

    A link is followed after all real folders, so that files keep the names they have without it.
    """
    real, linked = [folder], deque[Path]()
    seen: set[tuple[int, int]] = set()
    while real or linked:
        here = real.pop() if real else linked.popleft()
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            log.warning("%s: cannot be searched: %s", here, error.strerror)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = here / entry.name
            if not _is_folder(entry):
                yield path
            elif entry.is_symlink():
                linked.append(path)
            else:
                real.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to what may not be looked at: reading it as a file tells
        return False


def _read(marker: Path, read_settings: Callable[[str], Any]) -> Mapping[str, Any]:
    try:
        with marker.open(encoding="utf-8") as file:
            settings: Mapping[str, Any] = dict(read_settings(file.readline()))
            return settings
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{marker}:1: expected the settings of a run; replace it with --overwrite") from error


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a run cannot be continued, the first setting that differs, and what the user can do."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for name in new:
        if name not in old:
            return f"was written by an older version, which did not note its {name}; replace it with --overwrite"
        if old[name] != new[name]:
            change = f"{name} was {old[name]!s:.60}, is now {new[name]!s:.60}"
            return f"was written with other settings ({change}); repeat those, or replace it with --overwrite"
    return "was written with other settings; repeat those, or replace it with --overwrite"


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: other programs see the old file or the whole new one, never a part."""
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` when the block ends, and is deleted if the block fails.

    Raises:
        DataError: if the name is too long for the file system.
    """
    with naming(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_BEGINNING]}.", suffix=".tmp")
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{path}: the name is too long to be written; rename the picture") from error
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the operating system, such as a full disk, name the file that was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".tmp"):
            error.filename = str(path)
        raise


def append_line(path: Path, line: bytes) -> None:
    """Append a line, without its end, to a file; a kill or a full disk may cut it short, so readers expect that."""
    with naming(path), path.open("ab") as file:
        file.write(line + b"\n")


def to_utf8(content: bytes) -> bytes:
    """UTF-16 with a byte order mark, as PowerShell and spreadsheets write it, as UTF-8; other bytes as they are."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16", "replace").encode("utf-8", "replace") if is_utf16 else content


def decode(content: bytes, source: str) -> str:
    """Decode the bytes of a text file (UTF-8, with or without byte order mark, or UTF-16 with one).

    Raises:
        DataError: naming ``source:line`` of the first byte that is not UTF-8.
    """
    content = to_utf8(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{source}:{line}: expected UTF-8 text, got byte 0x{content[error.start]:02x}") from error


def encode(text: str, path: Path) -> bytes:
    """Encode text as UTF-8.

    Raises:
        DataError: if that is impossible, for example because a file name on disk is not UTF-8.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 40) : error.end]
        raise DataError(f"{path}: cannot be written as UTF-8, as a name is not: {near!a}") from error


def read_bytes(path: Path, expected: str) -> bytes:
    """Read a file; if it cannot be read, raise a :class:`DataError` that says what was ``expected``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected {expected}: {error.strerror}") from error


def report_json(report: Mapping[str, Any]) -> str:
    """A run's report as JSON: counts first (lists by their lengths), then the names behind them."""
    counts = {key: len(value) if isinstance(value, list) else value for key, value in report.items()}
    names = {f"{key}_images": value for key, value in report.items() if isinstance(value, list)}
    return json.dumps({**counts, **names}, indent=1) + "\n"

"""What lies in an output folder already is continued, replaced or refused, never mixed with something new."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygan.errors import DataError
from tinygan.formats.files import DetectionWriter, write_atomically


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
    """Leave a folder absent, empty, or holding a run that may be continued.

    Args:
        folder: where a command will write.
        marker: the file by which the command knows its own folders; its first line holds the settings.
        command: its name.
        settings: JSON types; a continued run must have the same.
        resume: continue what is there.
        overwrite: replace what is there.
        clear: removes what an earlier run wrote.
        read_settings: from the marker's first line.

    Raises:
        DataError: if something is there and neither ``resume`` nor ``overwrite`` is given, if it was not written by
            this command, or if it was written with other settings.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not marker.is_file():
        raise DataError(f"{folder}: is not empty and was not written by {command}; choose another --out")
    if overwrite:
        clear()
    elif not resume:
        raise DataError(f"{folder}: holds results already; continue with --resume or replace them with --overwrite")
    elif _read(marker, read_settings) != settings:
        raise DataError(f"{folder}: was written with other settings; repeat those, or replace it with --overwrite")


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
        overwrite: replace what is there.

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
    writer = DetectionWriter(out)
    write_atomically(folder / kept[0], json.dumps(settings).encode())
    return writer


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those folders that hold nothing, the innermost first."""
    for folder in sorted(folders, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _read(marker: Path, read_settings: Callable[[str], Any]) -> Any:
    try:
        with marker.open(encoding="utf-8") as file:
            return read_settings(file.readline())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{marker}:1: expected the settings of a run; replace it with --overwrite") from error


def _clear(folder: Path, kept: Sequence[str]) -> None:
    """Remove the detections that an earlier run wrote, and what it kept beside them."""
    for file in (*folder.rglob("*.txt"), *(folder / name for name in kept)):
        file.unlink(missing_ok=True)
    remove_empty([path for path in folder.rglob("*") if path.is_dir()])

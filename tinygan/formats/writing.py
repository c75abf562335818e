"""Writes detections: one file per image into a folder or an archive, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.files import (
    append_line,
    encode,
    hold_folder,
    make_way,
    remove_half_written,
    remove_written,
    write_atomically,
)
from tinygan.formats import wider
from tinygan.formats.archives import is_archive_name, write_archive
from tinygan.formats.names import output_names, stem

WRITTEN_FILE = "written.list"  # the detections that runs wrote into a folder, a name per line
DONE_FILE = "done.list"  # what they were made of: image name and fingerprints, as JSON, a line per image


Fingerprint = dict[str, str]  # {kind of input: what shows that it changed}


def write_wider(path: Path, detections: Mapping[str, Detections]) -> None:
    """Write detections in the official submission format: an archive if its name asks for one, else a folder.

    Nothing appears under the final name before all is written; a folder or archive there is replaced.

    Raises:
        DataError: if two images would share a file, a name would lie outside the folder, or the folder to
            replace holds anything but ``.txt``.
    """

    def text_of(file: str, name: str) -> str:
        check_sizes(detections[name], name, path)
        return wider.format_detections(file, detections[name])

    write_texts(path, detections, text_of)


def write_texts(path: Path, names: Iterable[str], text_of: Callable[[str, str], str]) -> None:
    """Write one ``.txt`` per image into an archive, if the name asks for one, else into a folder.

    Args:
        path: replaced if it exists, and never seen half written.
        names: names of the images.
        text_of: ``text_of(file, name)``, an image's text; ``file`` is its place in the folder, without ``.txt``.

    Raises:
        DataError: in the cases of :func:`write_wider`.
    """
    files = _files_of(names, path)
    contents = ((f"{file}.txt", encode(text_of(file, name), path)) for file, name in files.items())
    if is_archive_name(path):
        write_archive(path, contents)
    else:
        _write_folder(path, contents)


class DetectionWriter:
    """Writes one ``.txt`` per image into a folder, or into a folder that becomes an archive at the end.

    Every file is replaced atomically, so a cut-off run leaves whole files only. An archive is built
    beside its final name in ``<name>.partial/`` and appears complete or not at all.

    Args:
        path: folder or archive to write.
        list_file: gets the name of every file before it is written; default: there is no such list.
        names: all images that will be written, so that none shares another's file (see
            :func:`tinygan.formats.names.output_names`).
    """

    def __init__(self, path: Path, list_file: Path | None = None, names: Iterable[str] = ()) -> None:
        self.path, self._list_file = path, list_file
        self._output = output_names(names, path)
        self.is_archive, self.folder = is_archive_name(path), working_folder(path)
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether this image's file was written already (by an earlier, cut-off run)."""
        return self.file(name).is_file()

    def done(self, inputs: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
        """The images that an earlier run finished, with what it noted of them; see :meth:`finish`.

        Args:
            inputs: fingerprints of what each image's detections are made from.

        Raises:
            DataError: naming images that were made of something else, and what of it changed.
        """
        file = self.folder / DONE_FILE
        before = _finished(file)
        done = {name: before[name] for name in inputs if name in before and self.has(name)}
        changed = {
            name: kinds
            for name in sorted(done)
            if (kinds := [kind for kind in inputs[name] if inputs[name][kind] != done[name].get(kind)])
        }
        if changed:
            named = [f"{name} ({' and '.join(kinds)})" for name, kinds in changed.items()]
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            raise DataError(
                f"{self.path}: changed since the run that is to be continued: {', '.join(named[:3])}{more}; "
                "put back what was there, or replace the results with --overwrite"
            )
        return done

    def finish(self, name: str, made_of: Fingerprint) -> None:
        """Note that an image's file is whole, of what it was made and what else a continued run is to know of it."""
        append_line(self.folder / DONE_FILE, json.dumps([name, made_of]).encode())

    def count(self, name: str) -> int:
        """How many boxes an image was written with."""
        return int(self.file(name).read_text(encoding="utf-8").splitlines()[1])

    def write(self, name: str, detections: Detections) -> None:
        """Write an image's detections, by falling score."""
        self.write_text(name, wider.format_detections(self._name(name), detections))

    def write_text(self, name: str, text: str) -> None:
        """Write an image's file as it is."""
        file = self.file(name)
        content = encode(text, file)
        if self._list_file is not None:
            append_line(self._list_file, _line(file, self.folder)[:-1])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)

    def close(self) -> None:
        """Turn the folder into the archive, if the output is one."""
        if not self.is_archive:
            return
        files = sorted(self.folder.rglob("*.txt"))
        write_archive(self.path, ((f.relative_to(self.folder).as_posix(), f.read_bytes()) for f in files))
        spent = _spent(self.folder)
        self.folder.rename(spent)  # in one step: a folder that a kill left half removed could not be continued
        shutil.rmtree(spent)

    def file(self, name: str) -> Path:
        """Where an image's detections are written."""
        return self.folder / f"{_checked(self._name(name), name, self.folder)}.txt"

    def _name(self, name: str) -> str:
        return self._output.get(name, stem(name))


def working_folder(out: Path) -> Path:
    """The folder that a run writes into: its output itself, or what becomes the archive."""
    return out.with_name(f"{out.name}.partial") if is_archive_name(out) else out


def open_output(
    out: Path,
    kept: Sequence[str],
    command: str,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    names: Iterable[str] = (),
) -> DetectionWriter:
    """The writer for a folder or archive of detections.

    Args:
        out: folder or archive.
        kept: names of the files that the command keeps beside the detections; the first holds the settings.
        command: the command's name, for messages.
        settings: what decides the results, as JSON types; a continued run must have the same.
        resume: continue what is there.
        overwrite: replace what is there: all that runs wrote is removed, and nothing else.
        names: all images that will be written.

    Raises:
        DataError: in the cases of :func:`tinygan.files.make_way`, if ``out`` is a file, or if a run that is to be
            continued wrote an image that is not among ``names``; if two of these would share a file.
    """
    folder, names = working_folder(out), list(names)
    output_names(names, out)  # before anything is removed
    if out.is_file() and folder == out:
        raise DataError(f"{out}: expected a folder or a name ending in .tar.gz, but this is a file")
    shutil.rmtree(_spent(folder), ignore_errors=True)
    if out.is_file() and not overwrite and not (resume and folder.is_dir()):
        raise DataError(f"{out}: exists already; replace it with --overwrite or choose another --out")
    make_way(
        folder, folder / kept[0], command, settings,
        resume=resume, overwrite=overwrite, clear=lambda: _clear(folder, kept), read_settings=json.loads,
    )  # fmt: skip
    if folder.is_dir():
        remove_half_written([*_written(folder), *_records(folder, kept)])
    writer = DetectionWriter(out, folder / WRITTEN_FILE, names)
    if resume and names:
        _refuse_stale(writer, names)
    write_atomically(folder / WRITTEN_FILE, b"".join(_line(file, folder) for file in _written(folder)))
    write_atomically(folder / kept[0], json.dumps(settings).encode())
    return writer


def _refuse_stale(writer: DetectionWriter, names: Iterable[str]) -> None:
    """Refuse to continue where a file of an image would stay that is gone, or has another file now."""
    expected = {writer.file(name) for name in names}
    stale = [file for file in _written(writer.folder) if file not in expected and file.is_file()]
    if stale:
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise DataError(
            f"{writer.path}: changed since the run that is to be continued: "
            f"{stale[0].relative_to(writer.folder).as_posix()}{more} of it would stay, and no image is written there "
            "now; put back what was there, or replace the results with --overwrite"
        )


def check_sizes(detections: Detections, name: str, path: Path) -> None:
    """Refuse boxes whose width or height is beyond float64, as no ``x y w h`` can hold them.

    Raises:
        DataError: naming the image and the file that was to be written.
    """
    with np.errstate(over="ignore"):
        if not np.isfinite(detections.boxes[:, 2:] - detections.boxes[:, :2]).all():
            raise DataError(f"{path}: a box of image '{name}' is too large to be written as x y w h")


def _files_of(names: Iterable[str], path: Path) -> dict[str, str]:
    """``{file below the folder, without .txt: image name}``."""
    return {_checked(output, name, path): name for name, output in output_names(names, path).items()}


def _checked(file: str, name: str, path: Path) -> str:
    """An image's file below the folder, without ``.txt``; names that lead out of it are refused."""
    parts = PurePosixPath(file).parts
    outside = not "".join(parts).strip() or file.startswith("/") or ".." in parts
    if outside or any(ord(character) < 32 for character in file):
        raise DataError(f"{path}: cannot name a file after image {name!a}; expected a path such as event/a.jpg")
    return file


def _write_folder(path: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write beside ``path``, then swap; a kill between the two renames leaves the old folder as ``.<name>.old``."""
    path = path.resolve()
    foreign = [p for p in path.rglob("*") if not p.is_dir() and p.suffix != ".txt"] if path.exists() else []
    if path.is_file() or foreign:
        got = f"holds {foreign[0].name}, which is no .txt" if foreign else "is a file, and a folder is to be written"
        raise DataError(f"{path}: {got}; choose another name")
    temporary = path.with_name(f".{path.name}.tmp")  # one name, so that what a kill leaves is not left for good
    with hold_folder(temporary):
        try:
            _empty(temporary)
            for name, content in contents:
                file = temporary / name
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, content)
            _swap(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


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


def _clear(folder: Path, kept: Sequence[str]) -> None:
    remove_written([*_written(folder), *_records(folder, kept)], folder)


def _records(folder: Path, kept: Sequence[str]) -> list[Path]:
    """The files beside the detections."""
    return [folder / name for name in (*kept, WRITTEN_FILE, DONE_FILE)]


def _spent(folder: Path) -> Path:
    """What the folder of an archive that is whole is called while it is removed."""
    return folder.with_name(f".{folder.name}.spent")


def _finished(file: Path) -> dict[str, Fingerprint]:
    """What each finished image was made of; a last line that a kill or a full disk cut short is removed."""
    content = file.read_bytes() if file.is_file() else b""
    whole, end, rest = content.rpartition(b"\n")
    if rest:
        write_atomically(file, whole + end)  # or the next line would be glued to it
    try:
        return dict(json.loads(line) for line in whole.splitlines())
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{file}: is damaged, expected a line of JSON per image; start again with --overwrite"
        ) from error


def _written(folder: Path) -> list[Path]:
    """The detections that runs wrote into a folder; earlier versions kept no list, and every ``.txt`` was theirs."""
    list_file = folder / WRITTEN_FILE
    if not list_file.is_file():
        return sorted(folder.rglob("*.txt"))
    whole, _, _ = list_file.read_bytes().rpartition(b"\n")  # of a line that a kill cut short, no file was written yet
    return [folder / os.fsdecode(name) for name in sorted(set(whole.split(b"\n"))) if name]


def _line(file: Path, folder: Path) -> bytes:
    return os.fsencode(f"{file.relative_to(folder).as_posix()}\n")

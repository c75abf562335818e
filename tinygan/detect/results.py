"""The output folder of ``tinygan-detect``: a journal that survives a kill, and the tables made of it at the end.

Every image or frame is a line of ``detect.jsonl`` as soon as it is done, and every finished input another,
``{"done": name, …}``; what stands behind the last of those is dropped when a run is continued. ``{"begun": output}``
says which picture or video is written next, so that nothing is left of one that was cut off.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any, TextIO

from tinygan.detect.sources import Source
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.files import (
    fingerprint,
    make_way,
    open_atomically,
    real_path,
    remove_half_written,
    remove_written,
    write_atomically,
)

JOURNAL, JSON_TABLE, CSV_TABLE = "detect.jsonl", "detections.json", "detections.csv"
Record = dict[str, Any]  # a line of JSON
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)  # of JSON of another shape than was written
_COLUMNS = ("x1", "y1", "x2", "y2", "score", "proposal_score", "face_logit", "outcome")


@dataclass
class Totals:
    """What an output folder holds.

    Attributes:
        images: pictures.
        frames: frames of videos.
        faces: boxes in both.
        dropped: boxes that the second stage lowered below the least score.
        outcomes: faces by outcome.
    """

    images: int = 0
    frames: int = 0
    faces: int = 0
    dropped: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count an image or a frame."""
        self.frames += "frame" in record
        self.images += "frame" not in record
        self.faces += len(record["faces"])
        self.dropped += record["dropped"]
        self.outcomes.update(face["outcome"] for face in record["faces"])


class Results:
    """An output folder, to be used as a context; made by :func:`open_results`.

    Args:
        folder: it holds a journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._journal: IO[bytes] = (folder / JOURNAL).open("r+b")
        self.done: dict[str, str | None] = {}  # the picture or video of each input, if one was written
        self._begun: str | None = None
        self._paths: dict[str, str] = {}
        self._made_of: dict[str, str] = {}
        self.damage: dict[str, str] = {}  # what of a finished video could not be read
        self._safe = len(self._journal.readline())  # the settings
        try:
            self._read_journal()
        except _DAMAGE as error:
            self._journal.close()
            raise self._damaged() from error
        if self._begun is not None:
            remove_written([folder / self._begun], folder)
        remove_half_written(folder / name for name in (JOURNAL, JSON_TABLE, CSV_TABLE))
        self.drop()

    def _read_journal(self) -> None:
        end = self._safe
        for line in self._journal:
            end += len(line)
            if not line.endswith(b"\n"):
                break  # cut short by a kill
            if line.startswith(b'{"done"'):
                self._note(json.loads(line))
                self._safe, self._begun = end, None
            elif line.startswith(b'{"begun"'):
                self._begun = _inside(json.loads(line)["begun"])
            elif "faces" not in json.loads(line):
                raise ValueError(line)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def add(self, record: Record) -> None:
        """Note an image or a frame; it counts once its input is done."""
        self._journal.write(json.dumps(record).encode() + b"\n")

    def begin(self, source: Source) -> None:
        """The picture or video of this input is written next."""
        self._begun = source.output
        self._journal.write(json.dumps({"begun": self._begun}).encode() + b"\n")
        self._journal.flush()

    def finish(self, source: Source, damage: str = "") -> None:
        """All of this input is noted, and its picture or video written, if it was begun.

        Args:
            source: the input.
            damage: what of it could not be read.
        """
        entry = {
            "done": source.name,
            "output": self._begun,
            "path": str(real_path(source.path)),
            "made_of": fingerprint(source.path),
            **({"damage": damage} if damage else {}),
        }
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        self._safe = self._journal.tell()
        self._note(entry)
        self._begun = None

    def _note(self, entry: Record) -> None:
        name = str(entry["done"])
        _inside(entry["output"] or "")
        self.done[name], self._paths[name], self._made_of[name] = (
            entry["output"],
            entry["path"],
            entry.get("made_of", ""),
        )
        if "damage" in entry:
            self.damage[name] = entry["damage"]

    def missing(self, sources: Sequence[Source]) -> list[Source]:
        """The inputs that are not done.

        Raises:
            DataError: if another file of the same name is, or one changed since or is none of the inputs any more.
        """
        changed = [
            source.name
            for source in sources
            if self._made_of.get(source.name, "") not in ("", fingerprint(source.path))
        ]
        changed += sorted(set(self.done) - {source.name for source in sources})
        for source in sources:
            path = self._paths.get(source.name, str(real_path(source.path)))
            if path != str(real_path(source.path)):
                raise DataError(
                    f"{self.folder}: holds '{source.name}' of {path}; choose another --out for {source.path}"
                )
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise DataError(
                f"{self.folder}: changed since the run that is to be continued: {', '.join(changed[:3])}{more}; "
                "put back what was there, or replace the results with --overwrite"
            )
        return [source for source in sources if source.name not in self.done]

    def drop(self) -> None:
        """Forget what was noted since the last finished input."""
        self._begun = None
        self._journal.flush()
        self._journal.seek(self._safe)
        self._journal.truncate()

    def write_tables(self, header: Mapping[str, Any]) -> Totals:
        """Write both tables of all finished inputs.

        Args:
            header: JSON types, to stand before the images.

        Raises:
            DataError: if the journal was damaged before it was continued.
        """
        self.drop()
        totals = Totals()
        try:
            for record in self._records():
                totals.add(record)
            self._write_json(header)
            self._write_csv(timed=totals.frames > 0)
        except _DAMAGE as error:
            raise self._damaged() from error
        return totals

    def _damaged(self) -> DataError:
        return DataError(f"{self.folder / JOURNAL}: is damaged; replace the results with --overwrite")

    def _records(self) -> Iterator[Record]:
        with (self.folder / JOURNAL).open("rb") as journal:
            for line in journal:
                record = json.loads(line)
                if "faces" in record:
                    yield record

    def _write_json(self, header: Mapping[str, Any]) -> None:
        with open_atomically(self.folder / JSON_TABLE) as file:
            lines = (f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in header.items())
            file.write(("{\n" + "".join(lines) + ' "images": [').encode())
            for number, record in enumerate(self._records()):
                file.write(((",\n  " if number else "\n  ") + json.dumps(record)).encode())
            file.write(b"\n ]\n}\n")

    def _write_csv(self, timed: bool) -> None:
        """See :func:`write_rows`."""
        with open_atomically(self.folder / CSV_TABLE) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            write_rows(text, self._records, timed)
            text.detach()


def write_rows(file: TextIO, records: Callable[[], Iterable[Record]], timed: bool = False) -> None:
    """The CSV table: a row per face, and one with nothing but the name for an input without a face.

    Args:
        file: opened for text without newline translation.
        records: gives the lines of :func:`to_record`, each time it is called.
        timed: whether there are columns for a video's frames.
    """
    found = {record["name"] for record in records() if record["faces"]}
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(("image", *(("frame", "seconds") if timed else ()), *_COLUMNS))
    for record in records():
        for face in record["faces"]:
            when = (record.get("frame"), record.get("seconds")) if timed else ()
            numbers = (face["score"], face["proposal_score"], face["face_logit"], face["outcome"])
            rows.writerow((record["name"], *when, *face["box"], *numbers))
        if record["name"] not in found:
            found.add(record["name"])
            rows.writerow((record["name"], *[""] * (len(_COLUMNS) + 2 * timed)))


def open_results(folder: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> Results:
    """The output folder; what lies there is continued, replaced or refused.

    Args:
        folder: made if absent.
        settings: JSON types; a continued run must have the same.
        resume: continue what is there.
        overwrite: replace what is there.

    Raises:
        DataError: if something is there and neither ``resume`` nor ``overwrite`` is given, if it was not written by
            this command, or with other settings.
    """
    journal = folder / JOURNAL
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder to write into, but this is a file; choose another --out")
    make_way(
        folder, journal, "tinygan-detect", settings,
        resume=resume, overwrite=overwrite, clear=lambda: _clear(folder), read_settings=_settings,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if not journal.is_file():
        write_atomically(journal, json.dumps({"settings": settings}).encode() + b"\n")
    return Results(folder)


def _inside(output: str) -> str:
    """A picture or video below the folder; a journal that names another file is none of ours.

    Raises:
        ValueError: if it is outside.
    """
    if PurePath(output).is_absolute() or ".." in PurePath(output).parts:
        raise ValueError(output)
    return output


def to_record(name: str, size: tuple[int, int], found: Detections, dropped: int) -> Record:
    """A line of the journal, and an entry of the JSON table.

    Args:
        name: the name of the image or video.
        size: its width and height in pixels.
        found: its faces, as of :meth:`FaceDetector.detect`.
        dropped: how many more the second stage lowered below the least score.
    """
    columns = {name: column.tolist() for name, column in found.fields.items()}
    landmarks = columns.get("landmarks")
    faces = [
        {
            "box": box,
            "score": score,
            **{name: columns[name][row] for name in ("proposal_score", "face_logit", "proposal_box", "outcome")},
            **({} if landmarks is None else {"landmarks": landmarks[row]}),
        }
        for row, (box, score) in enumerate(zip(found.boxes.tolist(), found.scores.tolist(), strict=True))
    ]
    return {"name": name, "width": size[0], "height": size[1], "dropped": dropped, "faces": faces}


def _settings(line: str) -> Any:
    return json.loads(line)["settings"]


def _clear(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    written: list[str] = []
    with suppress(DataError), Results(folder) as results:  # of a damaged journal nobody knows what it wrote
        written = [output for output in results.done.values() if output is not None]
    remove_written([folder / name for name in (*written, JSON_TABLE, CSV_TABLE, JOURNAL)], folder)

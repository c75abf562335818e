"""Detections of many images as they lie on disk: a folder, an archive or one file, parsed when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.files import to_utf8, walk_files
from tinygan.formats import wider
from tinygan.formats.archives import read_archive
from tinygan.formats.dialect import Order
from tinygan.formats.exports import is_shadow
from tinygan.formats.names import stem


class DetectionFiles(Mapping[str, Detections]):
    """Detections of many images by file name (without ``.txt``), parsed when needed.

    Args:
        readers: ``{name: function that returns the file's bytes}``, in the official submission format.
        source: the folder or archive, for messages.
        order: what the four numbers of a box are there.

    Attributes:
        left_out: why files are left out, by name, as those whose boxes are parts of a picture that cannot be read.
    """

    def __init__(self, readers: Mapping[str, Callable[[], bytes]], source: Path, order: Order = "xywh") -> None:
        self._readers = dict(readers)
        self.source = source
        self.order = order
        self.left_out: dict[str, str] = {}

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
        """An image's detections in the official submission format; unchanged where that is how they are stored."""
        try:
            return to_utf8(self._readers[name]()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.describe(name)}: expected text in the official submission format, got byte "
                f"0x{error.object[error.start]:02x} on line {error.object.count(10, 0, error.start) + 1}"
            ) from error

    def stray(self, name: str) -> str | None:
        """Why a file holds no detections at all, as an empty one or a README; ``None`` if it looks as if it did."""
        try:
            text = self.text(name)
        except DataError as error:
            return str(error)
        if not text.strip():
            return "is empty, expected detections"
        count = [*text.strip().split("\n", 2), ""][1].strip()
        return None if wider.is_count(count) else f"expected the number of boxes on line 2, got '{count[:60]}'"

    def describe(self, name: str) -> str:
        """The place of an image's detections, for messages."""
        return f"{self.source}/{name}.txt"


class ParsedDetections(DetectionFiles):
    """Detections of many images out of one file, under the names that the file gives them.

    Args:
        detections: ``{image name: detections}``.
        source: the file, for messages.
        order: what the four numbers of a box are there.
    """

    def __init__(self, detections: Mapping[str, Detections], source: Path, order: Order = "xywh") -> None:
        super().__init__({}, source, order)
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

    def stray(self, name: str) -> str | None:
        """Never one: what is in a table is a box, or an image without."""
        return None

    def describe(self, name: str) -> str:
        """The place of an image's detections, for messages."""
        return f"{self.source}, image '{name}'"


def read_wider(path: Path) -> DetectionFiles:
    """Detections in the official submission format, from a folder or an archive (see :mod:`tinygan.formats.archives`).

    Raises:
        DataError: if the path is neither, or holds no ``.txt``.
    """
    if path.is_dir():
        files = sorted(p for p in walk_files(path) if p.suffix.lower() == ".txt" and p.is_file() and not is_shadow(p))
        readers = {stem(p.relative_to(path).as_posix()): p.read_bytes for p in files}
    else:
        contents = read_archive(path)
        readers = {stem(name): _constant(content) for name, content in contents.items()}
    if not readers:
        raise DataError(f"{path}: expected one .txt an image (official submission format), found none")
    return DetectionFiles(readers, path)


def _line_beyond_range(text: str) -> str:
    """``:line`` of the first row whose corner is not finite."""
    body = text.strip().split("\n", maxsplit=2)[-1]
    for number, line in enumerate(body.splitlines(), start=3):
        x, y, width, height, _ = map(float, line.split())
        if not np.isfinite([x + width, y + height]).all():
            return f":{number}"
    return ""


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content

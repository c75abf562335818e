"""Detections of many images, parsed once and kept in a temporary file."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping

import numpy as np

from tinygan.detections import Detections

_ROW = 5  # x1, y1, x2, y2, score: float64 each


class Spool(Mapping[str, Detections]):
    """Detections by image name; memory does not grow with their number.

    Detections with further fields, which come from formats that are read as a whole, stay in memory.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the spool)
        weakref.finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}
        self._whole: dict[str, Detections] = {}

    def add(self, name: str, detections: Detections) -> None:
        """Keep an image's detections."""
        self._places[name] = (self._file.seek(0, 2), len(detections))
        if detections.fields:
            self._whole[name] = detections
        else:
            self._file.write(np.column_stack([detections.boxes, detections.scores]).tobytes())

    def __getitem__(self, name: str) -> Detections:
        place, count = self._places[name]
        if name in self._whole:
            return self._whole[name]
        self._file.seek(place)
        rows = np.frombuffer(self._file.read(count * _ROW * 8)).reshape(count, _ROW)
        return Detections(rows[:, :4].copy(), rows[:, 4].copy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

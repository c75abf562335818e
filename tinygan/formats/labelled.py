"""What annotation tools say of many pictures in one file: rectangles with labels, and shapes that are none."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygan.detections import Detections, GroundTruth
from tinygan.formats.categories import face_categories, keep_faces
from tinygan.formats.rows import GroupedRows, Rows

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Labelled:
    """The rectangles of many pictures, and what was left out.

    Attributes:
        images: names of all pictures; those without a rectangle are here too.
        of_rows: the picture of each of N rectangles.
        boxes: N times ``x1, y1, x2, y2`` in pixels.
        labels: N labels.
        scores: N scores; ``None`` where a person drew the rectangle.
        known: labels that the project has, also those that no rectangle has.
        odd: how many shapes are no upright rectangle, by kind.
    """

    images: list[str] = field(default_factory=list)
    of_rows: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    odd: Counter[str] = field(default_factory=Counter)

    def add(self, image: str, box: tuple[float, float, float, float], label: str, score: float | None = None) -> None:
        """Add a rectangle ``x1, y1, x2, y2``, in pixels; corners may be swapped, as some tools keep the way drawn.

        Raises:
            ValueError: if a number is not finite.
        """
        if not np.isfinite([*box, 0.0 if score is None else score]).all():
            raise ValueError(f"expected finite numbers, got {box}, score {score}")
        (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
        self.of_rows.append(image)
        self.boxes.append((x1, y1, x2, y2))
        self.labels.append(label)
        self.scores.append(score)

    def tell_odd(self, source: str) -> None:
        """Warn of shapes that were left out, if there are any."""
        if self.odd:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.odd.items()))
            log.warning(
                "%s: %d shapes that are no upright rectangle are left out (%s)", source, self.odd.total(), kinds
            )


def to_faces(found: Labelled, source: str, categories: Sequence[str] = ()) -> dict[str, GroundTruth]:
    """Rectangles as annotated faces: those of the wanted labels, else of the one called ``face``, else of the only one.

    Args:
        found: what a tool says.
        source: path for error messages.
        categories: labels that are faces, in any case of letters.

    Returns:
        ``{image name: faces}`` of all pictures.

    Raises:
        DataError: if no label is a wanted one, or there are several and none is called ``face``.
    """
    found.tell_odd(source)
    kept = face_categories(found.known | set(found.labels), categories, source)
    boxes: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in found.images}
    for name, box, label in zip(found.of_rows, found.boxes, found.labels, strict=True):
        if kept is None or label in kept:
            boxes[name].append(box)
    return {
        name: GroundTruth(np.array(rows, np.float64).reshape(-1, 4), np.zeros(len(rows), np.bool_))
        for name, rows in boxes.items()
    }


def to_detections(found: Labelled, source: str, categories: Sequence[str] = ()) -> Mapping[str, Detections]:
    """Rectangles as detections; those without a score get 1, with a warning.

    Raises:
        DataError: if there are several labels, and none is wanted or called ``face``.
    """
    found.tell_odd(source)
    unsure = sum(score is None for score in found.scores)
    if unsure:
        log.warning("%s: %d rectangles have no score, as a person drew them; they get the score 1", source, unsure)
    scores = np.array([1.0 if score is None else score for score in found.scores], np.float64)
    boxes = np.array(found.boxes, np.float64).reshape(-1, 4)
    boxed = set(found.of_rows)
    rows = Rows(found.of_rows, boxes, scores, {}, [name for name in found.images if name not in boxed], "xyxy")
    return GroupedRows(rows.kept(keep_faces(found.labels, categories, source)))

"""A search beside another detector's proposals, whose results are joined (:mod:`tinygan.joining`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from tinygan.detections import Detections
from tinygan.errors import why_skipped
from tinygan.formats.images import Orientation, read_image
from tinygan.formats.sizes import several_or_large
from tinygan.runtime import on_own_threads
from tinygan.second_stage.judging import Judged

LEAST_SCORE = 0.005  # of what a search finds: half of its boxes, which cost a tenth of a point of hard AP


class Searcher(Protocol):
    """A face detector of two stages, such as :class:`tinygan.FaceDetector`."""

    @property
    def side_by_side(self) -> int:
        """How many threads may usefully call it at the same time."""
        ...

    def detect(self, image: Image.Image, min_score: float) -> Detections:
        """The faces of a picture whose scores are at least ``min_score``."""
        ...


def search_images(
    searcher: Searcher, judged: Iterable[Judged], image_of: Mapping[str, Path], orientation: Orientation = "upright"
) -> Iterator[tuple[Judged, Detections]]:
    """Search images whose proposals were judged, on a CPU several at once, unless they are large.

    Args:
        searcher: finds faces in them.
        judged: images; read lazily, few ahead.
        image_of: their files by name.
        orientation: ``upright`` or ``stored``: the position of the pictures that boxes refer to.

    Yields:
        What was judged, and what was found; of an image that cannot be read nothing, and what was judged has the error.
    """

    def search(one: Judged) -> tuple[Judged, Detections]:
        if one.error is not None:
            return one, Detections.empty()
        try:
            return one, searcher.detect(read_image(image_of[one.name], orientation), LEAST_SCORE)
        except Exception as problem:  # whatever one picture may raise costs that picture alone
            return replace(one, error=why_skipped(problem, one.name)), Detections.empty()

    count = searcher.side_by_side
    for several, some in several_or_large(judged, lambda one: image_of[one.name], count):
        yield from on_own_threads(search, some, count if several else 1)

"""Both stages on tables of pictures: every shard by itself, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tinygan.detect.detector import FaceDetector
from tinygan.detections import Detections
from tinygan.errors import ConfigError, DataError, why_skipped
from tinygan.formats.images import Orientation, read_image
from tinygan.formats.parts import Answer, Part, PartFolder, write_part
from tinygan.formats.shards import Row, Shard, read_rows


def table_finder(
    open_detector: Callable[[], FaceDetector], folder: PartFolder, min_score: float, orientation: Orientation
) -> Callable[[], Callable[[Sequence[Shard]], Iterator[Part]]]:
    """What makes a worker that finds the faces of shards and writes them; see
    :func:`tinygan.formats.parts.work_through`.

    Args:
        open_detector: opens both stages, once per worker.
        folder: the output.
        min_score: boxes of a lower final score are left out.
        orientation: the position of the pictures that boxes refer to.
    """
    return partial(_make_worker, open_detector, folder, min_score, orientation)


def _make_worker(
    open_detector: Callable[[], FaceDetector], folder: PartFolder, min_score: float, orientation: Orientation
) -> Callable[[Sequence[Shard]], Iterator[Part]]:
    detector = open_detector()

    def work(shards: Sequence[Shard]) -> Iterator[Part]:
        for shard in shards:
            yield write_part(folder, shard, (_find(detector, row, min_score) for row in read_rows(shard, orientation)))

    return work


def _find(detector: FaceDetector, row: Row, min_score: float) -> Answer:
    """The faces of one picture; whatever it may raise costs that picture alone."""
    try:
        if row.error is not None:
            raise DataError(row.error)
        return Answer(row.name, detector.detect(read_image(row.image), min_score))
    except (OSError, ConfigError):  # of the first stage itself; reading makes it a DataError
        raise
    except Exception as error:
        reason = why_skipped(error, row.name)
        return Answer(row.name, Detections.empty(), reason)

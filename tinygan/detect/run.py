"""Pictures and videos -> boxes, tables and pictures: the engine behind ``tinygan-detect``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from tinygan.detect.detector import MIN_SCORE, FaceDetector, split_by_score
from tinygan.detect.picture import Tile, detection_picture, mark_faces
from tinygan.detect.results import Record, Results, to_record
from tinygan.detect.sources import Source
from tinygan.detect.video import Frame, VideoWriter, read_frames, write_video
from tinygan.detections import Detections, FloatArray
from tinygan.errors import ConfigError, DataError, unexpected
from tinygan.formats.images import Orientation, read_image
from tinygan.pictures import save_png

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """What is written.

    Attributes:
        min_score: boxes of a lower final score are left out; in pictures they are thin, if the first stage's was not.
        pictures: whether to write a picture or video of every input.
        strip: small faces shown below a picture, at most.
        orientation: of image files: ``upright`` or ``stored``; boxes refer to it, and so are pictures drawn.
    """

    min_score: float = MIN_SCORE
    pictures: bool = True
    strip: int = 12
    orientation: Orientation = "upright"


def detect_all(detector: FaceDetector, sources: Sequence[Source], results: Results, config: DetectConfig) -> list[str]:
    """Find the faces of all pictures and videos.

    Args:
        detector: both stages.
        sources: inputs; those that ``results`` holds already are left as they are.
        results: where lines of the journal and pictures go.
        config: what is written.

    Returns:
        A line for every input that could not be read, of which nothing is written, and for every video of which parts
        could not.

    Raises:
        DataError: if ``results`` holds another input of the same name, or one that changed since.
    """
    todo = results.missing(sources)
    skipped = [results.damage[source.name] for source in sources if source.name in results.damage]
    for source in tqdm(todo, desc="detecting", unit="input", disable=None if len(todo) > 1 else True):
        damage: list[str] = []
        try:
            if source.is_video:
                _detect_video(detector, source, results, config, damage)
            else:
                _detect_image(detector, source, results, config)
        except (OSError, ConfigError):  # of writing (reading makes it a DataError), and of the first stage itself
            raise
        except Exception as error:  # whatever one input may raise costs that input alone
            results.drop()
            reason = str(error) if isinstance(error, DataError) else unexpected(error, source.path)
            skipped.append(reason if str(source.path) in reason else f"{source.path}: {reason}")
            continue
        results.finish(source, "; ".join(damage))
        skipped += damage
    return skipped


def _detect_image(detector: FaceDetector, source: Source, results: Results, config: DetectConfig) -> None:
    picture = read_image(source.path, config.orientation)
    found, dropped, record = _detect(detector, source, picture, config)
    if config.pictures:
        enlarged = detector.enlarge(picture, found, config.strip)
        tiles = [Tile(int(row), lr, refined) for row, lr, refined in zip(*enlarged, strict=True)]
        drawn = detection_picture(np.asarray(picture), found, dropped, tiles)
        results.begin(source)
        save_png(drawn, results.folder / source.output)
    results.add(record)


def _detect_video(
    detector: FaceDetector, source: Source, results: Results, config: DetectConfig, damage: list[str]
) -> None:
    frames = tqdm(read_frames(source.path, damage), desc=source.name, unit="frame", leave=False, disable=None)
    if not config.pictures:
        for frame in frames:
            _detect_frame(detector, source, frame, results, config, None)
        return
    results.begin(source)
    with write_video(results.folder / source.output) as writer:
        for frame in frames:
            _detect_frame(detector, source, frame, results, config, writer)


def _detect_frame(
    detector: FaceDetector,
    source: Source,
    frame: Frame,
    results: Results,
    config: DetectConfig,
    writer: VideoWriter | None,
) -> None:
    found, dropped, record = _detect(detector, source, frame.picture, config)
    results.add({"name": record.pop("name"), "frame": frame.number, "seconds": frame.seconds, **record})
    if writer is not None:
        writer.write(mark_faces(np.asarray(frame.picture), found, dropped), frame.seconds)


def _detect(
    detector: FaceDetector, source: Source, picture: Image.Image, config: DetectConfig
) -> tuple[Detections, FloatArray, Record]:
    """The faces of one picture, the boxes dropped, float64 [M, 4], and both as a line of the journal."""
    found, dropped = split_by_score(detector.detect(picture, min_score=0.0), config.min_score)
    return found, dropped, to_record(source.name, picture.size, found, len(dropped))

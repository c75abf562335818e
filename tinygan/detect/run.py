"""Pictures and videos -> boxes, tables and pictures: the engine behind ``tinygan-detect``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, repeat
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from tinygan.detect.detector import MIN_SCORE, FaceDetector, split_by_score
from tinygan.detect.picture import detection_picture, mark_faces
from tinygan.detect.results import Record, Results, to_record
from tinygan.detect.sources import Source
from tinygan.detect.video import Frame, VideoWriter, read_frames, write_video
from tinygan.detections import ByteArray, Detections, FloatArray
from tinygan.errors import ConfigError, why_skipped
from tinygan.formats.images import Orientation, read_image
from tinygan.formats.sizes import several_or_large
from tinygan.pictures import save_png
from tinygan.runtime import on_own_threads
from tinygan.second_stage.cluster import Cluster, Work

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


class Found(NamedTuple):
    """What was found in one picture.

    Attributes:
        record: a line of the journal; ``None`` if the picture could not be read.
        drawn: the picture to write, uint8 RGB [H, W, 3], if there is to be one.
        error: why it could not be read.
    """

    record: Record | None
    drawn: ByteArray | None = None
    error: str = ""


def detect_all(
    detector: FaceDetector,
    sources: Sequence[Source],
    results: Results,
    config: DetectConfig,
    find: Callable[[Iterable[Source]], Iterator[Found]] | None = None,
) -> list[str]:
    """Find the faces of all pictures and videos.

    Args:
        detector: both stages.
        sources: inputs; those that ``results`` holds already are left as they are.
        results: where lines of the journal and pictures go.
        config: what is written.
        find: what finds the faces of pictures, in order, elsewhere than here.

    Returns:
        A line for every input that could not be read, of which nothing is written, and for every video of which parts
        could not.

    Raises:
        DataError: if ``results`` holds another input of the same name, or one that changed since.
    """
    todo = results.missing(sources)
    skipped = [results.damage[source.name] for source in sources if source.name in results.damage]
    find = find or partial(find_here, detector, config)
    with tqdm(desc="detecting", total=len(todo), unit="input", disable=None if len(todo) > 1 else True) as bar:
        for are_videos, group in groupby(todo, key=lambda source: source.is_video):
            some = list(group)
            found = repeat(None) if are_videos else find(some)
            for source, one in zip(some, found, strict=False):
                damage: list[str] = []
                error = (
                    _keep_video(detector, source, results, config, damage)
                    if one is None
                    else _keep(one, source, results)
                )
                if error:
                    results.drop()
                    skipped.append(error if str(source.path) in error else f"{source.path}: {error}")
                else:
                    results.finish(source, "; ".join(damage))
                    skipped += damage
                bar.update()
    return skipped


def find_on(
    cluster: Cluster, open_detector: Callable[[], FaceDetector], config: DetectConfig
) -> Callable[[Iterable[Source]], Iterator[Found]]:
    """What finds the faces of pictures with a cluster's actors, each of which opens both stages."""
    make = partial(_make_finder, open_detector, config)
    return lambda pictures: cluster.map(make, (replace(one, path=one.path.resolve()) for one in pictures))


def _make_finder(open_detector: Callable[[], FaceDetector], config: DetectConfig) -> Work[Source, Found]:
    detector = open_detector()
    return lambda pictures: [find_in(detector, picture, config) for picture in pictures]


def find_here(detector: FaceDetector, config: DetectConfig, pictures: Iterable[Source]) -> Iterator[Found]:
    """The faces of pictures, in order; on a CPU several pictures at once, unless they are large."""
    find = partial(find_in, detector, config=config)
    for several, some in several_or_large(pictures, lambda source: source.path, detector.side_by_side):
        yield from on_own_threads(find, some, detector.side_by_side if several else 1)


def find_in(detector: FaceDetector, source: Source, config: DetectConfig) -> Found:
    """The faces of one picture; whatever it may raise costs that picture alone."""
    try:
        picture = read_image(source.path, config.orientation)
        found, dropped, record = _detect(detector, source, picture, config)
        if not config.pictures:
            return Found(record)
        tiles = detector.enlarge(picture, found, config.strip)
        return Found(record, detection_picture(np.asarray(picture), found, dropped, tiles))
    except (OSError, ConfigError):  # of the first stage itself; reading makes it a DataError
        raise
    except Exception as error:
        return Found(None, error=why_skipped(error, source.path))


def _keep(found: Found, source: Source, results: Results) -> str:
    """Write what was found in a picture; returns why it could not be read."""
    if found.record is None:
        return found.error
    if found.drawn is not None:
        results.begin(source)
        save_png(found.drawn, results.folder / source.output)
    results.add(found.record)
    return ""


def _keep_video(
    detector: FaceDetector, source: Source, results: Results, config: DetectConfig, damage: list[str]
) -> str:
    """Find the faces of a video; returns why it could not be read."""
    try:
        _detect_video(detector, source, results, config, damage)
    except (OSError, ConfigError):  # of writing, and of the first stage itself
        raise
    except Exception as error:
        return why_skipped(error, source.path)
    return ""


def _detect_video(
    detector: FaceDetector, source: Source, results: Results, config: DetectConfig, damage: list[str]
) -> None:
    frames = tqdm(read_frames(source.path, damage), desc=source.name, unit="frame", leave=False, disable=None)
    if not config.pictures:
        for frame in frames:
            _detect_frame(detector, source, frame, results, config, None)
        return
    results.begin(source)
    with write_video(results.folder / source.output, sound_of=source.path) as writer:
        for frame in frames:
            _detect_frame(detector, source, frame, results, config, writer)
    if writer.sound is not None and writer.sound.problem:
        damage.append(f"{source.path}: its sound breaks off: {writer.sound.problem}; the pictures are whole")


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

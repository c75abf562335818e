"""Frames of videos, read and written one by one through PyAV (extra ``video``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tinygan.detections import ByteArray
from tinygan.errors import DataError, MissingDependency
from tinygan.files import open_atomically

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
_CODECS = ("libx264", "libopenh264", "mpeg4")  # the best that this build of PyAV has
_TICKS = 90_000  # a second


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 0; a frame that could not be decoded has one too.
        seconds: since the first frame.
        picture: RGB, upright.
    """

    number: int
    seconds: float
    picture: Image.Image


def require_av(path: Path) -> Any:
    """The module ``av``.

    Raises:
        MissingDependency: if PyAV is not installed; it names the video.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingDependency(f"{path}: reading videos needs PyAV: pip install 'tinygan[video]'") from error


def read_frames(path: Path, damage: list[str] | None = None) -> Iterator[Frame]:
    """Decode a video, a frame at a time. What cannot be decoded is left out; the frames around it are kept.

    Args:
        path: the video.
        damage: gets a line in the end if parts of the video could not be decoded.

    Raises:
        DataError: if the file holds no video of which a frame can be decoded.
        MissingDependency: without PyAV.
    """
    av = require_av(path)
    count, first, problems = 0, 0.0, list[str]()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: expected a video, found no picture in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 25)
            for frame in _decoded(container, stream, av, problems):
                number = count + len(problems)
                seconds = number / rate + first if frame.time is None else float(frame.time)
                first = seconds if count == 0 else first
                yield Frame(number, round(seconds - first, 6), _upright(frame))
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: expected a readable video: {' '.join(str(error).split())}") from error
    if count == 0 and not problems:
        raise DataError(f"{path}: expected a video, found no frame in it")
    if count == 0:
        raise DataError(f"{path}: expected a readable video: {problems[0]}")
    if problems and damage is not None:
        places = f"{len(problems)} place{'' if len(problems) == 1 else 's'}"
        damage.append(f"{path}: damaged in {places} ({problems[0]}); the {count} frames around are kept")


def _decoded(container: Any, stream: Any, av: Any, problems: list[str]) -> Iterator[Any]:
    """Frames of all packets that can be decoded; what could not be is added to ``problems``."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:  # the file breaks off
            problems.append(str(error))
            packet = None
        try:
            frames = stream.decode(packet)
        except av.EOFError:  # the decoder was emptied before
            return
        except av.FFmpegError as error:
            problems.append(str(error))
            continue
        yield from frames
        if packet is None:
            return


class VideoWriter:
    """Writes frames into an open MP4; made by :func:`write_video`."""

    def __init__(self, container: Any, av: Any) -> None:
        self._container, self._av = container, av
        self._stream: Any = None
        self._last = -1

    def write(self, pixels: ByteArray, seconds: float) -> None:
        """Add a frame.

        Args:
            pixels: uint8 RGB [H, W, 3]; odd sides grow by a row or column, as H.264 wants even ones.
            seconds: when it is shown.
        """
        even = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._open(even.shape[1], even.shape[0])
        frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._last = max(self._last + 1, round(seconds * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        frame = frame.reformat(width=self._stream.width, height=self._stream.height, format="yuv420p")
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _open(self, width: int, height: int) -> Any:
        names = self._av.codecs_available
        stream = self._container.add_stream(next(name for name in _CODECS if name in names), rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        return stream


@contextmanager
def write_video(path: Path) -> Iterator[VideoWriter]:
    """A video without sound that appears under its name when the block ends, or not at all.

    Raises:
        MissingDependency: without PyAV.
    """
    av = require_av(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file, av.open(file, "w", format="mp4") as container:
        writer = VideoWriter(container, av)
        yield writer
        writer.finish()


def _upright(frame: Any) -> Image.Image:
    turned = round(getattr(frame, "rotation", 0)) % 360
    picture: Image.Image = frame.to_image()
    return picture.rotate(turned, expand=True) if turned else picture

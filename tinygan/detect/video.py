"""Frames of videos, read and written one by one through PyAV (extra ``video``)."""

from __future__ import annotations

import importlib
import re
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tinygan.detect.sound import Sound
from tinygan.detections import ByteArray
from tinygan.errors import DataError, MissingDependency
from tinygan.files import open_atomically, refuse_special

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
_CODECS = ("libx264", "libopenh264", "mpeg4")  # the best that this build of PyAV has
_TICKS = 90_000  # a second
_CUT_SHORT, _CUT_FRAMES = 0.1, 3  # of a video's length, and frames: what may be missing at its end without a word
_ONE_FRAME_PER_PACKET = ("h264", "hevc")


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
    count, first, decoding = 0, 0.0, _Decoding(av)
    try:
        refuse_special(path)
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: expected a video, found no picture in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 25)
            for frame in decoding.frames(container, stream):
                number = decoding.number(frame, count)
                seconds = number / rate + first if frame.time is None else float(frame.time)
                first = seconds if count == 0 else first
                yield Frame(number, round(seconds - first, 6), _upright(frame))
                count += 1
            decoding.finish(container, stream, count)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: expected a readable video: {' '.join(str(error).split())}") from error
    if count == 0 and not decoding.problems:
        raise DataError(f"{path}: expected a video, found no frame in it")
    if count == 0:
        raise DataError(f"{path}: expected a readable video: {decoding.problems[0]}")
    if damage is not None and (said := decoding.describe()):
        damage.append(f"{path}: {said}; the {count} frames around are kept")


class _Decoding:
    """Decodes a video's packets, and keeps account of what they did not give.

    Decoders of H.264 and HEVC leave out frames that refer to damaged ones, and fill damaged parts from the frame
    before, without an error. Their packets hold a frame each, so that frames are missed by counting; a frame in which
    parts were filled has a mark.

    Args:
        av: the module.

    Attributes:
        problems: what the decoder or the file's reader said.
        lost: frames that the file has a packet of, or says it has, and that were not decoded.
        patched: frames in which damaged parts were filled.
        cut_short: where the file breaks off, if it does, and how long it should be.
    """

    def __init__(self, av: Any) -> None:
        self._av = av
        self.problems: list[str] = []
        self.lost = self.patched = 0
        self.cut_short = ""
        self._packets = self._end = 0
        self._times: list[int] = []  # of packets, sorted: when their frames are shown
        self._interlaced, self._timed = False, True

    def frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames of all packets that can be decoded."""
        packets = container.demux(stream)
        # AVI's packets have the time of decoding alone; elsewhere whatever has no packet of its own is an error.
        self._timed = stream.codec_context.name in _ONE_FRAME_PER_PACKET and container.format.name != "avi"
        while True:
            try:
                packet = next(packets, None)
            except (self._av.FFmpegError, OSError) as error:  # the file breaks off
                self.problems.append(str(error))
                packet = None
            if packet is not None and packet.size:
                start = packet.dts if packet.pts is None else packet.pts
                self._end = max(self._end, (start or 0) + (packet.duration or 0))
            if packet is not None and packet.size and not packet.is_discard:
                self._packets += 1
                if packet.pts is not None:
                    insort(self._times, packet.pts)
            try:
                frames = stream.decode(packet)
            except self._av.EOFError:  # the decoder was emptied before
                return
            except self._av.FFmpegError as error:
                self.problems.append(str(error))
                continue
            for frame in frames:
                self.patched += frame.is_corrupt
                self._interlaced |= frame.interlaced_frame
                yield frame
            if packet is None:
                return

    def number(self, frame: Any, count: int) -> int:
        """A frame's place among all, those that could not be decoded included; ``count`` were decoded before it."""
        place = bisect_left(self._times, frame.pts) if frame.pts is not None else len(self._times)
        known = self._timed and place < len(self._times) and self._times[place] == frame.pts
        return max(place, count) if known else count + len(self.problems)

    def finish(self, container: Any, stream: Any, count: int) -> None:
        """Count what is missing, once all packets are read, of which ``count`` frames were decoded."""
        end, whole = float(self._end * stream.time_base), _length(container, stream, self._av.time_base)
        if whole is not None and whole - end > max(_CUT_SHORT * whole, _CUT_FRAMES / float(stream.average_rate or 25)):
            self.cut_short = f"the file breaks off after {end:.1f} of {whole:.1f} s"
        if stream.codec_context.name not in _ONE_FRAME_PER_PACKET or self._interlaced:
            return  # elsewhere packets may rightly hold no frame
        undecoded = max(0, self._packets - count)
        absent = min(max(0, stream.frames - self._packets), self._gaps(container, stream))
        self.lost = undecoded + absent

    def describe(self) -> str:
        """What was damaged, in one phrase; empty if nothing was."""
        said = []
        if self.problems:
            said.append(f"damaged in {_count(len(self.problems), 'place')} ({self.problems[0]})")
        if self.lost:
            said.append(f"{_count(self.lost, 'frame')} could not be decoded")
        if self.patched:
            said.append(f"{_count(self.patched, 'frame')} could be decoded in part")
        if self.cut_short:
            said.append(self.cut_short)
        return ", ".join(said)

    def _gaps(self, container: Any, stream: Any) -> int:
        """Frames that fit where packets are missing, between others or at the end."""
        if len(self._times) < 2 or not stream.average_rate:
            return 0
        steps = np.diff(self._times)
        step = max(1, int(np.median(steps)))
        between = int(np.maximum(0, np.rint(steps / step) - 1).sum())
        if container.duration is None:
            return between
        tick = float(stream.time_base) * self._av.time_base
        end = ((container.start_time or 0) + container.duration) / tick
        return between + max(0, round(float(end - self._times[-1]) / step - 1))


def _length(container: Any, stream: Any, ticks: int) -> float | None:
    """How long a video is by the head of its file, in seconds; ``None`` if that is not said, or not to be relied on."""
    if container.format.name == "avi":
        return stream.frames / float(stream.average_rate) if stream.average_rate else None
    if not container.format.name.startswith("matroska") or container.duration is None:
        return None
    if len(container.streams) == 1:
        return float(container.duration / ticks)
    found = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
    return None if found is None else 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class VideoWriter:
    """Writes frames into an open MP4; made by :func:`write_video`.

    Attributes:
        sound: the sound that goes with them; None for none.
    """

    def __init__(self, container: Any, av: Any, sound_of: Path | None = None) -> None:
        self._container, self._av, self._sound_of = container, av, sound_of
        self._stream: Any = None
        self._last = -1
        self.sound: Sound | None = None

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
        if self.sound is not None:
            self.sound.write(seconds)

    def finish(self) -> None:
        """Write what the encoder still holds, and the rest of the sound."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        if self.sound is not None:
            self.sound.write(None)

    def _open(self, width: int, height: int) -> Any:
        names = self._av.codecs_available
        stream = self._container.add_stream(next(name for name in _CODECS if name in names), rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        if self._sound_of is not None:
            self.sound = Sound(self._av, self._sound_of, self._container)
        return stream


@contextmanager
def write_video(path: Path, sound_of: Path | None = None) -> Iterator[VideoWriter]:
    """A video that appears under its name when the block ends, or not at all.

    Args:
        path: the MP4 to write.
        sound_of: a video whose sound it gets.

    Raises:
        MissingDependency: without PyAV.
    """
    av = require_av(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file, av.open(file, "w", format="mp4") as container:
        writer = VideoWriter(container, av, sound_of)
        try:
            yield writer
            writer.finish()
        finally:
            if writer.sound is not None:
                writer.sound.close()


def _upright(frame: Any) -> Image.Image:
    turned = round(getattr(frame, "rotation", 0)) % 360
    picture: Image.Image = frame.to_image()
    return picture.rotate(turned, expand=True) if turned else picture

"""The sound of a video, brought into another one through PyAV (extra ``video``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinygan.errors import one_line

COPIED = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")  # as they are, into MP4; other kinds become AAC


class Sound:
    """The first sound track of a video, written into an open MP4 piece by piece.

    Sound that cannot be read or written ends there; pictures go on without it.

    Args:
        av: the module.
        source: the video that the sound is of.
        container: the open MP4, of which nothing is written yet.

    Attributes:
        problem: why the sound ended early; empty if it did not, or there was none.
    """

    def __init__(self, av: Any, source: Path, container: Any) -> None:
        self._av, self._container, self.problem = av, container, ""
        self._input: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        try:
            self._input = av.open(str(source))
            if self._input.streams.audio:
                self._packets = self._converted(self._input.streams.audio[0])
                self._waiting = next(self._packets, None)  # opens the track before the file's head is written
        except (av.FFmpegError, OSError, ValueError) as error:
            self._end(error)

    def write(self, until: float | None) -> None:
        """Write what is heard up to a time, in seconds since the first picture; None: all that is left."""
        try:
            while self._waiting is not None:
                if until is not None and float(self._waiting.pts * self._waiting.time_base) > until:
                    return
                packet, self._waiting = self._waiting, None
                self._container.mux(packet)
                self._waiting = next(self._packets, None)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            self._end(error)

    def close(self) -> None:
        """Close the source."""
        if self._input is not None:
            self._input.close()

    def _converted(self, track: Any) -> Iterator[Any]:
        """Packets for the MP4, on a clock that starts at the first picture."""
        pictures = self._input.streams.video[0]
        start = float((pictures.start_time or 0) * pictures.time_base)
        shift = round(start / track.time_base)
        if track.codec_context.codec.canonical_name in COPIED:
            out = self._container.add_stream_from_template(track)
            for packet in self._input.demux(track):
                if packet.dts is not None and packet.pts is not None and packet.dts >= shift:
                    packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, out
                    yield packet
            return
        out = self._container.add_stream("aac", rate=track.codec_context.sample_rate)
        for frame in self._input.decode(track):
            if frame.pts is not None and frame.pts >= shift:
                frame.pts -= shift
                yield from out.encode(frame)
        yield from out.encode(None)

    def _end(self, error: Exception) -> None:
        self._waiting = None
        self.problem = one_line(error)

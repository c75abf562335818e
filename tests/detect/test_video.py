"""Frames in, frames out."""

import sys

import numpy as np
import pytest

from tinygan.detect.video import read_frames, write_video
from tinygan.errors import DataError, MissingDependency


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"a\.mp4: .*pip install 'tinygan\[video\]'"):
        next(read_frames(tmp_path / "a.mp4"))
    with pytest.raises(MissingDependency, match="pip install"), write_video(tmp_path / "a.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def shade(value, height=32, width=48):
    return np.full((height, width, 3), value, np.uint8)


def test_frames_come_back_with_their_times(tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "new/a.mp4"
    times = [0.0, 0.1, 0.25, 1.0]
    with write_video(path) as writer:
        for number, seconds in enumerate(times):
            writer.write(shade(50 * number), seconds)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert np.allclose([frame.seconds for frame in frames], times, atol=1e-3)
    assert all(abs(np.asarray(f.picture).mean() - 50 * f.number) < 8 for f in frames)
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(("height", "width"), [(33, 47), (1, 1)])
def test_odd_sides_are_padded(tmp_path, height, width):
    pytest.importorskip("av")
    with write_video(tmp_path / "a.mp4") as writer:
        writer.write(shade(90, height, width), 0.0)
    (frame,) = read_frames(tmp_path / "a.mp4")
    assert frame.picture.size == (width + 1, height + 1)


def test_turned_videos_are_read_upright(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write turned videos")
        stream.set_display_rotation(90)  # shown turned to the left: what is stored at the right comes to the top
        pixels = shade(0, 32, 64)
        pixels[:, 32:] = 255
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")), *stream.encode(None)):
            container.mux(packet)
    (frame,) = read_frames(tmp_path / "a.mp4")
    assert frame.picture.size == (32, 64)
    shown = np.asarray(frame.picture)
    assert shown[:28].mean() > 200 and shown[36:].mean() < 50


def test_a_failure_leaves_no_file(tmp_path):
    pytest.importorskip("av")

    def fail():
        with write_video(tmp_path / "a.mp4") as writer:
            writer.write(shade(9), 0.0)
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_named(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(DataError, match=r"absent\.mp4: expected a readable video"):
        next(read_frames(tmp_path / "absent.mp4"))
    with write_video(tmp_path / "whole.mp4") as writer:
        for number in range(5):
            writer.write(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8), number / 5)
    content = (tmp_path / "whole.mp4").read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        (tmp_path / "a.mp4").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.mp4: expected a readable video"):
            list(read_frames(tmp_path / "a.mp4"))


def test_sound_alone_is_no_video(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.sample_rate, sound.pts = 44100, 0
        for packet in (*stream.encode(sound), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(DataError, match="found no picture in it"):
        next(read_frames(tmp_path / "a.mp4"))

"""Videos keep their sound: copied where MP4 holds its kind, else encoded anew, at the times it had."""

import numpy as np
import pytest

from tinygan.detect.video import read_frames, write_video

av = pytest.importorskip("av")
RATE = 16_000


def make(path, codec, video="mpeg4", seconds=2.0, shift=0.0):
    """A video of ten frames per second, with a click each half second; both streams start at ``shift`` seconds."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(video, rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream(codec, rate=RATE)
        for number in range(round(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * number, np.uint8), format="rgb24")
            frame.pts = number + round(10 * shift)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        samples = np.zeros(round(seconds * RATE), np.int16)
        for start in np.arange(0.5, seconds, 0.5):
            samples[round(start * RATE) : round((start + 0.05) * RATE)] = 20_000 * np.sin(np.arange(round(0.05 * RATE)))
        sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = RATE, round(shift * RATE)
        container.mux(track.encode(sound))
        container.mux(track.encode(None))


def clicks(path):
    """When something is heard, in seconds since the first picture; and the codec."""
    with av.open(str(path)) as container:
        track, pictures = container.streams.audio[0], container.streams.video[0]
        start, heard = float((pictures.start_time or 0) * pictures.time_base), []
        for frame in container.decode(track):
            loud = np.abs(frame.to_ndarray().astype(float)).mean(axis=0)
            loud = loud / (32768 if loud.max() > 2 else 1)
            for sample in np.flatnonzero(loud > 0.2):
                seconds = frame.time + sample / frame.sample_rate - start
                if not heard or seconds - heard[-1] > 0.2:
                    heard.append(seconds)
        return heard, track.codec_context.name


def copied(source, target):
    with write_video(target, sound_of=source) as writer:
        for frame in read_frames(source):
            writer.write(np.asarray(frame.picture), frame.seconds)
    return writer


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.mkv", "mp3", "mp3float"),
        ("a.avi", "pcm_s16le", "aac"),
        ("a.mov", "pcm_s16le", "aac"),
    ],
)
def test_sound_is_heard_when_it_was(tmp_path, name, codec, kept):
    make(tmp_path / name, codec)
    assert copied(tmp_path / name, tmp_path / "out.mp4").sound.problem == ""
    heard, made = clicks(tmp_path / "out.mp4")
    assert made.startswith(kept[:3]) and heard == pytest.approx([0.5, 1.0, 1.5], abs=0.1)


def test_a_video_that_starts_late_is_moved_with_its_sound(tmp_path):
    make(tmp_path / "late.mkv", "aac", shift=5.0)
    copied(tmp_path / "late.mkv", tmp_path / "out.mp4")
    assert clicks(tmp_path / "out.mp4")[0] == pytest.approx([0.5, 1.0, 1.5], abs=0.1)


def test_a_video_without_sound_stays_without(tmp_path):
    with write_video(tmp_path / "mute.mp4") as writer:
        for number in range(5):
            writer.write(np.full((48, 64, 3), 40 * number, np.uint8), number / 10)
    assert copied(tmp_path / "mute.mp4", tmp_path / "out.mp4").sound.problem == ""
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio and container.streams.video[0].frames == 5


def test_sound_that_breaks_off_costs_no_picture(tmp_path, monkeypatch):
    make(tmp_path / "a.mp4", "aac")

    from tinygan.detect import sound

    whole = sound.Sound._converted

    def breaks(self, track):
        for number, packet in enumerate(whole(self, track)):
            if number == 5:
                raise ValueError("of damage")
            yield packet

    monkeypatch.setattr(sound.Sound, "_converted", breaks)
    assert copied(tmp_path / "a.mp4", tmp_path / "out.mp4").sound.problem == "of damage"
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].frames == 20

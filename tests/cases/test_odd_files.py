"""Odd files among good ones: long names, pipes, texts that hold no boxes, videos that break off."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cases.conftest import figures
from tinygan.cli.convert import main as convert
from tinygan.detect.video import read_frames
from tinygan.errors import DataError
from tinygan.formats.images import read_image
from tinygan.formats.registry import open_detections
from tinygan.formats.sizes import read_size
from tinygan.formats.writing import write_wider


def test_names_as_long_as_the_file_system_allows(face, tmp_path, run, capsys):
    images, longest = tmp_path / "images", "x" * 251
    images.mkdir()
    for name in ("a.png", f"{'é' * 120}.png", f"{longest}.png"):
        face.save(images / name)
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 0
    assert run("rescore", "--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r") == 0
    assert len(open_detections(tmp_path / "r")) == 3 and not list((tmp_path / "r").glob(".*"))
    assert run("detect", images, "--out", tmp_path / "d") == 0
    assert {file.name for file in (tmp_path / "d").glob("*.png")} == {file.name for file in images.iterdir()}
    face.save(
        images / f"{longest}.jpg"
    )  # both now want their endings in their outputs' names, for which there is no room
    assert run("propose", "--images", images, "--out", tmp_path / "q") == 1
    error = capsys.readouterr().err
    assert error.count("the name is too long to be written; rename the picture") == 2
    assert "2 images were skipped: 0 missing, 0 unreadable, 2 failed" in error
    assert len(open_detections(tmp_path / "q")) == 2


def test_a_pipe_is_no_picture_to_wait_for(face, tmp_path, run, capsys):
    images = tmp_path / "images"
    images.mkdir()
    face.save(images / "a.png")
    for name in ("pipe.jpg", "pipe.mp4"):
        os.mkfifo(images / name)
    for read in (read_image, read_size):
        with pytest.raises(DataError, match="is a pipe, a socket or a device, and no file"):
            read(images / "pipe.jpg")
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 1
    assert "pipe.jpg: expected a readable image" in capsys.readouterr().err
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures") == 1
    assert "pipe.mp4: expected a readable video" in (error := capsys.readouterr().err) and "skipped: 2 inputs" in error


@pytest.fixture
def strays(case, tmp_path) -> Path:
    """The official text with an empty file for one of its images, and files that hold no boxes."""
    folder = tmp_path / "strays"
    write_wider(folder, case.found)
    for name, content in {
        "1--Parade/000042.txt": b"\n",
        "LICENSE.txt": b"MIT\nlicence\n",
        "run.log.txt": b"done",
        "bytes.txt": b"\xfe\x00\xf0",
    }.items():
        (folder / name).write_bytes(content)
    return folder


def test_an_empty_text_is_an_image_without_detections_to_evaluate(case, strays, tmp_path, capsys):
    (tmp_path / "fewer").mkdir()
    write_wider(tmp_path / "fewer/d", {name: one for name, one in case.found.items() if "000042" not in name})
    expected = figures(case, tmp_path / "fewer/d")
    capsys.readouterr()
    assert figures(case, strays) == pytest.approx(expected, abs=1e-12)
    error = capsys.readouterr().err
    assert "4 files were left out" in error and "1--Parade/000042: is empty, expected detections" in error
    assert "LICENSE: expected the number of boxes on line 2, got 'licence'" in error and "bytes" in error
    assert "1 of 4 images have no file, and count as without detections: 1--Parade/000042.jpg" in error
    (strays / "2--Fair/b.txt").write_text("b\n1\n1 2 3 nan 0.5\n")  # a file that is one of detections, and malformed
    with pytest.raises(AssertionError):
        figures(case, strays)
    assert "b.txt:3: expected 'x y w h score', five finite numbers" in capsys.readouterr().err


def test_texts_without_boxes_are_left_out_of_a_conversion(case, strays, tmp_path, capsys):
    assert convert([str(strays), "--to", "csv", "--out", str(tmp_path / "d.csv")]) == 1
    captured = capsys.readouterr()
    assert "wider to csv, 3 images, 16 boxes" in captured.out and "4 files were left out" in captured.err
    table = open_detections(tmp_path / "d.csv")
    assert np.allclose(table["2--Fair/b"].boxes, case.found["2--Fair/b.jpg"].boxes, atol=1e-6)
    for file in strays.rglob("*.txt"):
        file.write_text("")
    assert convert([str(strays), "--to", "csv", "--out", str(tmp_path / "e.csv")]) == 2
    assert "expected detections, found none" in capsys.readouterr().err and not (tmp_path / "e.csv").exists()


def film(path: Path, codec: str, sound: bool, frames: int = 24) -> None:
    """2.4 s of a texture that moves, and 6 s of silence."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    texture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "lag-in-frames": "0"}
        silence = container.add_stream("mp2", rate=48_000) if sound else None
        pictures = [av.VideoFrame.from_image(Image.fromarray(np.roll(texture, 3 * n, 1))) for n in range(frames)]
        for picture in (*pictures, None):
            container.mux(stream.encode(picture))
        for number in range(250 * sound):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            samples.rate, samples.pts = 48_000, 1152 * number
            container.mux(silence.encode(samples))


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize(
    ("codec", "suffix"), [("ffv1", "mkv"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("libx264", "mkv")]
)
def test_a_video_that_breaks_off_says_so(tmp_path, codec, suffix, sound):
    if sound and suffix == "webm":
        pytest.skip("WebM has no MP2")
    film(tmp_path / f"a.{suffix}", codec, sound)
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    damage: list[str] = []
    assert len(list(read_frames(tmp_path / f"a.{suffix}", damage))) == 24 and damage == []
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) * (1 if sound else 2) // 4])
    frames = list(read_frames(tmp_path / f"cut.{suffix}", damage))
    assert 1 <= len(frames) <= 20
    assert "the file breaks off after" in damage[0] and f"of 2.4 s; the {len(frames)} frames around" in damage[0]

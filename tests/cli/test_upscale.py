"""``tinygan-upscale``: a PNG for each picture; what is skipped, kept and replaced."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tinygan.cli.upscale import main
from tinygan.formats.sizes import read_size


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "a.jpg", "more/b.png")):
        Image.fromarray(data.astronaut()[60:160, 180:270]).resize((14 + number, 16)).save(folder / name)
    return folder


def run(*words: object) -> int:
    return main([*map(str, words), "--device", "cpu", "--threads", "1"])


def sizes(folder) -> dict[str, tuple[int, int]]:
    return {file.relative_to(folder).as_posix(): read_size(file) for file in sorted(folder.rglob("*.png"))}


def test_a_folder_and_a_file(faces, tmp_path, capsys):
    assert run(faces, "--out", tmp_path / "large") == 0
    assert sizes(tmp_path / "large") == {"a.jpg.png": (60, 64), "a.png.png": (56, 64), "more/b.png": (64, 64)}
    assert "3 pictures, 4 times as wide" in capsys.readouterr().out
    assert run(faces / "a.png", "--out", tmp_path / "one", "--scale", 2) == 0
    assert sizes(tmp_path / "one") == {"a.png": (28, 32)}


def test_pictures_that_are_there_are_kept_or_replaced(faces, tmp_path, capsys):
    out = tmp_path / "large"
    assert run(faces, "--out", out) == 0
    (out / "more/b.png").unlink()
    before = (out / "a.jpg.png").stat().st_mtime_ns
    assert run(faces, "--out", out) == 2
    assert "continue with --resume or replace it with --overwrite" in capsys.readouterr().err
    assert run(faces, "--out", out, "--resume", "--scale", 2) == 2
    assert "was made with other settings ('super-resolved 4x" in capsys.readouterr().err
    assert run(faces, "--out", out, "--resume") == 0
    assert "1 picture, 4 times" in capsys.readouterr().out
    assert (out / "a.jpg.png").stat().st_mtime_ns == before and (out / "more/b.png").is_file()
    assert run(faces, "--out", out, "--overwrite", "--scale", 2) == 0
    assert sizes(out)["a.jpg.png"] == (30, 32)
    Image.new("RGB", (3, 3)).save(out / "a.jpg.png")
    assert run(faces, "--out", out, "--overwrite") == 2
    assert "a.jpg.png: was not written by tinygan-upscale" in capsys.readouterr().err
    assert sizes(out)["a.jpg.png"] == (3, 3)


def test_an_output_folder_inside_the_input_is_left_out(faces, capsys):
    assert run(faces, "--out", faces / "large") == 0 and run(faces, "--out", faces / "large", "--resume") == 0
    assert "0 pictures" in capsys.readouterr().out
    assert run(faces / "a.png", "--out", faces) == 2
    assert "is an input, and would be written over" in capsys.readouterr().err


def test_one_bad_picture_costs_that_picture(faces, tmp_path, capsys):
    (faces / "broken.png").write_bytes(b"\x89PNG no more")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(faces / "anim.gif")
    assert run(faces, "--out", tmp_path / "large") == 1
    captured = capsys.readouterr()
    assert "3 pictures" in captured.out and "skipped: 1 of 4 pictures" in captured.err
    assert f"{faces / 'broken.png'}: expected a readable image" in captured.err and "1 (1 .gif)" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.png"], "absent.png: no such file or folder of pictures"),
        (["FACES", "--checkpoint", "huge"], "--checkpoint huge: no such file, folder or shipped checkpoint"),
        (["FACES", "--checkpoint", "yunet"], "these are weights of a first stage"),
    ],
)
def test_misuse_is_one_line(words, message, faces, tmp_path, capsys):
    assert run(*[faces if word == "FACES" else word for word in words], "--out", tmp_path / "large") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "large").exists()

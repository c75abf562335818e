"""``tinygan-compare``: each figure by one command, and what is said where there is nothing to draw."""

import pytest
from PIL import Image
from skimage import data

from tinygan.cli.compare import main
from tinygan.formats.sizes import read_size


@pytest.fixture
def typed(tiny_wider):
    """The words that name the drawn pictures, their faces and detections."""
    images = ["--images", str(tiny_wider.root / "WIDER_val/images")]
    truth = ["--ground-truth", str(tiny_wider.root / "wider_face_split/wider_face_val_bbx_gt.txt")]
    return {"images": images, "truth": truth, "found": ["--detections", str(tiny_wider.proposals / "val")]}


def run(figure: str, *words: object) -> int:
    return main([figure, *map(str, words), "--device", "cpu", "--threads", "1"])


def test_faces_made_small_and_enlarged(typed, tmp_path, checkpoint, capsys):
    out = tmp_path / "figure1.png"
    words = [*typed["images"], *typed["truth"], "--lr-px", 8, "--rows", 3, "--out", out]
    assert run("shrunk", *words) == 0
    assert "3 of 8 faces, 32 px made 8 px" in capsys.readouterr().out
    alone = read_size(out)
    assert run("shrunk", *words, "--checkpoint", "lite", checkpoint) == 0
    assert read_size(out)[0] == alone[0] + 164 and read_size(out)[1] == alone[1]  # G1 and G2 in place of portrait


@pytest.mark.parametrize("by", ["blur", "light", "size"])
def test_the_hardest_small_faces(typed, by, tmp_path, capsys):
    words = [*typed["images"], *typed["found"], "--min-score", 0.4, "--rows", 4, "--by", by]
    assert run("hard", *words, "--name", "val_1", "--out", tmp_path / "figure4.png") == 0
    assert f"small faces, the hardest by {by}" in capsys.readouterr().out


def test_true_faces_and_ours(typed, tmp_path, capsys):
    words = [*typed["images"], *typed["truth"], *typed["found"], "--out", tmp_path / "figure5.png"]
    assert run("found", *words, "--rows", 2) == 0
    assert "the 2 pictures with the most failures, of 4" in capsys.readouterr().out
    assert read_size(tmp_path / "figure5.png")[0] == 1024


def test_pictures_of_one_face_need_no_boxes_and_a_damaged_one_costs_itself(tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    Image.fromarray(data.astronaut()[30:180, 150:300]).save(folder / "face.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    assert run("shrunk", "--images", folder, "--out", tmp_path / "sheet.png") == 1
    captured = capsys.readouterr()
    assert "1 of 1 faces" in captured.out and "broken.png: expected a readable image" in captured.err


@pytest.mark.parametrize(
    ("figure", "more", "message"),
    [
        ("found", [], "found needs --ground-truth TRUTH and --detections D"),
        ("shrunk", ["--out", "sheet.jpg"], "expected a file name that ends in .png"),
        ("hard", ["--name", "nobody"], "no picture's name contains 'nobody'"),
        ("shrunk", ["--lr-px", "500"], "no face has a crop of 2000 px or more, of 4 pictures"),
        ("hard", ["--checkpoint", "huge"], "--checkpoint huge: no such file, folder or shipped checkpoint"),
    ],
)
def test_misuse_is_one_line(typed, figure, more, message, tmp_path, capsys):
    words = [*typed["images"], *([] if figure == "found" else typed["truth"]), "--out", tmp_path / "out.png", *more]
    assert run(figure, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out.png").exists()

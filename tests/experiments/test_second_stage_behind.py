"""The table of first stages behind which the second was put."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from experiments.second_stage_behind.run import chosen, first_stages, main, per_100_ms
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.detections import GroundTruth
from tinygan.formats.wider import format_ground_truth, load_split

FACE = np.array([179.0, 55, 270, 178])


@pytest.fixture
def root(tmp_path):
    """A WIDER FACE root of the astronaut at three sizes."""
    images = tmp_path / "data/WIDER_train/images/0--Parade"
    images.mkdir(parents=True)
    faces = {}
    for number, side in enumerate((128, 192, 256)):
        name = f"0--Parade/0_Parade_{number}.png"
        Image.fromarray(data.astronaut()).resize((side, side)).save(images.parent / name)
        faces[name] = GroundTruth((FACE * side / 512)[None].round(), np.zeros(1, dtype=bool))
    (tmp_path / "data/wider_face_split").mkdir()
    (tmp_path / "data/wider_face_split/wider_face_train_bbx_gt.txt").write_text(format_ground_truth(faces))
    return tmp_path / "data"


def test_one_command_makes_the_table(root, tmp_path, capsys):
    assert main(["--data", str(root), "--out", str(tmp_path / "out"), "--images", "2"]) == 0
    printed, report = capsys.readouterr().out, json.loads((tmp_path / "out/results.json").read_text())
    assert len(report["images"]) == 2 and (tmp_path / "out/table.md").read_text() in printed
    assert report["ms"].keys() == report["rows"].keys() and len(report["rows"]) == 12
    alone = report["rows"]["RetinaFace_(ships)_alone"]["all"]
    assert alone["points"] == alone["low"] == alone["high"] == 0 and alone["after"] == 1
    assert report["ms"]["RetinaFace_(ships)_with_lite"] > report["ms"]["RetinaFace_(ships)_alone"] > 0
    assert "| YuNet (ships) | with lite | 1.0000 | +0.00 [+0.00, +0.00] |" in printed


def test_images_that_lite_learnt_from_are_left_out(root, monkeypatch):
    split = load_split(root, "train")
    assert chosen(split, 0) == list(split.faces) and len(chosen(split, 1)) == 1
    lite = load_checkpoint(packaged_weights("lite"), ("fused",))
    monkeypatch.setattr(type(lite), "was_trained_on", lambda self, name: name.endswith("_1.png"))
    assert chosen(split, 0) == ["0--Parade/0_Parade_0.png", "0--Parade/0_Parade_2.png"]


def test_detectors_that_are_asked_for(tmp_path):
    stages = dict(first_stages([f"yunet={tmp_path / 'w.onnx'}"], tmp_path / "cv.onnx", mtcnn=True))
    ships = ["pair (ships)", "YuNet (ships)", "RetinaFace (ships)"]
    assert list(stages) == [*ships, "yunet (ONNX)", "YuNet (OpenCV)", "MTCNN"]
    assert stages["yunet (ONNX)"].config.decode == "cells" and stages["MTCNN"].config.min_face_px == 20


def test_points_per_hundred_milliseconds():
    assert per_100_ms(2.0, 50) == "+4.00" and per_100_ms(-1.0, 200) == "-0.50" and per_100_ms(1.0, -3) == "free"

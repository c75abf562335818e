"""The first look: what ``make demo`` prints, writes and opens."""

import time

import numpy as np
import pytest
from PIL import Image

from experiments.demo.show import Shown, main, open_picture, tabulate
from experiments.demo.wall import SIZE, draw_wall
from tinygan.detections import Detections, GroundTruth


def test_the_wall_is_the_same_every_time_and_its_faces_lie_inside():
    first, second, other = draw_wall(3), draw_wall(3), draw_wall(4)
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image)) and first.image.size == SIZE
    assert not np.array_equal(first.truth.boxes, other.truth.boxes)
    boxes = first.truth.boxes
    heights = boxes[:, 3] - boxes[:, 1]
    assert len(boxes) > 20 and heights.min() < 10 and (boxes >= 0).all() and (boxes[:, 2:] <= SIZE).all()


def test_table_counts_by_hand():
    truth = GroundTruth(np.array([[0.0, 0, 10, 10], [50, 0, 70, 20]]), np.zeros(2, dtype=bool))
    stray = [200.0, 0, 210, 10]
    before = Detections([truth.boxes[0], stray, truth.boxes[1]], [0.9, 0.8, 0.7])
    after = Detections([truth.boxes[0], stray, truth.boxes[1]], [0.9, 0.1, 0.7])
    table = tabulate({"one": [Shown(Image.new("RGB", (300, 30)), truth, before, after)]})
    assert list(table.rows[1]) == ["one", "2", "15 px", "0.8333", "1.0000", "+16.67", "50 %", "100 %"]


def test_the_demonstration(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--crowds", "1", "--no-open"]) == 0
    printed = capsys.readouterr().out
    assert "real people, shrunk" in printed and "drawn crowds" in printed and "found:" in printed
    with Image.open(tmp_path / "real_people_shrunk.png") as picture:
        assert picture.width > 2 * SIZE[0]
    assert (tmp_path / "drawn_crowds.png").is_file()


@pytest.mark.parametrize(
    ("environment", "opened"),
    [
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "w"}, True),
        ({"DISPLAY": ":0", "CI": "true"}, False),
        ({}, False),
    ],
)
def test_a_picture_is_opened_on_a_desktop_alone(environment, opened, tmp_path):
    viewer, seen = tmp_path / "xdg-open", tmp_path / "seen"
    viewer.write_text(f'#!/bin/sh\n/bin/echo "$1" > {seen}.partial && /bin/mv {seen}.partial {seen}\n')
    viewer.chmod(0o755)
    assert open_picture(tmp_path / "a.png", {"PATH": str(tmp_path), **environment}) is opened
    waited = time.monotonic()
    while opened and not seen.is_file() and time.monotonic() < waited + 60:
        time.sleep(0.02)
    assert seen.is_file() is opened and (not opened or seen.read_text() == f"{tmp_path / 'a.png'}\n")
    assert not open_picture(tmp_path / "a.png", {"PATH": str(tmp_path / "nothing"), "DISPLAY": ":0"})
